"""The limits on the time that a copy may take."""

from __future__ import annotations

import threading
import time
from typing import NamedTuple, Optional

__all__ = ["Stalled", "TimeLimits", "TimeUp"]


class Stalled(Exception):
    """There was no progress for `stall_timeout` seconds."""


class TimeUp(Exception):
    """The whole copy took longer than its timeout."""


class TimeLimits(NamedTuple):
    """
    The two time limits of one copy.

    Attributes
    ----------
    timeout : Optional[float]
        Seconds for the whole copy, as given by the caller; None: no limit.
    stall_timeout : Optional[float]
        Seconds without progress after which the copy fails; None: no limit.
    deadline : Optional[float]
        The time at which `timeout` expires, by the monotonic clock; None: no limit.
    """

    timeout: Optional[float] = None
    stall_timeout: Optional[float] = None
    deadline: Optional[float] = None

    @classmethod
    def from_now(
        cls, timeout: Optional[float] = None, stall_timeout: Optional[float] = None
    ) -> TimeLimits:
        """Return limits that start now."""
        longest = threading.TIMEOUT_MAX
        if stall_timeout is not None:
            stall_timeout = min(stall_timeout, longest)
        deadline = None if timeout is None else time.monotonic() + min(timeout, longest / 2)
        return cls(timeout, stall_timeout, deadline)

    def next_wait(self) -> Optional[float]:
        """
        Return the number of seconds that the next wait may take; None: no limit.

        Raises
        ------
        TimeUp
            The timeout of the whole copy has expired.
        """
        if self.deadline is None:
            return self.stall_timeout
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeUp()
        return left if self.stall_timeout is None else min(left, self.stall_timeout)

    def raise_if_expired(self) -> None:
        """Raise `TimeUp` if the timeout of the whole copy has expired."""
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise TimeUp()
