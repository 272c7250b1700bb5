"""Starting threads: a refusal by the system is not confused with a signal handler's exception."""

from __future__ import annotations

import logging
import sys
import threading
from typing import Callable

from ssh_service.interruptions import find_interruption

__all__ = ["NoMoreThreads", "log_refusal", "start_thread"]


class NoMoreThreads(RuntimeError):
    """The system refuses to start another thread."""


def start_thread(function: Callable[[], None], name: str) -> threading.Thread:
    """
    Start a daemon thread.

    Raises
    ------
    NoMoreThreads
        The system refuses.
    """
    outer = sys.exc_info()[1]
    thread = threading.Thread(target=function, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        interruption = find_interruption(error, outer)
        if interruption is not None:
            raise interruption
        raise NoMoreThreads(str(error)) from error
    return thread


def log_refusal(log: logging.Logger, text: str) -> None:
    """
    Log that something waits for the threads there are, as the system gives no more.

    While the interpreter exits this is to be expected: from 3.12 on Python starts no thread then,
    and those that run do what is left.
    """
    if threading.main_thread().is_alive():
        log.error("%s", text)
