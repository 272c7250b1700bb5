"""Scripts that services run as jobs: submitted without waiting, with a future of the outcome."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from typing import Any, Callable, Dict, Mapping, Optional, Tuple

from ssh_service import background
from ssh_service.commands import script as scripts_of_commands
from ssh_service.commands.result import CommandFuture, CompletedProcess
from ssh_service.commands.script import Script
from ssh_service.connections.cache import SshClientCache
from ssh_service.errors import (
    SshCacheClosed,
    SshCommandCancelled,
    SshCommandTimeout,
    SshConfigError,
    SshJobError,
    SshServiceError,
)
from ssh_service.jobs.handle import JobDestination
from ssh_service.jobs.job import Job
from ssh_service.jobs.record import Seen, check_id, digest
from ssh_service.jobs.session import is_passing
from ssh_service.jobs.starting import Start, new_id
from ssh_service.jobs.watcher import Waiter
from ssh_service.locks import Lock
from ssh_service.params import ConnectKey, Destination

_log = logging.getLogger(__name__)

# Seconds for which a start is repeated after its answer was lost, if there is no time limit.
_REPEAT_TIMEOUT = 600.0
# Seconds after the time limit within which we end the job; the host enforces the same limit.
_LIMIT_GRACE = 8.0
# Seconds before a step is repeated that a lost connection interrupted; doubled each time.
_MIN_RETRY, _MAX_RETRY = 0.1, 5.0
_DIGEST_LENGTH = 16

_Key = Tuple["weakref.ref[SshClientCache]", ConnectKey, str]
_lock = Lock()
# The scripts of this process by id; a second call with an id gets the same future.  (Not a
# WeakValueDictionary: an exception from a signal handler would be lost in its callbacks.)
_under_way: "Dict[_Key, weakref.ref[_Detached]]"
_under_way = {}  # guarded by _lock


def submit_detached(
    cache: SshClientCache,
    connect_params: Destination,
    script: Script,
    *,
    env: Optional[Mapping[str, Any]] = None,
    shell: Optional[str] = None,
    timeout: Optional[float] = None,
    max_output: Optional[int] = None,
    job_id: Optional[str] = None,
) -> CommandFuture:
    """
    Run a script as a job, and return the future of its outcome without waiting.

    The outcome is that of `Job.result`, or the error of `start_job` if no job was started.  With
    `job_id`, the call attaches to a job with the same script, environment and shell whose outcome
    has not been fetched yet.  The job is removed before its outcome is returned, so that no second
    caller can fetch it; if it cannot be removed, the outcome is an `SshJobError` that says so.

    Raises
    ------
    SshConfigError
        A parameter, the script or the name of a variable is invalid (a `ValueError`).
    """
    host = JobDestination(connect_params, cache)
    text = scripts_of_commands.join(script)
    environment = scripts_of_commands.check_environment(env)
    if job_id is None:
        name = new_id()
    else:
        what = digest(text, environment, shell, None, b"")[:_DIGEST_LENGTH]
        name = check_id(f"{job_id}-{what}", "ssh_job_id")
    start = Start(host, name, text, environment, shell, None, b"", timeout)
    detached = _Detached(host, start, timeout, max_output, job_id is not None)
    try:
        key = (weakref.ref(cache), host.target.key, name)
    except SshConfigError as error:  # a key file; part of the outcome, like a rejected key
        detached.future.set_exception(error)
        return detached.future
    with _lock:
        known = _under_way.get(key)
        current = None if known is None else known()
        if current is None:
            _forget_dead_locked()
            _under_way[key] = weakref.ref(detached)
    if current is not None:
        return current.future
    detached.begin()
    return detached.future


def _forget_dead_locked() -> None:
    for key in [key for key, known in _under_way.items() if known() is None]:
        del _under_way[key]


class _Detached:
    """
    A script of a service that runs as a job.

    It uses one thread while the job is started and another while the outcome is fetched, but none
    while the job runs.
    """

    def __init__(
        self,
        host: JobDestination,
        start: Start,
        timeout: Optional[float],
        max_output: Optional[int],
        has_key: bool,
    ) -> None:
        self._host, self._start, self._has_key = host, start, has_key
        self._generation = host.cache.generation
        self._max_output = max_output
        self._timeout = timeout or 0.0
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._job: Optional[Job] = None
        self._waiter: Optional[_CallingWaiter] = None
        self._is_cancelled = threading.Event()
        self._is_late = False
        self._is_settled = False  # guarded by _lock
        self.future = CommandFuture(self)

    # Called by the future.

    def cancel(self) -> bool:
        """End the job; its future then receives the outcome."""
        if self.future.done():
            return False
        self._is_cancelled.set()
        if self._job is not None:
            _in_thread(self._kill)
        return True

    def keep_future(self) -> None:
        """See `CommandHandle`; this object holds the future."""

    def on_future_dropped(self) -> None:
        """See `CommandHandle`; the job continues."""

    def run_callback(self, function: Callable[..., Any], *args: Any) -> None:
        """See `CommandHandle`."""
        background.run_callback(function, *args)

    # The steps.

    def begin(self) -> None:
        """Start the job on a thread of its own."""
        if self._deadline is not None:
            this = weakref.WeakMethod(self._on_deadline)
            background.call_at(self._deadline, lambda: _call(this))
        _in_thread(self._run, self._begin)

    def _run(self, step: Callable[[], None]) -> None:
        try:
            step()
        except BaseException as error:  # the caller waits for the outcome
            self._settle(error=error)

    def _require_open(self) -> None:
        if self._host.cache.generation is not self._generation:
            where = self._host.connection_id
            raise SshCacheClosed(f"{where}: the connections were closed; a job that runs goes on")

    def _begin(self) -> None:
        self._require_open()
        left = None
        if self._deadline is not None:
            left = max(0.0, self._deadline - time.monotonic())
        self._job = Job(self._host, self._start.repeat(left, _REPEAT_TIMEOUT))
        if self._is_cancelled.is_set():
            self._kill()
        self._require_open()
        self._waiter = _CallingWaiter(self._job, weakref.WeakMethod(self._on_end))
        self._host.watcher.add(self._waiter)

    def _on_end(self) -> None:
        _in_thread(self._run, self._fetch)

    def _fetch(self) -> None:
        job, waiter = self._job, self._waiter
        if job is None or waiter is None:
            return
        process: Optional[CompletedProcess] = None
        error: Optional[BaseException] = None
        job.take_waiter(waiter)
        self._require_open()
        try:
            process = job.result(max_output=self._max_output)
        except SshServiceError as failure:
            if getattr(failure, "process", None) is None:
                raise
            process, error = getattr(failure, "process"), failure
        self._start.describe(process)
        self._remove(job, process)
        where = f"{self._host.connection_id}: job {job.id}"
        if self._is_cancelled.is_set():
            error = SshCommandCancelled(f"{where} was cancelled", process=process, ended=True)
        elif self._is_late:
            text = f"{where} did not end within {self._timeout:g} s"
            error = SshCommandTimeout(text, process=process, ended=True)
        self._settle(process, error)

    def _remove(self, job: Job, process: CompletedProcess) -> None:
        """Remove the job; only then the outcome may be returned: no other caller can fetch it."""
        delay = _MIN_RETRY
        while True:
            self._require_open()
            try:
                job.remove()
                return
            except SshJobError as error:  # the job's folder cannot be removed
                if not self._has_key:  # nobody else knows its id
                    _log.warning("%s", error)
                    return
                raise SshJobError(
                    f"{error}; its result does not count, as the next call with its key would get"
                    " it again",
                    job_id=job.id,
                    state=job.state,
                    process=process,
                    connection_id=job.connection_id,
                ) from error
            except SshServiceError as error:
                if not (is_passing(error) or isinstance(error, SshCommandTimeout)):
                    raise
            time.sleep(delay)
            delay = min(2 * delay, _MAX_RETRY)

    def _kill(self) -> None:
        job, delay = self._job, _MIN_RETRY
        while job is not None and not self.future.done():
            try:
                job.kill()
                return
            except SshServiceError as error:
                if not (is_passing(error) or isinstance(error, SshCommandTimeout)):
                    self._settle(error=error)
                    return
            time.sleep(delay)
            delay = min(2 * delay, _MAX_RETRY)

    def _on_deadline(self) -> None:
        job = self._job
        if job is not None and not self.future.done():  # otherwise the start has its own limit
            _in_thread(self._end_late, job)

    def _end_late(self, job: Job) -> None:
        """End the job, or report that the host is unreachable, which then ends the job itself."""
        self._is_late = True
        try:
            job.kill(timeout=_LIMIT_GRACE)
            return  # the job's waiter is settled
        except SshJobError as error:
            text = f"{error}; it did not end within {self._timeout:g} s"
        except SshServiceError as error:
            _log.info("%s", error)
            text = (
                f"{self._host.connection_id}: job {job.id} was not known to have ended within"
                f" {self._timeout:g} s, and its host cannot be reached; that ends the job by"
                " itself"
            )
        process = CompletedProcess(None, None, b"", b"")
        self._start.describe(process)
        self._settle(error=SshCommandTimeout(text, process=process))

    def _settle(
        self,
        process: Optional[CompletedProcess] = None,
        error: Optional[BaseException] = None,
    ) -> None:
        with _lock:
            if self._is_settled:
                return
            self._is_settled = True
            self._forget_locked()
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(process)

    def _forget_locked(self) -> None:
        for key in [key for key, known in _under_way.items() if known() is self]:
            del _under_way[key]


class _CallingWaiter(Waiter):
    """Calls a method, which must not block, once the job is over."""

    def __init__(self, job: Job, method: "weakref.WeakMethod[Callable[[], None]]") -> None:
        made = job.make_waiter()
        super().__init__(made.job_id, made.token, made.supervisor)
        self._method = method

    def settle(self, seen: Optional[Seen] = None, error: Optional[BaseException] = None) -> None:
        """See the base class."""
        super().settle(seen, error)
        _call(self._method)


def _call(method: "weakref.WeakMethod[Callable[[], None]]") -> None:
    function = method()
    if function is not None:
        function()


def _in_thread(function: Callable[..., None], *args: Any) -> None:
    threading.Thread(target=function, args=args, name="ssh-service-detached", daemon=True).start()


def _after_fork_in_child() -> None:
    global _lock
    _lock = Lock()  # a thread that does not exist in the child may have held it
    _under_way.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
