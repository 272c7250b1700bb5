"""How much was copied, and how fast."""

from __future__ import annotations

import time
from collections import deque
from typing import Callable, Deque, Dict, Optional, Tuple

from ssh_service.copying import Progress

__all__ = ["Copied", "CopyRate", "size_in_words"]

# Seconds over which a rate is measured.
_SPAN = 5.0


class CopyRate:
    """The rate of one copy over the last seconds, in bytes per second."""

    def __init__(self, clock: Optional[Callable[[], float]] = None) -> None:
        self._clock = clock or time.monotonic
        self._samples: Deque[Tuple[float, int]] = deque()

    def add(self, done: int) -> None:
        """Add the number of bytes that were copied until now."""
        now, samples = self._clock(), self._samples
        if samples and done < samples[-1][1]:
            samples.clear()  # the copy began again
        samples.append((now, done))
        # One sample from before the span stays, so that there is always a difference.
        while len(samples) > 2 and samples[1][0] < now - _SPAN:
            samples.popleft()

    def rate(self) -> Optional[float]:
        """Return the rate; None if it is unknown yet.  It falls while no progress is reported."""
        samples = list(self._samples)  # another thread may add one
        if len(samples) < 2:
            return None
        (began, first), last = samples[0], samples[-1][1]
        return (last - first) / max(self._clock() - began, 0.001)


class Copied:
    """Adds up what all hosts have copied, for the last line."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._of_hosts: Dict[str, Progress] = {}

    def add(self, host: str, progress: Progress) -> None:
        """Set the progress of a host; from any thread."""
        self._of_hosts[host] = progress

    def has_any(self) -> bool:
        """Return whether anything was copied."""
        return any(one.files_done or one.bytes_done for one in list(self._of_hosts.values()))

    def __str__(self) -> str:
        files = sum(progress.files_done for progress in self._of_hosts.values())
        size = sum(progress.bytes_done for progress in self._of_hosts.values())
        seconds = time.monotonic() - self._began
        return (
            f"{files} {'file' if files == 1 else 'files'}, {size_in_words(size)} in"
            f" {seconds:.1f} s ({size_in_words(size / max(seconds, 0.001))}/s)"
        )


def size_in_words(number: float) -> str:
    """Return a number of bytes with its unit, such as ``12.3 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
