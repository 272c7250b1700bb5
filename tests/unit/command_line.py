"""
The command line inside this process: a process of its own costs a third of a second of CPU each.

What concerns signals, terminals, closed pipes or what is loaded needs a process all the same.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
from typing import Any
from unittest import mock

from ssh_service import cli

__all__ = ["complaint_of", "in_process"]


class _Captured(io.TextIOWrapper):
    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True)

    def text(self) -> str:
        buffer: Any = self.buffer
        return str(buffer.getvalue(), "utf-8")


def in_process(*arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    """Run a command line; return what its own process would have left."""
    out, err = _Captured(), _Captured()
    given = io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8", newline="\n")
    with mock.patch("sys.stdin", given), contextlib.redirect_stdout(
        out
    ), contextlib.redirect_stderr(err):
        status = cli.main(list(arguments))
    return subprocess.CompletedProcess(list(arguments), status, out.text(), err.text())


def complaint_of(done: "subprocess.CompletedProcess[str]") -> str:
    """Return the one line of a complaint."""
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "Traceback" not in line
    return line
