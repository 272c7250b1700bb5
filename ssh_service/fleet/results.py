"""An iterator over the results of many hosts, in the order in which they finish."""

from __future__ import annotations

import queue
import threading
import time
import warnings
from typing import Any, Callable, Iterable, Iterator, Optional

from ssh_service import background
from ssh_service.fleet.result import HostResult
from ssh_service.locks import RLock

__all__ = ["Deliver", "Results", "Runner"]

# Seconds for hosts to end cancelled work: SIGTERM, SIGKILL a second later, and time for the
# reports.
_CANCEL_TIMEOUT = 4.0

Deliver = Callable[[HostResult], None]


class Runner:
    """
    Does the work for `Results`, in this process or in workers.

    Attributes
    ----------
    deliver : Callable[[HostResult], None]
        Set before the first `start`; called once per host, on any thread.
    """

    deliver: Deliver

    def start(self, host: Any) -> None:
        """Start the work at one host, without waiting for it."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Cancel everything in progress; each host still gets a result."""
        raise NotImplementedError

    def close(self) -> None:
        """Release all resources without waiting for work in progress."""
        raise NotImplementedError


class _DroppedResults:
    """Cancels the work of a `Results` object that was garbage-collected."""

    def __init__(
        self, runner: Runner, ready: "queue.SimpleQueue[Optional[HostResult]]", count: int
    ) -> None:
        self._runner = runner
        self._ready = ready
        self._count = count

    def start(self) -> None:
        """Start to cancel, on a thread that may block."""
        background.callback_runner()(self._end)

    def _end(self) -> None:
        self._runner.cancel()
        deadline = time.monotonic() + _CANCEL_TIMEOUT
        try:
            while self._count and time.monotonic() < deadline:
                result = self._ready.get(timeout=max(0.0, deadline - time.monotonic()))
                self._count -= result is not None
        except queue.Empty:
            pass  # do not wait longer for the remaining hosts
        self._runner.close()


class Results(Iterator[HostResult]):
    """
    The results of many hosts; `run`, `upload` and `download` of `ssh_service.fleet` return it.

    Iterate over it, or call `take`.  As a context manager, it cancels all work in progress when
    the block ends, and waits up to 4 s for it.  If the object is dropped before its last result
    was taken, the same is done on a background thread, with a `ResourceWarning`.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.

    Guarantees.  Every host that was started has exactly one result, regardless of the other hosts.
    If the iterator of hosts raises an error, `take` raises it after the last result.  At most
    `parallel` hosts are in progress or have results that were not taken yet, so no further host is
    started while no results are taken.  After `cancel`, no host is started.
    """

    def __init__(self, hosts: Iterable[Any], runner: Runner, parallel: int) -> None:
        self._open = 0  # guarded by _lock: hosts that were started, and whose result was not taken
        self._closed = False  # guarded by _lock
        self._hosts = iter(hosts)
        self._runner = runner
        self._parallel = parallel
        # None wakes a waiting thread, so that it checks again.
        self._ready: "queue.SimpleQueue[Optional[HostResult]]" = queue.SimpleQueue()
        self._lock = RLock()  # reentrant: the iterator of hosts may use these results
        self._waiting_threads = 0  # guarded by _lock
        self._begun = 0  # guarded by _lock
        self._exhausted = False  # guarded by _lock
        self._failure: Optional[Exception] = (
            None  # guarded by _lock: raised by the iterator of hosts
        )
        self._cancelled = threading.Event()
        runner.deliver = self._ready.put
        with self._lock:
            self._fill_locked()

    def __del__(self) -> None:
        if not getattr(self, "_begun", 0) or self._closed:
            return
        # A destructor may run while any lock is held, so this takes no lock and does not block.
        dropped = _DroppedResults(self._runner, self._ready, self._open)
        background.submit_from_destructor(background.Strand(), dropped.start)
        if self._open:
            warnings.warn(
                "results of a fleet were dropped; its work is cancelled", ResourceWarning
            )

    def __repr__(self) -> str:
        end = " closed" if self._closed else ""
        return f"<{type(self).__name__} begun={self._begun} under_way={self._open}{end}>"

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
        """The number of hosts that were started."""
        return self._begun

    @property
    def under_way(self) -> int:
        """The number of hosts that are in progress, or whose results were not taken yet."""
        return self._open

    def take(self, timeout: Optional[float] = None) -> HostResult:
        """
        Wait for the next result, and return it.

        Parameters
        ----------
        timeout : Optional[float]
            Seconds to wait; None: no limit.

        Returns
        -------
        HostResult
            The result of the next host that finishes.

        Raises
        ------
        StopIteration
            Every result has been taken.
        TimeoutError
            No host finished within `timeout`; the call may be repeated.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._lock:
                self._fill_locked()
                if not self._open:
                    self._wake_locked()
                    break
                self._waiting_threads += 1
            try:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                result = self._ready.get(timeout=left)
            except queue.Empty:
                raise TimeoutError(f"no host was done within {timeout:g} s") from None
            finally:
                with self._lock:
                    self._waiting_threads -= 1
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
        if self._waiting_threads:  # a waiting thread may start another host, or find the end
            self._ready.put(None)

    def cancel(self) -> None:
        """
        Start no further hosts, and cancel everything in progress.

        Hosts that were started still have results to take, most of which have failed.
        """
        if not self._cancelled.is_set():
            self._cancelled.set()
            self._runner.cancel()

    def close(self) -> None:
        """Cancel, wait up to 4 s for the work in progress to end, and release all resources."""
        if self._closed:
            return
        self.cancel()
        with self._lock:
            self._failure = None  # no more hosts are wanted
        deadline = time.monotonic() + _CANCEL_TIMEOUT
        try:
            self._take_until(deadline)
        except (TimeoutError, ValueError, StopIteration):
            pass  # do not wait longer for the remaining hosts
        finally:
            self._close()

    def _take_until(self, deadline: float) -> None:
        while self._open and time.monotonic() < deadline:
            self.take(deadline - time.monotonic())

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
            except Exception as error:  # raised by `take` after the results of the earlier hosts
                self._exhausted, self._failure = True, error
                return
            self._open += 1
            self._begun += 1
            try:
                self._runner.start(host)
            except BaseException:  # raised by a signal handler
                self._open -= 1
                raise
            if self._cancelled.is_set():
                self._runner.cancel()  # an earlier call may have missed this host
