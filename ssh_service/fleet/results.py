"""The results of many hosts, one after the other as they come."""

from __future__ import annotations

import queue
import threading
import time
import warnings
from typing import Any, Callable, Iterable, Iterator, Optional

from ssh_service import background
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
        """Begin with one host, without waiting for it."""
        raise NotImplementedError

    def cancel(self) -> None:
        """End what is under way; each of it still gets its result."""
        raise NotImplementedError

    def close(self) -> None:
        """Give everything back; nothing is under way, or nobody waits for it any more."""
        raise NotImplementedError


class _GivingUp:
    """Ends what nobody waits for any more."""

    def __init__(
        self, runner: Runner, ready: "queue.SimpleQueue[Optional[HostResult]]", count: int
    ) -> None:
        self._runner = runner
        self._ready = ready
        self._count = count

    def begin(self) -> None:
        """Do so on a thread that may wait."""
        background.callback_runner()(self._end)

    def _end(self) -> None:
        self._runner.cancel()
        deadline = time.monotonic() + _PATIENCE
        try:
            while self._count and time.monotonic() < deadline:
                result = self._ready.get(timeout=max(0.0, deadline - time.monotonic()))
                self._count -= result is not None
        except queue.Empty:
            pass  # what has not ended by now is left to its fate
        self._runner.close()


class Results(Iterator[HostResult]):
    """
    The results of many hosts; `ssh_service.fleet.run` and its like give one.

    As a context manager it cancels what is still under way, and waits some seconds for its end.
    So does one that is dropped before the last result was taken, on a thread of ours and with a
    ResourceWarning.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.

    Guarantees.  Every host that was begun has exactly one result, whatever becomes of the others.
    What the hosts' iterator raises is raised after the last of them.
    At most `parallel` hosts are under way or wait to be taken: who takes no results stops the
    work.  After `cancel` no host is begun.
    """

    def __init__(self, hosts: Iterable[Any], runner: Runner, parallel: int) -> None:
        self._open = 0  # guarded by _lock: begun and not taken
        self._closed = False  # guarded by _lock
        self._hosts = iter(hosts)
        self._runner = runner
        self._parallel = parallel
        # None: have a thread that waits look again.
        self._ready: "queue.SimpleQueue[Optional[HostResult]]" = queue.SimpleQueue()
        self._lock = threading.RLock()  # reentrant, as the hosts may come from these results
        self._takers = 0  # guarded by _lock: threads that wait
        self._begun = 0  # guarded by _lock
        self._exhausted = False  # guarded by _lock
        self._failure: Optional[Exception] = None  # guarded by _lock: of the hosts' iterator
        self._cancelled = threading.Event()
        runner.deliver = self._ready.put
        with self._lock:
            self._fill_locked()

    def __del__(self) -> None:
        if not getattr(self, "_begun", 0) or self._closed:
            return
        # A destructor may run under any lock, so it takes none; and it waits for nobody.
        give_up = _GivingUp(self._runner, self._ready, self._open)
        background.submit_from_destructor(background.Strand(), give_up.begin)
        if self._open:
            warnings.warn("results of a fleet were dropped, and its work ended", ResourceWarning)

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
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._lock:
                self._fill_locked()
                if not self._open:
                    self._wake_locked()
                    break
                self._takers += 1
            try:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                result = self._ready.get(timeout=left)
            except queue.Empty:
                raise TimeoutError(f"no host was done within {timeout:g} s") from None
            finally:
                with self._lock:
                    self._takers -= 1
            if result is not None:
                with self._lock:
                    self._open -= 1
                    self._wake_locked()
                return result
        self._close()
        with self._lock:
            failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        raise StopIteration

    def _wake_locked(self) -> None:
        if self._takers:  # there may be no more for it, or one more to begin
            self._ready.put(None)

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
        with self._lock:
            self._failure = None  # nobody asks for more hosts
        deadline = time.monotonic() + _PATIENCE
        try:
            while self._open and time.monotonic() < deadline:
                self.take(deadline - time.monotonic())
        except (TimeoutError, ValueError, StopIteration):
            pass  # what has not ended by now is left to its fate
        finally:
            self._close()

    def _close(self) -> None:
        with self._lock:
            closed, self._closed = self._closed, True
        if not closed:
            self._cancelled.set()
            self._runner.close()

    def _fill_locked(self) -> None:
        while self._open < self._parallel and not self._exhausted:
            if self._cancelled.is_set():
                return
            try:
                host = next(self._hosts)
            except StopIteration:
                self._exhausted = True
                return
            except Exception as error:  # those that were begun have their results all the same
                self._exhausted, self._failure = True, error
                return
            self._open += 1
            self._begun += 1
            try:
                self._runner.begin(host)
            except BaseException:  # of a signal's handler
                self._open -= 1
                raise
            if self._cancelled.is_set():
                self._runner.cancel()  # it may have missed this one
