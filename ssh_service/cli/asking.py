"""Ask for a secret on the terminal."""

from __future__ import annotations

import getpass
import os
import signal
import sys
from typing import Any

import click

from ssh_service.cli.signals import signals_named
from ssh_service.secret import Secret

__all__ = ["ask_secret"]


def ask_secret(option: str, prompt: str) -> Secret:
    """
    Ask for a secret on the terminal, without showing it; `option` is for messages.

    Raises
    ------
    click.UsageError
        There is no terminal, or nothing was typed.
    """
    try:
        _open_terminal()
    except OSError as error:
        raise click.UsageError(f"{option}: there is no terminal on which to ask") from error
    # A signal must not end the process before `getpass` has restored the terminal.
    numbers = signals_named("SIGTERM", "SIGHUP", "SIGQUIT")
    before = {number: signal.signal(number, _exit) for number in numbers}
    try:
        secret = Secret(getpass.getpass(prompt))
    except EOFError:
        secret = Secret("")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if not secret:
        raise click.UsageError(f"{option}: nothing was typed")
    return secret


def _open_terminal() -> None:
    """Raise an error if there is no terminal."""
    if sys.platform == "win32":
        os.close(os.open("CONIN$", os.O_RDWR))
    else:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))


def _exit(number: int, _: Any) -> None:
    raise click.exceptions.Exit(128 + number)
