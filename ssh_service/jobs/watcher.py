"""Wait for the ends of the jobs of one destination, for any number of threads."""

from __future__ import annotations

import logging
import os
import random
import time
import weakref
from typing import Dict, List, Optional, Set, Tuple

from ssh_service import background
from ssh_service.background import Timer
from ssh_service.commands.sudo import Sudo
from ssh_service.connections.cache import SshClientCache
from ssh_service.errors import SshJobError
from ssh_service.jobs.questions import Look, Poll, Question
from ssh_service.jobs.record import Seen
from ssh_service.jobs.session import QuestionSession, is_passing
from ssh_service.locks import Lock
from ssh_service.params import ConnectKey, ConnectParams
from ssh_service.transport.lock_free import LockFreeEvent
from ssh_service.transport.text import printable

_log = logging.getLogger(__name__)

# Seconds between two polls: a fraction of the time waited so far, within bounds.
_POLL_PART, _MIN_POLL, _MAX_POLL = 0.1, 0.05, 1.0
# Seconds after which all jobs are queried again, regardless of the polls.
_LOOK_INTERVAL = 5.0
# Seconds before a poll that failed is repeated; doubled each time.
_MIN_RETRY, _MAX_RETRY = 0.1, 5.0


class Waiter:
    """
    Lets a thread wait for the end of a job.

    Attributes
    ----------
    job_id, token, supervisor
        The job; see `Seen`.
    seen : Optional[Seen]
        The host's report once the job no longer ran.
    error : Optional[BaseException]
        The reason why the job's end cannot be determined.
    settled : LockFreeEvent
        Set once `seen` or `error` is set.
    is_heard : bool
        Whether the host has reported that the job runs.
    problem : Optional[BaseException]
        The reason why the last query failed; the query is repeated.
    """

    def __init__(self, job_id: str, token: str, supervisor: int) -> None:
        self.job_id, self.token, self.supervisor = job_id, token, supervisor
        self.began = time.monotonic()
        self.is_heard = False
        self.problem: Optional[BaseException] = None
        self.seen: Optional[Seen] = None
        self.error: Optional[BaseException] = None
        self.settled = LockFreeEvent()

    def settle(self, seen: Optional[Seen] = None, error: Optional[BaseException] = None) -> None:
        """Wake the waiting thread; runs on the watcher's strand."""
        self.seen, self.error = seen, error
        self.settled.set()


