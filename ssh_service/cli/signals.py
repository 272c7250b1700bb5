"""The signals that end the program, as far as the system has them."""

from __future__ import annotations

import signal
from typing import List

__all__ = ["CLOSED_OUTPUT_STATUS", "signals_named"]

# The exit status if nobody reads the output, as if SIGPIPE had ended the process.
CLOSED_OUTPUT_STATUS = 128 + 13


def signals_named(*names: str) -> List[signal.Signals]:
    """Return the signals with these names; those that the system lacks are left out."""
    return [signal.Signals[name] for name in names if name in signal.Signals.__members__]
