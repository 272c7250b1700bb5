"""
The worker processes' side of a run on a process pool.

Each worker process has a pipe to the caller.  Through the pipe, the worker announces what it is
about to send and reports each result, and the caller cancels.  A call of the executor therefore
lasts only until the work at a host has started, and one process works at many hosts concurrently.
"""

from __future__ import annotations

import os
import pickle
import threading
from multiprocessing.connection import Client, Connection
from typing import Dict, Tuple

from ssh_service.errors import SshServiceError
from ssh_service.fleet import worker
from ssh_service.fleet.result import HostResult
from ssh_service.fleet.worker import HostTask
from ssh_service.locks import Lock

__all__ = ["CANCELLED", "FULL", "STARTED", "start"]

# The return values of `start`.
STARTED, FULL, CANCELLED = "started", "full", "cancelled"
# Seconds that a process at capacity waits before it leaves the host to another process.
_CAPACITY_TIMEOUT = 0.05

_lock = Lock()
_runs: Dict[Tuple[int, str], "_WorkerRun"] = {}  # guarded by _lock; by process and run


class _WorkerRun:
    """A worker process's part of one run."""

    def __init__(self, run: str, address: str, authkey: bytes, capacity: int) -> None:
        self._run = run
        self._capacity = threading.Semaphore(capacity)
        self._lock = Lock()
        self._pipe: Connection = Client(address, authkey=authkey)
        threading.Thread(target=self._listen, name="ssh-service-fleet-worker", daemon=True).start()

    def start(self, host_task: HostTask) -> bool:
        # While this process waits, the other processes take hosts.
        if not self._capacity.acquire(timeout=_CAPACITY_TIMEOUT):
            return False
        self._send("accepted", host_task.number)
        worker.start_task(
            host_task,
            lambda: self._send("sending", host_task.number),
            lambda result: self._done(host_task.number, result),
        )
        return True

    def _done(self, number: int, result: HostResult) -> None:
        self._capacity.release()
        try:
            payload = pickle.dumps(result)
        except Exception as error:  # a result may contain an error of any class
            payload = pickle.dumps(
                HostResult(result.host, result.status, result.seconds, error=_pickle_error(error))
            )
        try:
            self._send("done", number, payload)
        except OSError:
            pass  # the caller no longer waits for the result

    def _send(self, kind: str, number: int, payload: bytes = b"") -> bool:
        with self._lock:
            self._pipe.send((kind, number, payload))
        return True  # the data is in the socket's buffer, even if this process is killed now

    def _listen(self) -> None:
        try:
            while self._pipe.recv() == "cancel":
                worker.cancel(self._run)
        except (EOFError, OSError):
            pass  # the caller is gone: cancel as well
        with _lock:
            _runs.pop((os.getpid(), self._run), None)
        worker.cancel(self._run)
        worker.forget(self._run)
        with self._lock:
            self._pipe.close()


def _pickle_error(error: Exception) -> SshServiceError:
    return SshServiceError(f"the result cannot be pickled: {error}")


def start(host_task: HostTask, address: str, authkey: bytes, capacity: int) -> str:
    """Start the work at one host, unless this process already has `capacity` hosts."""
    if worker.is_cancelled(host_task.run):
        return CANCELLED
    with _lock:
        key = (os.getpid(), host_task.run)
        if key not in _runs:
            _runs[key] = _WorkerRun(host_task.run, address, authkey, capacity)
        worker_run = _runs[key]
    return STARTED if worker_run.start(host_task) else FULL
