"""The cache: one live connection per destination, shared by all threads of the process."""

from __future__ import annotations

import os
import threading
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
from ssh_service.params import ConnectKey

# Destinations to keep where nobody says how many: a connection each takes a thread, a descriptor
# (of 1024 that a process may have, commonly) and some 100 KiB.
MAX_DESTINATIONS = 1000

T = TypeVar("T")


class SshClientCache:
    """
    Share one live connection per destination between threads.

    Parameters
    ----------
    client_factory : Callable[[], SshClient]
        Makes the client of each new connection; a subclass of `SshClient` with hooks of its own.
    max_destinations : Optional[int]
        How many destinations to remember, with their connections; None: any number.  Beyond it,
        those that nobody uses are forgotten, and their connections closed, soon after the next
        dial or release: first those that were used longest ago.  Connections in use are never
        closed for it, so there may be more.
    dialer : Callable
        Makes a connection; for tests.

    Attributes
    ----------
    max_destinations : Optional[int]
        As given; may be changed.

    Raises
    ------
    SshConfigError
        `client_factory` is not callable, or `max_destinations` is not a positive number (a
        `ValueError`).

    Notes
    -----
    Thread safety.  Every method may be called from any thread.

    Guarantees.  At most one dial per destination is in progress, however many ask.  A slow or
    dead host delays its own callers only: each destination's entry has its own lock, the per-key
    lock, and its own refcount, which counts the leases of its connections.  A connection is lent
    only to callers whose parameters agree in everything that makes two connections different:
    credentials, host-key policy and route included.  Only `cleanup` (or the last `exit`) closes a
    connection in use; then whatever was in flight ends with an error at once.  A lost connection
    leaves at once; the next caller gets a new one.  An exception of a signal's handler (Ctrl-C)
    loses no lease and no dial, and leaves no lock taken.  A forked child starts with an empty
    cache and never harms its parent's connections.

    A cache that is dropped without `cleanup` has its connections closed when it is collected,
    with a `ResourceWarning`.  Leases keep it, and so do commands and copies under way.
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
        # Long-lived users of connections refer to this, and not to the cache.
        self.lender = Lender(client_factory, max_destinations, dialer)
        self.lender.bind_cache(self)
        self._slots = self.lender.slots
        self._lock = threading.Lock()  # held to change the subscribers
        for known in list(_caches):
            if known() is None:
                _caches.discard(known)
        _caches.add(weakref.ref(self))

    def __del__(self) -> None:
        if hasattr(self, "lender"):  # it was made
            self.lender.close_dropped()

    @property
    def max_destinations(self) -> Optional[int]:
        """See the class."""
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
        Count what there is and what happened.

        Returns
        -------
        Dict[str, int]
            ``connections`` (live), ``leases``, ``waiting`` (threads that wait for a dial),
            ``dials`` (begun), ``reconnects`` (made where one was before), ``losses``, ``refusals``
            (sessions beyond what a server admits; the command waited, or took a further
            connection), ``drops`` (attempts to dial that a server with too many dropped).
        """
        return {"connections": len(self), **self._slots.stats()}

    @property
    def subscribers(self) -> Tuple[events.Subscriber, ...]:
        """The subscribers to events; without one, events cost nothing."""
        return self.lender.subscribers

    def subscribe(self, subscriber: events.Subscriber) -> Callable[[], None]:
        """
        Subscribe to the events of connections, commands and copies.

        Parameters
        ----------
        subscriber : Callable[[Event], Any]
            Called with each event of `ssh_service.events`, in order, on the callback thread: it
            may wait, but others' callbacks wait for it.  What it raises is logged.

        Returns
        -------
        Callable[[], None]
            Unsubscribes.  Events of commands and copies in progress are still delivered.

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
        """Keep the connections until `exit` has been called as often."""
        self._slots.enter()

    def exit(self) -> None:
        """
        Undo one `enter`; the last one closes all connections.

        Raises
        ------
        SshCacheClosed
            It was called once too often (a `RuntimeError`).
        """
        self.lender.close_and_wait(self._slots.leave())

    def cleanup(self) -> None:
        """Close all connections; what is in flight ends with an error at once."""
        self.lender.close_and_wait(self._slots.retire_all())

    @property
    def generation(self) -> object:
        """An object that is replaced by another one when all connections are closed."""
        return self._slots.generation

    def session_pool(self, key: ConnectKey, make: Callable[[], T]) -> T:
        """
        Return the session pool of a destination, made if missing.

        The pool is dropped when the destination is evicted or all connections are closed.

        Parameters
        ----------
        key : ConnectKey
            The key of the destination.
        make : Callable[[], T]
            Makes the pool; must be cheap, since the object of a losing racer is discarded.

        Returns
        -------
        T
            The same for all callers.
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
            ``host`` and, where wanted, ``port``, ``username``, ``client_keys``, ``known_hosts``,
            ... by asyncssh's names; see `ssh_service.params.resolve`.

        Returns
        -------
        Tuple[SshTransport, SshClient]
            The connection (a `paramiko.Transport`) and its client.

        Raises
        ------
        SshConfigError
            A parameter is missing, unknown or wrong.
        SshConnectError
            No authenticated connection could be had.
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
        Use the connection to a destination; it is not closed by expiry meanwhile.

        Parameters
        ----------
        connect_params : Union[str, Mapping[str, Any], Host]
            As for `get_client_connection`, which also says what is raised.
        idle_timeout, max_lifetime : Optional[float]
            Seconds, as for `release`.

        Returns
        -------
        ContextManager[Tuple[SshTransport, SshClient]]
            For ``with``: the connection and its client.

        Raises
        ------
        SshConfigError
            As in `get_client_connection`; or a limit is not a number of seconds.
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
        Lease a connection; release it when done.

        Parameters
        ----------
        target : Target
            The target, from `ssh_service.params.resolve`.
        deadline : Optional[float]
            A monotonic instant; the destination's own connect time-out holds all the same.
        connection_no, idle_timeout, max_lifetime
            As for `request`.

        Returns
        -------
        Lease
            Its `connection` is settled: the transport and its client.

        Raises
        ------
        SshConnectError
            No authenticated connection could be had; a fresh error for each caller.
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
            As for `release`; they hold if the lease is lost, too.

        Returns
        -------
        Lease
            Its `connection` is settled when the dial ends.  Release it even if that fails.
        """
        return self.lender.request(target, connection_no, idle_timeout, max_lifetime)

    def renew(self, lease: Union[Lease, Slot]) -> Optional[Lease]:
        """
        Lease a connection once more.

        Parameters
        ----------
        lease : Union[Lease, Slot]
            From `acquire` or `request`, released or not; or its `slot`.

        Returns
        -------
        Optional[Lease]
            None if the connection has left the cache, as it is lost or being closed.
        """
        return self.lender.renew(lease.slot if isinstance(lease, Lease) else lease)

    def release(
        self,
        lease: Lease,
        idle_timeout: Optional[float] = None,
        max_lifetime: Optional[float] = None,
    ) -> None:
        """
        Release a lease; do nothing if it was released before.

        Parameters
        ----------
        lease : Lease
            From `acquire`, `request` or `renew`.
        idle_timeout : Optional[float]
            Seconds after which the connection is closed if nobody uses it; None: as before, or
            never.
        max_lifetime : Optional[float]
            Seconds after which it is replaced, once nobody uses it; None: as before, or never.
        """
        lease.release(idle_timeout, max_lifetime)

    def _after_fork_in_child(self) -> None:
        self._lock = threading.Lock()
        self.lender.reset_after_fork()


class _LeaseContext:
    """What `SshClientCache.lease` returns: a connection for as long as a ``with`` lasts."""

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
        # From here on, a lease that is collected was forgotten, or lost to an exception.
        self._lease.warn_if_lost = True
        return self._lease.connection.result()

    def __exit__(self, *exc_info: object) -> None:
        if self._lease is not None:
            self._lease.release()


def check_cache(cache: Optional[SshClientCache]) -> None:
    """
    Refuse an object that is not an `SshClientCache`.

    Raises
    ------
    SshConfigError
        It is something else.

    """
    if cache is not None and not isinstance(cache, SshClientCache):
        raise SshConfigError(f"cache: expected an SshClientCache, got a {type(cache).__name__}")


def check_limits(*limits: Optional[float]) -> None:
    """
    Check limits before a connection is leased that could then not be released.

    Raises
    ------
    SshConfigError
        One is not a number of seconds.

    """
    for limit in limits:
        if limit is not None and not (isinstance(limit, (int, float)) and limit >= 0):
            raise SshConfigError(
                f"idle_timeout, max_lifetime: expected 0 or more seconds, got {limit!r}"
            )


# (No WeakSet: an exception of a signal handler would be lost in its callbacks.)
_caches: "Set[weakref.ref[SshClientCache]]" = set()


def _after_fork_in_child() -> None:
    for known in list(_caches):
        cache = known()
        if cache is not None:
            cache._after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
