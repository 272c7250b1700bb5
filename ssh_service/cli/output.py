"""Handle errors in writing the program's own output."""

from __future__ import annotations

import os
import sys
from typing import Any, Optional

__all__ = ["flush_or_drop"]


def flush_or_drop() -> Optional[OSError]:
    """
    Flush standard output and error, discard unwritable data, and return stdout's error.

    Python flushes both streams again when it exits; an error at that time would print "Exception
    ignored" and change the exit status to 120.
    """
    _flush_or_drop(sys.stderr)
    return _flush_or_drop(sys.stdout)


def _flush_or_drop(stream: Any) -> Optional[OSError]:
    if stream is None:  # closed before this process started
        return None
    try:
        stream.flush()
    except OSError as error:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
        stream.flush()
        return error
    except ValueError:
        pass  # closed, and therefore flushed
    return None
