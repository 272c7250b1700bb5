"""How far a copy is: counted by its tasks, told a few times a second."""

from __future__ import annotations

import time
from typing import Callable, NamedTuple, Optional, Tuple, Union

from ssh_service.errors import SshConfigError

__all__ = ["Meter", "Progress", "ProgressCallback", "ProgressTo"]

# Seconds between two reports.
_REPORT_INTERVAL = 0.1


class Progress(NamedTuple):
    """
    How far a copy is.

    A total is None while it is not known, which is until all folders have been listed.
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
        Told of them, on the copy's own thread; what it raises ends the copy.

    Raises
    ------
    SshConfigError
        `tell` is no function.

    Attributes
    ----------
    is_observed : bool
        Whether anyone is told.
    """

    def __init__(self, tell: Optional[ProgressCallback]) -> None:
        if tell is not None and not callable(tell):
            raise SshConfigError(f"progress: expected a function, got {tell!r}")
        self._tell = tell
        self.is_observed = tell is not None
        self._told = time.monotonic()
        self._bytes_done = self._bytes_total = self._files_done = self._files_total = 0
        self._total_is_known = False

    def expect(self, size: int) -> None:
        """Note that there is one more file to copy."""
        self._files_total += 1
        self._bytes_total += size

    def expect_no_more(self) -> None:
        """Note that the totals are known."""
        self._total_is_known = True

    def advance(self, size: int) -> None:
        """Note that `size` bytes have arrived."""
        self._bytes_done += size

    def file_done(self) -> None:
        """Note that one more file is in its place."""
        self._files_done += 1

    @property
    def reading(self) -> Tuple[int, int]:
        """How many bytes have arrived, and files are in their place."""
        return self._bytes_done, self._files_done

    def go_back(self, reading: Tuple[int, int]) -> None:
        """Note that what came since counts for nothing: it is copied once more."""
        self._bytes_done, self._files_done = reading

    def restart(self) -> None:
        """Begin anew: all of the copy is done once more."""
        self._bytes_done = self._bytes_total = self._files_done = self._files_total = 0
        self._total_is_known = False

    def report(self) -> None:
        """Tell how far it is, unless that was told a moment ago."""
        now = time.monotonic()
        if now - self._told >= _REPORT_INTERVAL:
            self._told = now
            self.finish()

    def finish(self) -> None:
        """Tell how far it is, now."""
        if self._tell is None:
            return
        known = self._total_is_known
        self._tell(
            Progress(
                self._bytes_done,
                self._bytes_total if known else None,
                self._files_done,
                self._files_total if known else None,
            )
        )


# Whom to tell; or what counts, for a caller who looks at it when the copy is over, or has failed.
ProgressTo = Union[ProgressCallback, Meter]
