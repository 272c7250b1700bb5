"""`SshClientCache`: one live connection per destination, shared by all threads of the process."""

from __future__ import annotations

import os
import time
import weakref
from typing import Callable, Dict, List, Optional, Set, Tuple, TypeVar, Union

from ssh_service import events, params
from ssh_service.connect import dial
from ssh_service.connections.client import SshClient
from ssh_service.connections.dials import Dialer
from ssh_service.connections.entries import Connection, Lease, Slot, Target
from ssh_service.connections.lender import Lender
from ssh_service.errors import SshConfigError
from ssh_service.locks import Lock
from ssh_service.params import ConnectKey

# The default of `max_destinations`.  Each connection takes a thread, a file descriptor (a process
# can commonly have 1024) and some 100 KiB.
MAX_DESTINATIONS = 1000

T = TypeVar("T")


class SshClientCache:
    """
    A cache of SSH connections: one live connection per destination, shared between threads.

    Parameters
    ----------
    client_factory : Callable[[], SshClient]
        Returns the client of each new connection; usually a subclass of `SshClient` with hooks.
    max_destinations : Optional[int]
        The most destinations to keep, with their connections; None: no limit.  Beyond this limit,
        unused destinations are evicted and their connections closed, least recently used first,
        soon after the next dial or release.  Connections in use are never evicted, so there may
        be more.
    dialer : Callable
        Makes a connection; for tests.

    Attributes
    ----------
    max_destinations : Optional[int]
        The current limit; may be changed.

    Raises
    ------
    SshConfigError
        `client_factory` is not callable, or `max_destinations` is not a positive integer (a
        `ValueError`).

    Notes
    -----
    Thread safety.  Every method may be called from any thread.

    Guarantees.  However many callers wait, there is at most one dial per destination at a time.

    A slow or dead host delays only its own callers: each destination's entry has its own lock, the
    per-key lock, and its own refcount, which counts the leases of its connections.

    Callers share a connection only if their parameters agree in everything that distinguishes
    connections, including credentials, host-key policy and route.

    Only `cleanup`, or the last `exit`, closes a connection in use; operations in progress then
    fail at once.  A lost connection is removed at once, and the next caller gets a new one.

    An exception of a signal handler (Ctrl-C) loses no lease and no dial, and leaves no lock taken.
    A forked child starts with an empty cache and never harms its parent's connections.

    If a cache is dropped without `cleanup`, its connections are closed when it is collected, with
    a `ResourceWarning`.  Leases, and commands and copies in progress, keep the cache alive.
    """

    def __init__(
        self,
        client_factory: Callable[[], SshClient] = SshClient,
        *,
        max_destinations: Optional[int] = MAX_DESTINATIONS,
        dialer: Dialer = dial,
    ) -> None:
        if not callable(client_factory):
            raise SshConfigError(
                "client_factory: expected a class such as SshClient, or a function, got a"
                f" {type(client_factory).__name__}"
            )
        if max_destinations is not None and not (
            isinstance(max_destinations, int) and max_destinations >= 1
        ):
            raise SshConfigError(f"max_destinations must be at least 1, got {max_destinations!r}")
        # Long-lived users of connections refer to the lender, so they do not keep the cache alive.
        self.lender = Lender(client_factory, max_destinations, dialer)
        self.lender.bind_cache(self)
        self._slots = self.lender.slots
        self._lock = Lock()  # held while the subscribers are changed
        for known in list(_caches):
            if known() is None:
                _caches.discard(known)
        _caches.add(weakref.ref(self))

    def __del__(self) -> None:
        if hasattr(self, "lender"):  # `__init__` did not fail
            self.lender.close_dropped()

    @property
    def max_destinations(self) -> Optional[int]:
        """The most destinations to keep; None: no limit."""
        return self._slots.max_destinations

    @max_destinations.setter
    def max_destinations(self, most: Optional[int]) -> None:
        self._slots.max_destinations = most

    # Contents.

    def __len__(self) -> int:
        return len(self._live_slots())

    def __str__(self) -> str:
        names = ", ".join(sorted(slot.target.connection_id for slot in self._live_slots()))
        return f"{type(self).__name__}({names})"

    def _live_slots(self) -> List[Slot]:
        return [slot for slot in self._slots.all_slots() if slot.is_live()]

    def stats(self) -> Dict[str, int]:
        """
        Return the current and the accumulated counts.

        Returns
        -------
        Dict[str, int]
            Current: ``connections`` (live), ``leases``, ``waiting`` (threads that wait for a
            dial).  Accumulated: ``dials`` (started), ``reconnects`` (connections that replaced an
            earlier one), ``losses`` (lost connections), ``refusals`` (sessions that a server
            refused; the command waited, or used another connection), ``drops`` (attempts to dial
            that a server with too many connections dropped).
        """
        return {"connections": len(self), **self._slots.stats()}

    @property
    def subscribers(self) -> Tuple[events.Subscriber, ...]:
        """The subscribers to events; without subscribers, events cost nothing."""
        return self.lender.subscribers

    def subscribe(self, subscriber: events.Subscriber) -> Callable[[], None]:
        """
        Subscribe to the events of connections, commands and copies.

        Parameters
        ----------
        subscriber : Callable[[Event], Any]
            Called with each event of `ssh_service.events`, in order, on the callback thread.  The
            function may block, but it delays hooks and other subscribers.  An exception that it
            raises is logged.

        Returns
        -------
        Callable[[], None]
            A function that unsubscribes.  Events of commands and copies that are in progress at
            that time are still delivered.

        Raises
        ------
        SshConfigError
            `subscriber` is not callable.
        """
        if not callable(subscriber):
            raise SshConfigError(f"subscribe: expected a function, got {subscriber!r}")
        with self._lock:
            self.lender.subscribers = (*self.subscribers, subscriber)
        return lambda: self._unsubscribe(subscriber)

    def _unsubscribe(self, subscriber: events.Subscriber) -> None:
        with self._lock:
            left = tuple(s for s in self.subscribers if s is not subscriber)
            self.lender.subscribers = left

    # Opening and closing.

    def enter(self) -> None:
        """Keep the connections until `exit` has been called as often as `enter`."""
        self._slots.enter()

    def exit(self) -> None:
        """
        Undo one call of `enter`; the last `exit` closes all connections.

        Raises
        ------
        SshCacheClosed
            `exit` was called more often than `enter` (a `RuntimeError`).
        """
        try:
            if self._slots.is_entered_once():
                self.lender.wait_for_endings()
        finally:
            self.lender.close_and_wait(self._slots.leave())

    def cleanup(self) -> None:
        """
        Close all connections; operations in progress fail at once.

        First, it waits up to 2.5 s for commands that are being ended, by a timeout or because they
        were cancelled or interrupted.
        """
        try:
            self.lender.wait_for_endings()
        finally:
            self.lender.close_and_wait(self._slots.retire_all())

    @property
    def generation(self) -> object:
        """An object that identifies the current generation; `cleanup` replaces it."""
        return self._slots.generation

    def session_pool(self, key: ConnectKey, make: Callable[[], T]) -> T:
        """
        Return the session pool of a destination; make it if necessary.

        The pool is dropped when the destination is evicted or all connections are closed.

        Parameters
        ----------
        key : ConnectKey
            The key of the destination.
        make : Callable[[], T]
            Makes the pool.  It must be cheap: if two threads make a pool at the same time, one of
            the pools is discarded.

        Returns
        -------
        T
            The pool; the same object for all callers.
        """
        now = time.monotonic()
        found = self._slots.session_pool(key, now)
        if found is None:
            found = self._slots.set_session_pool(key, make(), now)
        return found  # type: ignore[no-any-return]

    # Connections.

    def get_client_connection(self, connect_params: params.Destination) -> Connection:
        """
        Return the live connection to a destination; dial if necessary.

        Parameters
        ----------
        connect_params : Union[str, Mapping[str, Any], Host]
            ``"[user@]host[:port]"``, a `Host`, or settings with asyncssh's names:
            ``host`` and optionally ``port``, ``username``, ``client_keys``, ``known_hosts``, ...;
            see `ssh_service.params.resolve`.

        Returns
        -------
        Tuple[SshTransport, SshClient]
            The connection (a `paramiko.Transport`) and its client.

        Raises
        ------
        SshConfigError
            A parameter is missing, unknown or invalid.
        SshConnectError
            No authenticated connection could be made.
        """
        connect_params = params.conceal(connect_params)
        lease = self.acquire(params.resolve(connect_params))
        lease.release()
        return lease.connection.result()

    def lease(
        self,
        connect_params: params.Destination,
        *,
        idle_timeout: Optional[float] = None,
        max_lifetime: Optional[float] = None,
    ) -> "_LeaseContext":
        """
        Return a context manager that leases the connection to a destination.

        The connection does not expire during the ``with`` block.

        Parameters
        ----------
        connect_params : Union[str, Mapping[str, Any], Host]
            The destination, as for `get_client_connection`.
        idle_timeout : Optional[float]
            Seconds after which the connection is closed if it is unused; None: keep the previous
            limit, or no limit.
        max_lifetime : Optional[float]
            Seconds after which the connection is replaced, once it is unused; None: keep the
            previous limit, or no limit.

        Returns
        -------
        ContextManager[Tuple[SshTransport, SshClient]]
            The ``with`` statement connects if necessary, and binds the connection and its client.
            It raises the same errors as `get_client_connection`.

        Raises
        ------
        SshConfigError
            A limit is not a number of seconds.
        """
        connect_params = params.conceal(connect_params)
        check_limits(idle_timeout, max_lifetime)
        return _LeaseContext(self, connect_params, (idle_timeout, max_lifetime))

    def acquire(
        self,
        target: Target,
        deadline: Optional[float] = None,
        connection_no: int = 0,
        idle_timeout: Optional[float] = None,
        max_lifetime: Optional[float] = None,
    ) -> Lease:
        """
        Lease a connection, which the caller must release; dial if necessary.

        Parameters
        ----------
        target : Target
            The target, from `ssh_service.params.resolve`.
        deadline : Optional[float]
            The monotonic instant until which to wait; None: only the destination's connect
            timeout, which applies in any case.
        connection_no : int
            0 for the destination's first connection, 1, 2, ... for additional ones.
        idle_timeout, max_lifetime : Optional[float]
            Seconds, as for `release`; they apply even if the lease is never released.

        Returns
        -------
        Lease
            The lease; its `connection` is settled with the transport and its client.

        Raises
        ------
        SshConfigError
            A key file cannot be read (a `ValueError`).
        SshConnectError
            No authenticated connection could be made; each caller gets its own copy of the error.
        """
        lease = self.request(target, connection_no, idle_timeout, max_lifetime)
        try:
            self.lender.wait(lease, target, deadline)
        except BaseException:
            lease.release()
            raise
        return lease

    def request(
        self,
        target: Target,
        connection_no: int = 0,
        idle_timeout: Optional[float] = None,
        max_lifetime: Optional[float] = None,
    ) -> Lease:
        """
        Lease a connection without waiting; it may still have to be dialled.

        Parameters
        ----------
        target : Target
            The target, from `ssh_service.params.resolve`.
        connection_no : int
            0 for the destination's first connection, 1, 2, ... for additional ones.
        idle_timeout, max_lifetime : Optional[float]
            Seconds, as for `release`; they apply even if the lease is never released.

        Returns
        -------
        Lease
            The lease; its `connection` is settled when the dial ends.  The caller must release it
            even if the dial fails.

        Raises
        ------
        SshConfigError
            A key file cannot be read (a `ValueError`).
        """
        return self.lender.request(target, connection_no, idle_timeout, max_lifetime)

    def renew(self, lease: Union[Lease, Slot]) -> Optional[Lease]:
        """
        Return another lease of the same connection.

        Parameters
        ----------
        lease : Union[Lease, Slot]
            A lease from `acquire` or `request`, released or not; or its `slot`.

        Returns
        -------
        Optional[Lease]
            The new lease; None if the connection is no longer in the cache, because it was lost or
            closed.
        """
        return self.lender.renew(lease.slot if isinstance(lease, Lease) else lease)

    def release(
        self,
        lease: Lease,
        idle_timeout: Optional[float] = None,
        max_lifetime: Optional[float] = None,
    ) -> None:
        """
        Release a lease; do nothing if it was already released.

        Parameters
        ----------
        lease : Lease
            A lease from `acquire`, `request` or `renew`.
        idle_timeout : Optional[float]
            Seconds after which the connection is closed if it is unused; None: keep the previous
            limit, or no limit.
        max_lifetime : Optional[float]
            Seconds after which the connection is replaced, once it is unused; None: keep the
            previous limit, or no limit.
        """
        lease.release(idle_timeout, max_lifetime)

    def _after_fork_in_child(self) -> None:
        self._lock = Lock()
        self.lender.reset_after_fork()


