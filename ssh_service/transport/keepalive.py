"""How long a server may be silent: when it is asked for a sign of life, and when given up."""

from __future__ import annotations

from typing import Tuple

from paramiko.ssh_exception import SSHException


class KeepaliveTimeout(SSHException):  # type: ignore[misc]
    """Nothing was heard from the peer for as long as its keepalives allow."""


class KeepaliveMonitor:
    """
    The accounts of a connection's keepalives.

    See docs/paramiko_repairs.md#silent-peer.  What counts is unanswered questions, not time
    alone: this process may have been stopped.

    Parameters
    ----------
    interval : float
        Seconds of silence after which the server is asked for a sign of life; 0: never.
    count : int
        After ``interval * count`` seconds without any byte the connection is lost.

    Attributes
    ----------
    limit : float
        Seconds after which the connection is lost; 0: never, and `check` is not to be called.

    Notes
    -----
    Thread safety.  `check` is for the reader thread alone, `set_interval` for any thread.
    """

    def __init__(self, interval: float, count: int) -> None:
        self._count = count
        # How often a silent server is asked; a single count asks half-way, so that there is time
        # to answer.
        self._max_probes = max(1, count - 1)
        self._last_received = 0.0  # the last byte we know of
        self._probes_sent = 0  # questions since
        self._probe_due = 0.0  # when the next one is due, or the last answer
        self._checked_after_deadline = False  # at the socket, after the last answer was due
        self.set_interval(interval)

    def set_interval(self, interval: float) -> None:
        """
        Change the interval, from what is heard next on; how often is asked stays the same.

        Parameters
        ----------
        interval : float
            Seconds; 0: never.
        """
        self.limit = interval * self._count  # all in one, as the reader may look at any moment

    def check(self, now: float, last_received: float) -> Tuple[bool, float]:
        """
        Say what the silence so far calls for.

        Parameters
        ----------
        now, last_received : float
            Monotonic instants; `last_received` that of the last byte.

        Returns
        -------
        Tuple[bool, float]
            Whether to ask the server now, and for how many seconds the reader may wait for bytes
            until the next check; not at all where that is not above 0.

        Raises
        ------
        KeepaliveTimeout
            The last answer did not come in time.
        """
        patience = self.limit / (self._max_probes + 1)
        if self._last_received != last_received:
            self._last_received = last_received
            self._probes_sent, self._checked_after_deadline = 0, False
            self._probe_due = last_received + patience
        ask = now >= self._probe_due and self._probes_sent < self._max_probes
        if ask:
            self._probes_sent += 1
            self._probe_due = now + patience
        elif now >= self._probe_due:
            if self._checked_after_deadline:
                raise KeepaliveTimeout(
                    f"nothing heard from the server for {now - self._last_received:.1f} s"
                )
            self._checked_after_deadline = (
                True  # the answer may have come while we were not running
            )
        return ask, self._probe_due - now
