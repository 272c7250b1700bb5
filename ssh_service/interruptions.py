"""Exceptions that a signal handler, or another function of the user's, raised in our code."""

from __future__ import annotations

import os
from types import FrameType
from typing import Optional

__all__ = ["find_interruption", "is_interruption", "raise_interruption"]

_OUR_PACKAGES = frozenset(["ssh_service", "paramiko", "cryptography", "nacl", "bcrypt"])
_STANDARD_LIBRARY = os.path.dirname(os.__file__) + os.sep
# How far a chain of causes is followed.
_MAX_CHAIN = 20


def is_interruption(error: BaseException) -> bool:
    """
    Return whether an exception is not a failure of what we did, but came from outside.

    Ctrl-C, `sys.exit` and the like are known by their type.  The time limit of a task queue, which
    a signal handler raises, may be any exception, even a `TimeoutError`: it is known by the
    function that raised it, which is neither ours nor of a library below us.
    """
    if _is_our_error(error):
        return False
    if not isinstance(error, Exception):
        return True
    traceback = error.__traceback__
    if traceback is None:
        return False
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return not _is_our_frame(traceback.tb_frame)


def raise_interruption(error: BaseException) -> None:
    """Raise an exception again if it is an interruption, before it is ignored as a failure."""
    if is_interruption(error):
        raise error


def _is_our_error(error: BaseException) -> bool:
    """Return whether it is one of our errors, or ends a coroutine of ours."""
    package = type(error).__module__.partition(".")[0]
    return isinstance(error, GeneratorExit) or package in _OUR_PACKAGES


def _is_our_frame(frame: FrameType) -> bool:
    package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    path = frame.f_code.co_filename
    return (
        package in _OUR_PACKAGES
        or path.startswith("<frozen ")
        or (path.startswith(_STANDARD_LIBRARY) and "-packages" + os.sep not in path)
    )


def find_interruption(
    error: BaseException, outer: Optional[BaseException]
) -> Optional[BaseException]:
    """
    Return the interruption that `error` is, or that it followed from.

    Parameters
    ----------
    error : BaseException
        The exception that was caught.
    outer : Optional[BaseException]
        The exception that was handled when our code was called; chains are followed up to it.
    """
    seen: Optional[BaseException] = error
    for _ in range(_MAX_CHAIN):
        if seen is None or seen is outer:
            break
        if is_interruption(seen):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None
