"""
Run the tests that meet mlos_bench against a checkout of its development version.

``SSH_SERVICE_MLOS_HEAD=~/MLOS tox -e mloshead`` names the checkout; without it, nothing runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

VARIABLE = "SSH_SERVICE_MLOS_HEAD"
TESTS = ["tests/mlos", *(f"tests/unit/test_{name}.py" for name in ("base_service", "services"))]


def main() -> int:
    """Install the checkout into this environment, and run the tests; return the exit status."""
    named = os.environ.get(VARIABLE)
    if not named:
        print(f"SKIPPED: {VARIABLE} names no checkout of mlos_bench's source")
        return 0
    checkout = Path(named).expanduser()
    packages = [str(checkout / name) for name in ("mlos_core", "mlos_bench")]
    install = [sys.executable, "-m", "pip", "install", "--quiet", *packages, "pytz"]
    subprocess.run(install, check=True)
    return subprocess.run([sys.executable, "-m", "pytest", *(sys.argv[1:] or TESTS)]).returncode


if __name__ == "__main__":
    sys.exit(main())