class Watcher(QuestionSession):
    """
    Asks for the states of jobs until they are over.

    Notes
    -----
    Thread safety.  `ask`, `add` and `remove` may be called from any thread.  Everything else runs
    on the strand, one call at a time, and needs no lock.

    Guarantees.  However many threads wait, one question at a time concerns all of their jobs, and
    there is no session while no thread waits or asks.
    """

    def __init__(
        self, cache: SshClientCache, target: ConnectParams, sudo: Optional[Sudo] = None
    ) -> None:
        super().__init__(cache, target, sudo)
        # Only the strand uses the following fields.
        # A waiting thread holds its waiter; if the thread is interrupted, its waiter disappears.
        # (Not a WeakSet: an exception from a signal handler would be lost in its callbacks.)
        self._waiter_refs: "Set[weakref.ref[Waiter]]" = set()
        self._poll: Optional[Look] = None
        self._poll_timer: Optional[Timer] = None
        self._new_ids: Set[str] = set()  # of waiters that may have been added after the end
        self._looked_at = 0.0
        self._retry_delay = _MIN_RETRY

    def add(self, waiter: Waiter) -> None:
        """Settle a waiter once its job no longer runs; only its thread keeps it alive."""
        background.submit(self._strand, self._add_waiter, waiter)

    def remove(self, waiter: Waiter) -> None:
        """Remove a waiter."""
        background.submit(self._strand, self._remove_waiter, waiter)

    def _is_needed(self) -> bool:
        """See the base class."""
        return bool(self._waiters())

    def _on_settled(self, question: Question) -> None:
        """See the base class."""
        if self._poll is not None and question is self._poll:
            self._on_poll(self._poll)

    def _waiters(self) -> List[Waiter]:
        """Return the waiters whose threads are still waiting."""
        found = {ref: ref() for ref in self._waiter_refs}
        self._waiter_refs.difference_update([ref for ref, one in found.items() if one is None])
        return [one for one in found.values() if one is not None]

    def _add_waiter(self, waiter: Waiter) -> None:
        self._waiter_refs.add(weakref.ref(waiter))
        self._new_ids.add(waiter.job_id)
        self._poll_in(0.0)

    def _remove_waiter(self, waiter: Waiter) -> None:
        self._waiter_refs.discard(weakref.ref(waiter))
        if self._asked is None:
            self._schedule_idle()

    def _poll_in(self, delay: float) -> None:
        if self._poll is None:
            if self._poll_timer is not None:
                self._poll_timer.cancel()
            self._poll_timer = self._call_in(delay, self._ask_poll)

    def _ask_poll(self) -> None:
        self._poll_timer = None
        if self._poll is not None:
            return
        waiters = self._waiters()
        if not waiters:
            if self._asked is None:
                self._schedule_idle()
            return
        now = time.monotonic()
        if self._new_ids:
            self._poll = Look(sorted(self._new_ids))
            self._new_ids.clear()
        elif now - self._looked_at >= _LOOK_INTERVAL:
            self._looked_at = now
            self._poll = Look(sorted({waiter.job_id for waiter in waiters}))
        else:
            jobs = {(one.job_id, one.token, one.supervisor) for one in waiters}
            self._poll = Poll(sorted(jobs))
        self._add_question(self._poll)

    def _on_poll(self, poll: Look) -> None:
        self._poll = None
        error, waiters = poll.error, self._waiters()
        if error is not None and not is_passing(error):
            for waiter in waiters:
                waiter.settle(error=error)
            self._waiter_refs.clear()
        elif error is not None:
            if waiters:
                _log.info("%s; asking again about %d jobs", error, len(waiters))
            for waiter in waiters:
                waiter.problem = error
            self._looked_at = 0.0
            self._poll_in(self._retry_delay * random.uniform(0.5, 1.0))
            self._retry_delay = min(2 * self._retry_delay, _MAX_RETRY)
        else:
            self._retry_delay = _MIN_RETRY
            problem = self._refusal(poll.refusal) if poll.refusal else None
            self._settle(waiters, {seen.job_id: seen for seen in poll.answer}, problem)
            now, waiters = time.monotonic(), self._waiters()
            waited = min((now - waiter.began for waiter in waiters), default=0.0)
            if waiters:
                due = min(max(waited * _POLL_PART, _MIN_POLL), _MAX_POLL)
                self._poll_in(0.0 if self._new_ids else due)

    def _refusal(self, text: str) -> SshJobError:
        where = self._target.connection_id
        return SshJobError(f"{where}: {printable(text)}", connection_id=where)

    def _settle(
        self, waiters: List[Waiter], found: Dict[str, Seen], problem: Optional[SshJobError]
    ) -> None:
        for waiter in waiters:
            seen = found.get(waiter.job_id)
            waiter.problem = problem if seen is None else None
            if seen is None:
                continue
            if seen.state.name == "running" and seen.token == waiter.token:
                waiter.is_heard = True
                continue
            waiter.settle(seen)
            self._waiter_refs.discard(weakref.ref(waiter))


_lock = Lock()
# (Not a WeakKeyDictionary: an exception from a signal handler would be lost in its callbacks.)
_watchers: "Dict[weakref.ref[SshClientCache], Dict[Tuple[ConnectKey, Optional[Sudo]], Watcher]]"
_watchers = {}  # guarded by _lock


def watcher_of(
    cache: SshClientCache, target: ConnectParams, sudo: Optional[Sudo] = None
) -> Watcher:
    """
    Return the watcher of a destination, which asks by sudo, if at all, with these options.

    Raises
    ------
    SshConfigError
        A key file cannot be used.
    """
    key, of = (target.key, sudo), weakref.ref(cache)
    made = Watcher(cache, target, sudo)
    with _lock:
        found = _watchers.get(of, {}).get(key)
        if found is None or not found.is_of(cache):
            _forget_dead_locked()
            _watchers.setdefault(of, {})[key] = found = made
        return found


def _forget_dead_locked() -> None:
    for of in [one for one in _watchers if one() is None]:
        del _watchers[of]


def _after_fork_in_child() -> None:
    global _lock
    _lock = Lock()  # a thread that does not exist in the child may have held it
    _watchers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
