"""How long a copy may take, and how long it may stand still."""

from __future__ import annotations

import threading
import time
from typing import NamedTuple, Optional

__all__ = ["Stalled", "TimeLimits", "TimeUp"]


class Stalled(Exception):
    """Nothing moved for as long as the caller allowed."""


class TimeUp(Exception):
    """The whole copy took longer than the caller allowed."""


class TimeLimits(NamedTuple):
    """
    The two limits of one copy.

    Attributes
    ----------
    timeout : Optional[float]
        Seconds for the whole copy, as the caller gave them; None: no limit.
    stall_timeout : Optional[float]
        Seconds in which something must move; None: no limit.
    deadline : Optional[float]
        The monotonic instant at which `timeout` is over.
    """

    timeout: Optional[float] = None
    stall_timeout: Optional[float] = None
    deadline: Optional[float] = None

    @classmethod
    def from_now(
        cls, timeout: Optional[float] = None, stall_timeout: Optional[float] = None
    ) -> TimeLimits:
        """
        Let the time begin.

        Parameters
        ----------
        timeout : Optional[float]
            Seconds for everything from now on.
        stall_timeout : Optional[float]
            Seconds in which something must move.
        """
        longest = threading.TIMEOUT_MAX
        if stall_timeout is not None:
            stall_timeout = min(stall_timeout, longest)
        deadline = None if timeout is None else time.monotonic() + min(timeout, longest / 2)
        return cls(timeout, stall_timeout, deadline)

    def next_wait(self) -> Optional[float]:
        """
        Tell how many seconds the next wait may take; None: no limit.

        Raises
        ------
        TimeUp
            There are none left.
        """
        if self.deadline is None:
            return self.stall_timeout
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeUp()
        return left if self.stall_timeout is None else min(left, self.stall_timeout)

    def raise_if_expired(self) -> None:
        """Raise `TimeUp` if the whole time is over."""
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise TimeUp()
