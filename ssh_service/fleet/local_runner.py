"""The work of a fleet in this process: commands by the engine's futures, copies by threads."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Callable, Optional, Set

from ssh_service import background, params
from ssh_service.commands.output import CallbackOutput, Output
from ssh_service.connections.cache import SshClientCache
from ssh_service.copying import Progress
from ssh_service.errors import SshCommandCancelled
from ssh_service.fleet import task as jobs
from ssh_service.fleet.result import HostResult
from ssh_service.fleet.results import Runner
from ssh_service.fleet.task import Clock, Job

__all__ = ["Here", "OnOutput", "OnProgress"]

OnOutput = Callable[[str, str, bytes], None]
OnProgress = Callable[[str, Progress], None]

# Seconds that copies get to clean up after themselves when they are cancelled.
_COPY_PATIENCE = 1.0


class Here(Runner):
    """Does the work in this process."""

    def __init__(
        self,
        job: Job,
        parallel: int,
        cache: Optional[SshClientCache] = None,
        on_output: Optional[OnOutput] = None,
        on_progress: Optional[OnProgress] = None,
    ) -> None:
        self._job = job
        self._owns_cache = cache is None
        self._cache = SshClientCache() if cache is None else cache  # an empty one is false
        self._idle_timeout = 0.0 if cache is None else None
        self._on_output = on_output
        # One for all hosts: the function is never called by two threads at once.
        self._run_callback = background.callback_runner()
        self._on_progress = on_progress
        self._copies: Optional[ThreadPoolExecutor] = None
        if job.kind != "run":
            self._copies = ThreadPoolExecutor(parallel, "ssh-service-fleet")
        self._lock = threading.Lock()
        self._futures: Set["Future[Any]"] = set()  # guarded by _lock
        self._cancelled = False  # set under _lock, once, so that `_watch` misses none

    def begin(self, host: Any) -> None:
        """Begin with one host."""
        host = params.conceal(host)
        clock = Clock(host)
        if self._copies is not None:
            # Known here before it can be done, and so dropped again without a race.
            future: "Future[Any]" = self._copies.submit(self._copy, host)
            self._watch(future, lambda done: self._copied(done, clock))
            return
        stream = _Streams(clock.host, self._on_output) if self._on_output else None
        try:
            command = jobs.start(
                self._cache,
                self._job,
                host,
                idle_timeout=self._idle_timeout,
                stdout=stream.output("stdout") if stream else None,
                stderr=stream.output("stderr") if stream else None,
                run_callback=self._run_callback if stream else None,
            )
        except Exception as error:  # that host's alone, whatever it is
            self.deliver(clock.failed(error))
            return
        if stream:
            stream.give_up = command.cancel
        self._watch(command, lambda done: self._ran(done, clock, stream))

    def cancel(self) -> None:
        """End what is under way."""
        with self._lock:
            self._cancelled = True
            futures = list(self._futures)
        for future in futures:
            future.cancel()
        if self._copies is not None and self._owns_cache:
            # A copy looks up at each report of progress, and tidies up; one that stands still is
            # ended with its connection.
            cleanup = self._cache.cleanup
            background.call_at(
                time.monotonic() + _COPY_PATIENCE, lambda: background.run_callback(cleanup)
            )

    def close(self) -> None:
        """Close the connections, unless they are the caller's."""
        if self._owns_cache:
            self._cache.cleanup()
        if self._copies is not None:
            self._copies.shutdown(wait=self._owns_cache)

    def _watch(self, future: "Future[Any]", done: Callable[["Future[Any]"], None]) -> None:
        with self._lock:
            self._futures.add(future)
            cancelled = self._cancelled
        if cancelled:
            future.cancel()
        future.add_done_callback(lambda ended: self._ended(ended, done))

    def _ended(self, future: "Future[Any]", done: Callable[["Future[Any]"], None]) -> None:
        with self._lock:
            self._futures.discard(future)
        done(future)

    def _ran(self, future: "Future[Any]", clock: Clock, stream: Optional["_Streams"]) -> None:
        result = clock.result(future)
        if stream is not None and stream.error is not None:
            result = HostResult(
                clock.host, "FAILED", clock.seconds, result.process, stream.error, result.sent
            )
        self.deliver(result)

    def _copied(self, future: "Future[Any]", clock: Clock) -> None:
        self.deliver(clock.cancelled() if future.cancelled() else future.result())

    def _copy(self, host: Any) -> HostResult:
        clock = Clock(host)  # from when a thread was free for it
        sent = False

        def claim() -> bool:
            nonlocal sent
            self._raise_if_cancelled()
            sent = True
            return True

        try:
            jobs.copy(
                self._cache,
                self._job,
                host,
                idle_timeout=self._idle_timeout,
                claim=claim,
                progress=lambda progress: self._report(clock.host, progress),
            )
        except Exception as error:  # that host's alone, whatever it is
            if self._cancelled and not sent:
                return clock.cancelled()
            if self._cancelled:
                error = SshCommandCancelled(f"{clock.host}: the copy was cancelled")
            return clock.failed(error)
        return clock.copied()

    def _raise_if_cancelled(self) -> None:
        if self._cancelled:
            raise SshCommandCancelled("cancelled")

    def _report(self, host: str, progress: Progress) -> None:
        self._raise_if_cancelled()
        if self._on_progress is not None:
            self._on_progress(host, progress)


class _Streams:
    """Hands one host's output to the user's function, and its complaint to the result."""

    def __init__(self, host: str, on_output: OnOutput) -> None:
        self.error: Optional[Exception] = None
        self.give_up: Callable[[], Any] = lambda: None
        self._host, self._on_output = host, on_output

    def output(self, name: str) -> Output:
        def deliver(piece: bytes) -> None:
            if self.error is not None:
                return
            try:
                self._on_output(self._host, name, piece)
            except Exception as error:  # of the user's code: told as this host's error
                self.error = error
                self.give_up()

        return CallbackOutput(deliver, None)
