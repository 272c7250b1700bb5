"""Starts a throw-away sshd, and ``check.py`` in a Windows Python: see ``run.sh``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from ssh_service.testing.local_sshd import Sshd

# Seconds for all checks.
_TIMEOUT = 1500


def main() -> int:
    """Run the checks; the arguments are wine, the interpreter, and parts of checks' names."""
    wine, python, *names = sys.argv[1:]
    byte_code = f"pycache_prefix={_windows_path(str(Path(python).parent / 'byte_code'))}"
    check = Path(__file__).with_name("check.py")
    with tempfile.TemporaryDirectory(prefix="ssh-service-wine-") as name:
        folder = Path(name)
        (folder / "server").mkdir()
        (folder / "files").mkdir()
        with Sshd(folder / "server", {"MaxStartups": "100:30:200"}) as server:
            facts = {
                "host": server.host,
                "port": server.port,
                "username": server.username,
                "client_key": _windows_path(server.client_key),
                "known_hosts": _windows_path(server.known_hosts),
                "folder": str(folder / "files"),
            }
            # A pipe: wine's standard streams cannot be files of this machine.
            process = subprocess.Popen(
                [wine, python, "-X", "utf8", "-X", byte_code, _windows_path(str(check)), *names],
                env={**os.environ, "SSH_SERVICE_FACTS": json.dumps(facts)},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    sys.stdout.write(line.decode("utf-8", "replace").replace("\r\n", "\n"))
                    sys.stdout.flush()
                return process.wait(_TIMEOUT)
            finally:
                process.kill()
                process.wait()


def _windows_path(path: str) -> str:
    return "Z:" + path.replace("/", "\\")


if __name__ == "__main__":
    sys.exit(main())
