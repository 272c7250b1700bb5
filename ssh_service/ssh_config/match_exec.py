"""Runs the command of a ``Match exec``, which the caller must have allowed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import List, Union

from ssh_service.errors import SshConfigError

__all__ = ["succeeds"]

_TIMEOUT = 10.0  # the time limit of the command, in seconds


def succeeds(command: str, origin: str) -> bool:
    """
    Run a command in the user's shell; return whether its exit status is 0.

    Raises
    ------
    SshConfigError
        The shell does not exist, or the command did not end within 10 s and was killed with all
        its child processes; on Windows, without these.
    """
    if sys.platform == "win32":
        shell = os.environ.get("COMSPEC") or "cmd.exe"
        words: Union[str, List[str]] = f'"{shell}" /d /s /c "{command}"'
    else:
        shell = os.environ.get("SHELL") or "/bin/sh"
        words = [shell, "-c", command]
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # so that it can be killed with all its child processes
        )
    except OSError as error:
        raise SshConfigError(
            f"{origin}: Match exec cannot be run by {shell!r}: {error.strerror}"
        ) from error
    try:
        return process.wait(_TIMEOUT) == 0
    except subprocess.TimeoutExpired:
        raise SshConfigError(f"{origin}: Match exec did not end within {_TIMEOUT:g} s") from None
    finally:
        if process.returncode is None:
            _kill(process)
            process.wait()


def _kill(process: "subprocess.Popen[bytes]") -> None:
    if sys.platform == "win32":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)
