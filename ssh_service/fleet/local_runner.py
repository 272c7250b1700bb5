"""Run a fleet's work in this process: commands without threads, copies with one thread each."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Callable, Optional, Set

from ssh_service import background
from ssh_service.commands.output import CallbackOutput, Output
from ssh_service.connections.cache import SshClientCache
from ssh_service.copying import Progress
from ssh_service.errors import SshCommandCancelled
from ssh_service.fleet import task as tasks
from ssh_service.fleet.hosts import concealed
from ssh_service.fleet.result import HostResult
from ssh_service.fleet.results import Runner
from ssh_service.fleet.task import FleetTask, ResultBuilder
from ssh_service.locks import Lock

__all__ = ["LocalRunner", "OnHostOutput", "OnHostProgress"]

OnHostOutput = Callable[[str, str, bytes], None]
OnHostProgress = Callable[[str, Progress], None]

# Seconds for cancelled copies to remove their temporary files.
_COPY_CANCEL_TIMEOUT = 1.0


class LocalRunner(Runner):
    """Does the work in this process; without a cache, it closes each host's connection."""

    def __init__(
        self,
        task: FleetTask,
        parallel: int,
        cache: Optional[SshClientCache] = None,
        on_output: Optional[OnHostOutput] = None,
        on_progress: Optional[OnHostProgress] = None,
    ) -> None:
        self._task = task
        self._owns_cache = cache is None
        self._cache = SshClientCache() if cache is None else cache  # an empty cache is falsy
        self._idle_timeout = 0.0 if cache is None else None
        self._on_output = on_output
        # One callback runner for all hosts, so that `on_output` is never called concurrently.
        self._run_callback = background.callback_runner()
        self._on_progress = on_progress
        self._copies: Optional[ThreadPoolExecutor] = None
        if task.kind != "run":
            self._copies = ThreadPoolExecutor(parallel, "ssh-service-fleet")
        self._lock = Lock()
        self._futures: Set["Future[Any]"] = set()  # guarded by _lock
        # Set once, under _lock, so that either `_watch` sees the flag or `cancel` sees the future.
        self._cancelled = False

    def start(self, host: Any) -> None:
        """Start the work at one host."""
        host = concealed(host)
        builder = ResultBuilder(host)
        if self._copies is not None:
            # Registered before it can finish; otherwise a finished copy could stay in the set.
            future: "Future[Any]" = self._copies.submit(self._copy, host)
            self._watch(future, lambda done: self._on_copy_done(done, builder))
            return
        stream = _HostOutput(builder.host, self._on_output) if self._on_output else None
        try:
            command = tasks.start(
                self._cache,
                self._task,
                host,
                idle_timeout=self._idle_timeout,
                stdout=stream.output("stdout") if stream else None,
                stderr=stream.output("stderr") if stream else None,
                run_callback=self._run_callback if stream else None,
            )
        except Exception as error:  # any error affects only this host
            self.deliver(builder.failed(error))
            return
        if stream:
            stream.cancel_command = command.cancel
        self._watch(command, lambda done: self._on_command_done(done, builder, stream))

    def cancel(self) -> None:
        """Cancel everything in progress."""
        with self._lock:
            self._cancelled = True
            futures = list(self._futures)
        for future in futures:
            future.cancel()
        if self._copies is not None and self._owns_cache:
            # A copy checks for cancellation at each progress report, and cleans up.  A copy
            # without progress is ended by closing its connection.
            cleanup = self._cache.cleanup
            background.call_at(
                time.monotonic() + _COPY_CANCEL_TIMEOUT, lambda: background.run_callback(cleanup)
            )

    def close(self) -> None:
        """Close the connections, unless the cache belongs to the caller."""
        if self._owns_cache:
            self._cache.cleanup()
        if self._copies is not None:
            self._copies.shutdown(wait=self._owns_cache)

    def _watch(self, future: "Future[Any]", on_done: Callable[["Future[Any]"], None]) -> None:
        with self._lock:
            self._futures.add(future)
            cancelled = self._cancelled
        if cancelled:
            future.cancel()
        future.add_done_callback(lambda done: self._on_done(done, on_done))

    def _on_done(self, future: "Future[Any]", on_done: Callable[["Future[Any]"], None]) -> None:
        with self._lock:
            self._futures.discard(future)
        on_done(future)

    def _on_command_done(
        self, future: "Future[Any]", builder: ResultBuilder, stream: Optional["_HostOutput"]
    ) -> None:
        result = builder.result(future)
        if stream is not None and stream.error is not None:
            result = HostResult(
                builder.host, "FAILED", builder.seconds, result.process, stream.error, result.sent
            )
        self.deliver(result)

    def _on_copy_done(self, future: "Future[Any]", builder: ResultBuilder) -> None:
        self.deliver(builder.cancelled() if future.cancelled() else future.result())

    def _copy(self, host: Any) -> HostResult:
        builder = ResultBuilder(host)  # measures from when a thread was available
        sent = False

        def permit() -> bool:
            nonlocal sent
            self._raise_if_cancelled()
            sent = True
            return True

        try:
            plan = tasks.copy(
                self._cache,
                self._task,
                host,
                idle_timeout=self._idle_timeout,
                permit=permit,
                progress=lambda progress: self._on_copy_progress(builder.host, progress),
            )
        except Exception as error:  # any error affects only this host
            if self._cancelled and not sent:
                return builder.cancelled()
            if self._cancelled:
                error = tasks.copy_cancelled_error(self._task, host)
            return builder.failed(error)
        return builder.copied(plan)

    def _raise_if_cancelled(self) -> None:
        if self._cancelled:
            raise SshCommandCancelled("cancelled")

    def _on_copy_progress(self, host: str, progress: Progress) -> None:
        self._raise_if_cancelled()
        if self._on_progress is not None:
            self._on_progress(host, progress)


class _HostOutput:
    """Passes one host's output to the user's function, and reports an error of that function."""

    def __init__(self, host: str, on_output: OnHostOutput) -> None:
        self.error: Optional[BaseException] = None
        self.cancel_command: Callable[[], Any] = lambda: None
        self._host, self._on_output = host, on_output

    def output(self, name: str) -> Output:
        def deliver(piece: bytes) -> None:
            if self.error is not None:
                return
            try:
                self._on_output(self._host, name, piece)
            except BaseException as error:  # whatever it is, it becomes this host's error
                self.error = error
                self.cancel_command()

        return CallbackOutput(deliver, None)
