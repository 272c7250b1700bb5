"""The errors of sockets, by the numbers that the system reports."""

from __future__ import annotations

import os
import sys

if sys.platform == "win32":
    import ctypes

__all__ = ["socket_error"]


def socket_error(code: int) -> OSError:
    """Return the error for the result of `connect_ex`, or the value of ``SO_ERROR``."""
    if sys.platform == "win32":  # `os.strerror` does not know the numbers of sockets there
        return OSError(code, ctypes.FormatError(code).strip().rstrip("."))
    return OSError(code, os.strerror(code))
