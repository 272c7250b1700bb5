"""Run peers' own tests, and programs built on peers, plainly and with `ssh_service.paramiko`."""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tarfile
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Iterable, List

from tests.peers.compare import compare
from tests.peers.server import serve
from tests.peers.suites import SUITES
from tests.peers.users import PROGRAMS, compare_program


def main() -> int:
    """Run what the arguments name; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.peers", description=__doc__)
    names = [*SUITES, *PROGRAMS]
    parser.add_argument("peer", nargs="*", help=f"of {', '.join(names)}; all that are installed")
    parser.add_argument(
        "--source", type=Path, help="the folder of the one peer's source release; else downloaded"
    )
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.peer) - set(names))
    if unknown or (arguments.source and len(arguments.peer) != 1):
        parser.error(f"unknown: {', '.join(unknown)}" if unknown else "--source needs one peer")
    began = time.monotonic()
    wrong: List[str] = []
    done: List[str] = []
    for name in arguments.peer or names:
        module = PROGRAMS[name].module if name in PROGRAMS else name
        if not arguments.peer and not _is_installed(module):
            print(f"{name}: SKIPPED: not installed")
            continue
        with tempfile.TemporaryDirectory(prefix="ssh-service-peer-") as folder:
            try:
                wrong += _check(name, arguments.source, Path(folder))
            except (LookupError, OSError, subprocess.CalledProcessError) as error:
                wrong.append(f"{name}: {error}")  # the others can be compared all the same
        done.append(name)
    verdict = f"{len(wrong)} faults" if wrong else "as without us"
    print("", *wrong, sep="\n")
    print(f"== {', '.join(done)}: {verdict} in {time.monotonic() - began:.0f} s ==")
    return 1 if wrong or not done else 0


def _check(name: str, source: Path, folder: Path) -> Iterable[str]:
    for part in ("server", "work", "release"):
        (folder / part).mkdir()
    with serve(folder / "server") as server:
        if name in PROGRAMS:
            return compare_program(name, server)
        return compare(name, source or download(name, folder / "release"), server, folder / "work")


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def download(name: str, folder: Path) -> Path:
    """Fetch the source release of the version that is installed, and return its folder."""
    wanted = f"{name}=={metadata.version(name)}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--no-binary", name, "--dest", str(folder), wanted]
    subprocess.run(command, check=True)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder / "unpacked")
    (release,) = (folder / "unpacked").iterdir()
    return release


if __name__ == "__main__":
    sys.exit(main())
