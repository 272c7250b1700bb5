"""Keepalives: when to probe a silent server, and when to give the connection up."""

from __future__ import annotations

from typing import Tuple

from paramiko.ssh_exception import SSHException


class KeepaliveTimeout(SSHException):  # type: ignore[misc]
    """The server answered none of the keepalives."""


class KeepaliveMonitor:
    """
    Decides when a connection's keepalives are due.

    See docs/paramiko_repairs.md#silent-peer.  Unanswered probes count, not only time: this process
    may have been stopped.

    Parameters
    ----------
    interval : float
        Seconds of silence after which a keepalive is sent; 0 for never.
    count : int
        After ``interval * count`` seconds without any byte the connection is lost.

    Attributes
    ----------
    limit : float
        Seconds of silence after which the connection is lost; 0 for never, and then `check` must
        not be called.

    Notes
    -----
    Thread safety.  `check` is for the reader thread only, `set_interval` for any thread.
    """

    __slots__ = (
        "limit",
        "_count",
        "_max_probes",
        "_last_received",
        "_probes_sent",
        "_probe_due",
        "_checked_after_deadline",
    )

    def __init__(self, interval: float, count: int) -> None:
        self._count = count
        # Probes before giving up; with a count of 1 there is one half-way, to leave time for a
        # reply.
        self._max_probes = max(1, count - 1)
        self._last_received = 0.0  # when the last known byte came
        self._probes_sent = 0  # since then
        self._probe_due = 0.0  # when to send the next, or to give up after the last
        self._checked_after_deadline = False  # read the socket once more
        self.set_interval(interval)

    @property
    def interval(self) -> float:
        """Seconds of silence after which a keepalive is sent; 0 for never."""
        return self.limit / self._count

    def set_interval(self, interval: float) -> None:
        """Change the interval (seconds; 0 for never); the number of probes stays the same."""
        self.limit = interval * self._count  # one assignment: the reader may check at any moment

    def check(self, now: float, last_received: float) -> Tuple[bool, float]:
        """
        Return whether to send a keepalive, and the seconds until the next check (0 or less: now).

        Raises
        ------
        KeepaliveTimeout
            The last probe was not answered in time.
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
                True  # the reply may have come while this process was stopped
            )
        return ask, self._probe_due - now
