"""Runs the command of a ``Match exec``, which the caller must have allowed."""

from __future__ import annotations

import os
import signal
import subprocess

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
        its child processes.
    """
    shell = os.environ.get("SHELL") or "/bin/sh"
    try:
        process = subprocess.Popen(
            [shell, "-c", command],
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
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