class _LeaseContext:
    """The context manager that `SshClientCache.lease` returns."""

    def __init__(
        self,
        cache: SshClientCache,
        connect_params: params.Destination,
        limits: Tuple[Optional[float], Optional[float]],
    ) -> None:
        self._cache = cache
        self._connect_params = connect_params
        self._limits = limits
        self._lease: Optional[Lease] = None

    def __enter__(self) -> Connection:
        if self._lease is not None:
            raise RuntimeError("the result of lease() can be entered only once")
        target = params.resolve(self._connect_params)
        self._lease = self._cache.acquire(target, None, 0, *self._limits)
        # From here on, if the lease is collected, the caller forgot it or an exception lost it.
        self._lease.warn_if_lost = True
        return self._lease.connection.result()

    def __exit__(self, *exc_info: object) -> None:
        if self._lease is not None:
            self._lease.release()


def check_cache(cache: Optional[SshClientCache]) -> None:
    """
    Check a parameter ``cache``; None is valid.

    Raises
    ------
    SshConfigError
        `cache` is not an `SshClientCache`.
    """
    if cache is not None and not isinstance(cache, SshClientCache):
        raise SshConfigError(f"cache: expected an SshClientCache, got {type(cache).__name__}")


def check_limits(*limits: Optional[float]) -> None:
    """
    Check the limits of a lease before it is made, because `release` must not fail.

    Raises
    ------
    SshConfigError
        A limit is not a number of seconds, 0 or more.
    """
    for limit in limits:
        if limit is not None and not (isinstance(limit, (int, float)) and limit >= 0):
            raise SshConfigError(
                f"idle_timeout, max_lifetime: expected 0 or more seconds, got {limit!r}"
            )


# (Not a WeakSet: its callbacks would swallow an exception of a signal handler.)
_caches: "Set[weakref.ref[SshClientCache]]" = set()


def _after_fork_in_child() -> None:
    for known in list(_caches):
        cache = known()
        if cache is not None:
            cache._after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
