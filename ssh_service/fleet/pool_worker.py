"""
A process pool's side of a run: each worker process has a line to the caller.

Over that line go the claims before anything is sent, the results as they come, and the word to
stop; so a call of the executor lasts only until the host has been begun, and one process has many
hosts under way.
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
from ssh_service.fleet.worker import Task

__all__ = ["BEGUN", "CANCELLED", "FULL", "begin"]

# What a call comes to.
BEGUN, FULL, CANCELLED = "begun", "full", "cancelled"
# Seconds that a full process waits before it lets another have the host.
_FULL_PAUSE = 0.05

_lock = threading.Lock()
_stations: Dict[Tuple[int, str], "_Station"] = {}  # guarded by _lock; by process and run


class _Station:
    """One run, in one worker process."""

    def __init__(self, run: str, address: str, authkey: bytes, share: int) -> None:
        self._run = run
        self._room = threading.Semaphore(share)
        self._lock = threading.Lock()
        self._line: Connection = Client(address, authkey=authkey)
        threading.Thread(
            target=self._listen, name="ssh-service-fleet-station", daemon=True
        ).start()

    def begin(self, task: Task) -> bool:
        # While it waits, other processes take what there is to do.
        if not self._room.acquire(timeout=_FULL_PAUSE):
            return False
        self._send("taken", task.number)
        worker.perform(
            task,
            lambda: self._send("claim", task.number),
            lambda result: self._done(task.number, result),
        )
        return True

    def _done(self, number: int, result: HostResult) -> None:
        self._room.release()
        try:
            told = pickle.dumps(result)
        except Exception as error:  # of whatever a result holds
            told = pickle.dumps(
                HostResult(result.host, result.status, result.seconds, error=_plain(error))
            )
        try:
            self._send("done", number, told)
        except OSError:
            pass  # nobody waits for it any more

    def _send(self, kind: str, number: int, told: bytes = b"") -> bool:
        with self._lock:
            self._line.send((kind, number, told))
        return True  # it is in the socket, and outlives this process

    def _listen(self) -> None:
        try:
            while self._line.recv() == "cancel":
                worker.cancel(self._run)
        except (EOFError, OSError):
            pass  # the caller is gone: as if it had said that it is over
        with _lock:
            _stations.pop((os.getpid(), self._run), None)
        worker.cancel(self._run)
        worker.forget(self._run)
        with self._lock:
            self._line.close()


def _plain(error: Exception) -> SshServiceError:
    return SshServiceError(f"its result cannot be sent: {error}")


def begin(task: Task, address: str, authkey: bytes, share: int) -> str:
    """Begin with one host, if this process has room for it."""
    if worker.is_cancelled(task.run):
        return CANCELLED
    with _lock:
        key = (os.getpid(), task.run)
        if key not in _stations:
            _stations[key] = _Station(task.run, address, authkey, share)
        station = _stations[key]
    return BEGUN if station.begin(task) else FULL
