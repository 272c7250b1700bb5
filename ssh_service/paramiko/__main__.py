"""``python -m ssh_service.paramiko [-m] PROGRAM ARGS``: run a program with shared connections."""

from __future__ import annotations

import importlib.util
import os
import runpy
import shutil
import sys
import zipfile
from typing import List, NoReturn, Optional

import ssh_service
from ssh_service.paramiko import install

_USAGE = "usage: python -m ssh_service.paramiko [-m] PROGRAM [ARGUMENT ...]"
_HELP = f"""{_USAGE}

Run a program written for paramiko, unchanged, so that its SSHClients share connections.

PROGRAM   the path of a Python program, or its name on the PATH; with -m: a module
ARGUMENT  passed to the program

The settings are the default ones: connections are kept for 60 s.  To change them, the program
calls ssh_service.paramiko.configure(linger=..., share=...).  See docs/drop_in.md of ssh_service.
"""


def main(arguments: List[str]) -> None:
    """Run a program, given by its path, its name on PATH or (with ``-m``) its module."""
    by_name = arguments[:1] == ["-m"]
    arguments = arguments[by_name:]
    if arguments[:1] in (["-h"], ["--help"]):
        print(_HELP, end="")
        return
    if not arguments:
        print(f"ssh_service.paramiko: no program is given\n{_USAGE}", file=sys.stderr)
        sys.exit(2)
    # pytest warns about a package with a plugin that was imported before.
    ssh_service.__doc__ = f"{ssh_service.__doc__}\nPYTEST_DONT_REWRITE"
    program = arguments[0]
    if by_name:
        if not _has_safe_path():
            sys.path.insert(0, os.getcwd())
        _check_module(program)
        install()
        sys.argv[:] = arguments
        runpy.run_module(program, run_name="__main__", alter_sys=True)
        return
    path = os.path.abspath(_find(program))
    is_folder = os.path.isdir(path) or zipfile.is_zipfile(path)
    _check_program(path, is_folder)
    install()
    sys.argv[:] = [path, *arguments[1:]]
    if not _has_safe_path():
        sys.path[0] = path if is_folder else os.path.dirname(path)
    runpy.run_path(path, run_name="__main__")


def _has_safe_path() -> bool:
    """Return whether Python adds no folder of the program's to `sys.path`, as with ``-P``."""
    return bool(sys.flags.isolated or getattr(sys.flags, "safe_path", False))


def _find(program: str) -> str:
    if os.path.exists(program):
        return program
    found = shutil.which(program)
    if found is None and program.startswith("-"):
        _fail(f"options of Python are not taken: {program}; give a file, or -m MODULE\n{_USAGE}")
    if found is None:
        _fail(f"no such program: {program}\n{_USAGE}")
    return found


def _check_module(name: str) -> None:
    try:
        found: Optional[object] = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):
            raise  # a package imports a module that does not exist
        found = None
    except ValueError:  # for example, a name that begins with a dot
        found = None
    if found is None:
        _fail(f"no module named {name}")


def _check_program(path: str, is_folder: bool) -> None:
    """Exit if a file is not Python; errors in a Python program are reported by Python."""
    if is_folder:
        if os.path.isdir(path) and not os.path.exists(os.path.join(path, "__main__.py")):
            _fail(f"the folder has no __main__.py: {path}")
        return
    if path.endswith(".pyc"):
        return
    try:
        with open(path, "rb") as file:
            source = file.read()
    except OSError as error:
        _fail(f"cannot read {path}: {error.strerror}")
    try:
        compile(source, path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        first = source.partition(b"\n")[0]
        other = first.startswith(b"#!") and b"python" not in first
        if other or b"\0" in source:
            _fail(f"not a Python program: {path}")


def _fail(message: str) -> NoReturn:
    sys.exit(f"ssh_service.paramiko: {message}")


if __name__ == "__main__":
    main(sys.argv[1:])
