"""Limits the bytes per second of one copy, by pausing its thread."""

from __future__ import annotations

import time
from typing import Callable, Optional

from ssh_service.copying.sftp.client import SftpClient

__all__ = ["RateLimit"]

# The maximum length of a pause, and the time that one part of a file takes, in seconds.
_PAUSE = 0.1
# The minimum size of a part of a file, in bytes.
_MIN_PART = 1024


class RateLimit:
    """
    The limit of one copy.

    Parameters
    ----------
    rate : float
        Bytes per second.
    client : SftpClient
        The copy's client, whose queued requests are sent before a pause.
    on_pause : Optional[Callable[[], None]]
        Called regularly during pauses, to report progress; if it raises, the copy ends.
    """

    def __init__(
        self, rate: float, client: SftpClient, on_pause: Optional[Callable[[], None]] = None
    ) -> None:
        self._rate = rate
        self._client = client
        self._on_pause = on_pause
        self._free_at = 0.0  # when the bytes spent so far are within the limit

    def part_size(self, most: int) -> int:
        """Return the size of the parts in which a file is read or written, at most `most`."""
        return max(_MIN_PART, int(min(most, self._rate * _PAUSE)))

    @property
    def bytes_in_flight(self) -> int:
        """The limit on unconfirmed bytes: those of half a second."""
        return max(_MIN_PART, int(min(self._rate / 2, 2**40)))

    def spend(self, size: int) -> None:
        """
        Wait until more bytes may be requested or sent, and count `size` of them.

        Raises
        ------
        TimeUp
            The deadline of the copy has passed.
        """
        now = time.monotonic()
        if now < self._free_at:
            self._client.flush()
        while now < self._free_at:
            self._client.raise_if_late()
            time.sleep(min(self._free_at - now, _PAUSE))
            if self._on_pause is not None:
                self._on_pause()
            now = time.monotonic()
        self._free_at = now + size / self._rate
