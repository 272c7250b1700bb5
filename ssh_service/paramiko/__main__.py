"""``python -m ssh_service.paramiko [-m] PROGRAM ARGS``: run a program whose clients share."""

from __future__ import annotations

import os
import runpy
import shutil
import sys
from typing import List

from ssh_service.paramiko import install

_USAGE = "usage: python -m ssh_service.paramiko [-m] PROGRAM [ARGUMENT ...]"


def main(arguments: List[str]) -> None:
    """Run a program, by its path, its name on PATH or (with ``-m``) its module."""
    by_name = arguments[:1] == ["-m"]
    arguments = arguments[by_name:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE, file=sys.stdout if arguments else sys.stderr)
        sys.exit(0 if arguments else 2)
    program = arguments[0]
    install()
    if by_name:
        sys.argv[:] = [program, *arguments[1:]]
        sys.path.insert(0, os.getcwd())
        runpy.run_module(program, run_name="__main__", alter_sys=True)
        return
    if not os.path.exists(program):
        found = shutil.which(program)
        if found is None:
            sys.exit(f"ssh_service.paramiko: no such program: {program}\n{_USAGE}")
        program = found
    sys.argv[:] = [program, *arguments[1:]]
    sys.path[0] = os.path.dirname(os.path.abspath(program))
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
