"""What becomes of the program's own output when it cannot be written."""

from __future__ import annotations

import os
import sys
from typing import Any, Optional

__all__ = ["flush_or_drop"]


def flush_or_drop() -> Optional[OSError]:
    """
    Write what standard output and error still hold; drop what cannot be written.

    Python flushes both once more when it ends, and would say "Exception ignored" and exit with
    status 120, whatever the status of the program.
    """
    _flush_or_drop(sys.stderr)
    return _flush_or_drop(sys.stdout)


def _flush_or_drop(stream: Any) -> Optional[OSError]:
    if stream is None:  # closed before this process began
        return None
    try:
        stream.flush()
    except OSError as error:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
        stream.flush()
        return error
    except ValueError:
        pass  # closed, and so flushed
    return None
