"""The progress of a copy: counted by its tasks, reported a few times per second."""

from __future__ import annotations

import time
from typing import Callable, NamedTuple, Optional, Tuple, Union

from ssh_service.errors import SshConfigError

__all__ = ["Meter", "Progress", "ProgressCallback", "ProgressTo"]

# The minimum interval between two reports, in seconds.
_REPORT_INTERVAL = 0.1


class Progress(NamedTuple):
    """
    The progress of a copy.

    A total is None until it is known, that is, until all folders have been listed.
    """

    bytes_done: int
    bytes_total: Optional[int]
    files_done: int
    files_total: Optional[int]


ProgressCallback = Callable[[Progress], None]


class Meter:
    """
    Counts the bytes and files of one copy.

    Parameters
    ----------
    tell : Optional[Callable[[Progress], None]]
        Called on the copy's own thread; if it raises, the copy is aborted.

    Raises
    ------
    SshConfigError
        `tell` is not callable.

    Attributes
    ----------
    is_observed : bool
        Whether a function was given.
    """

    def __init__(self, tell: Optional[ProgressCallback]) -> None:
        if tell is not None and not callable(tell):
            raise SshConfigError(f"progress: expected a function, got {tell!r}")
        self._callback = tell
        self.is_observed = tell is not None
        self._reported_at = time.monotonic()
        self._bytes_done = self._bytes_total = self._files_done = self._files_total = 0
        self._total_is_known = False

    def expect(self, size: int) -> None:
        """Add one file of `size` bytes to the totals."""
        self._files_total += 1
        self._bytes_total += size

    def expect_no_more(self) -> None:
        """Declare the totals complete."""
        self._total_is_known = True

    def advance(self, size: int) -> None:
        """Count `size` bytes as copied."""
        self._bytes_done += size

    def file_done(self) -> None:
        """Count one file as copied."""
        self._files_done += 1

    def take_back(self, size: int) -> None:
        """Count one file of `size` bytes as not copied, because it is copied again."""
        self._bytes_done -= size
        self._files_done -= 1

    @property
    def reading(self) -> Tuple[int, int]:
        """The bytes and the files copied so far."""
        return self._bytes_done, self._files_done

    def go_back(self, reading: Tuple[int, int]) -> None:
        """Return to an earlier reading, because everything since then is copied again."""
        self._bytes_done, self._files_done = reading

    def restart(self) -> None:
        """Reset all counts, because the whole copy is repeated."""
        self._bytes_done = self._bytes_total = self._files_done = self._files_total = 0
        self._total_is_known = False

    def report(self) -> None:
        """Report the progress, unless it was reported a moment ago."""
        now = time.monotonic()
        if now - self._reported_at >= _REPORT_INTERVAL:
            self._reported_at = now
            self.finish()

    def finish(self) -> None:
        """Report the progress now."""
        if self._callback is None:
            return
        known = self._total_is_known
        self._callback(
            Progress(
                self._bytes_done,
                self._bytes_total if known else None,
                self._files_done,
                self._files_total if known else None,
            )
        )


# A function to call, or a meter that the caller reads after the copy.
ProgressTo = Union[ProgressCallback, Meter]
