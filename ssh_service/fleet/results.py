"""The results of many hosts, one after the other as they come."""

from __future__ import annotations

import queue
import threading
import time
from typing import Any, Callable, Iterable, Iterator, Optional

from ssh_service.fleet.result import HostResult

__all__ = ["Deliver", "Results", "Runner"]

# Seconds that hosts get to end what was cancelled: TERM, KILL a second later, and what it takes
# to hear of it.
_PATIENCE = 4.0

Deliver = Callable[[HostResult], None]


class Runner:
    """
    Does the work of `Results`, wherever that is.

    Attributes
    ----------
    deliver : Callable[[HostResult], None]
        Set before the first `begin`; called once for each, on any thread.
    """

    deliver: Deliver

    def begin(self, host: Any) -> None:
        """
        Begin with one host, without waiting for it.

        Parameters
        ----------
        host : Any
            A destination or connect parameters.
        """
        raise NotImplementedError

    def cancel(self) -> None:
        """End what is under way; each of it still gets its result."""
        raise NotImplementedError

    def close(self) -> None:
        """Give everything back; nothing is under way, or nobody waits for it any more."""
        raise NotImplementedError


class Results(Iterator[HostResult]):
    """
    The results of many hosts; `ssh_service.fleet.run` and its like give one.

    As a context manager it cancels what is still under way, and waits some seconds for its end.

    Notes
    -----
    Thread safety.  One thread takes the results; `cancel` may be called from any.

    Guarantees.  Every host that was begun has exactly one result, whatever becomes of the others.
    At most `parallel` hosts are under way or wait to be taken: who takes no results stops the
    work.  After `cancel` no host is begun.
    """

    def __init__(self, hosts: Iterable[Any], runner: Runner, parallel: int) -> None:
        self._hosts = iter(hosts)
        self._runner = runner
        self._parallel = parallel
        self._ready: "queue.SimpleQueue[HostResult]" = queue.SimpleQueue()
        self._open = 0  # begun and not taken
        self._begun = 0
        self._exhausted = False
        self._closed = False
        self._cancelled = threading.Event()
        runner.deliver = self._ready.put
        self._fill()

    def __enter__(self) -> "Results":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __iter__(self) -> "Results":
        return self

    def __next__(self) -> HostResult:
        return self.take()

    @property
    def begun(self) -> int:
        """How many hosts have been begun."""
        return self._begun

    @property
    def under_way(self) -> int:
        """How many hosts are under way, or done and not taken."""
        return self._open

    def take(self, timeout: Optional[float] = None) -> HostResult:
        """
        Take the next result.

        Parameters
        ----------
        timeout : Optional[float]
            Seconds to wait; None: as long as it takes.

        Returns
        -------
        HostResult
            The result of a host that is done.

        Raises
        ------
        StopIteration
            There are no more.
        TimeoutError
            No host was done within that time; ask again.
        """
        self._fill()
        if not self._open:
            self._close()
            raise StopIteration
        try:
            result = self._ready.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError(f"no host was done within {timeout:g} s") from None
        self._open -= 1
        return result

    def cancel(self) -> None:
        """
        Begin no further host, and end what is under way.

        Those under way are still to be taken, most of them as failed.
        """
        if not self._cancelled.is_set():
            self._cancelled.set()
            self._runner.cancel()

    def close(self) -> None:
        """Cancel, wait some seconds for the end of what is under way, and give all back."""
        if self._closed:
            return
        self.cancel()
        deadline = time.monotonic() + _PATIENCE
        try:
            while self._open and time.monotonic() < deadline:
                self.take(deadline - time.monotonic())
        except (TimeoutError, ValueError, StopIteration):
            pass  # what has not ended by now is left to its fate
        finally:
            self._close()

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self._cancelled.set()
            self._runner.close()

    def _fill(self) -> None:
        while self._open < self._parallel and not self._exhausted:
            if self._cancelled.is_set():
                return
            try:
                host = next(self._hosts)
            except StopIteration:
                self._exhausted = True
                return
            self._open += 1
            self._begun += 1
            self._runner.begin(host)
            if self._cancelled.is_set():
                self._runner.cancel()  # it may have missed this one
