"""Ask for a secret on the terminal."""

from __future__ import annotations

import getpass
import os
import signal
from typing import Any

import click

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
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError as error:
        raise click.UsageError(f"{option}: there is no terminal on which to ask") from error
    # A signal must not end the process before `getpass` has restored the terminal.
    numbers = [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT]
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


def _exit(number: int, _: Any) -> None:
    raise click.exceptions.Exit(128 + number)
