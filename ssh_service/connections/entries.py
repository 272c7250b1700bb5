"""
The entry of a key in the cache, with its per-key lock and refcount; slots and leases.

A slot is one connection of the entry, or the dial that will deliver this connection.
"""

from __future__ import annotations

import itertools
from typing import Any, Callable, Dict, FrozenSet, List, Optional, Protocol, Set, Tuple

from ssh_service.connections.client import SshClient
from ssh_service.connections.promises import Promise
from ssh_service.locks import Lock
from ssh_service.params import ConnectKey
from ssh_service.transport import SshTransport
from ssh_service.transport.lock_free import LockFreeEvent

NEVER = float("inf")

Connection = Tuple[SshTransport, SshClient]

_tokens = itertools.count(1)  # `next` is atomic


class Target(Protocol):
    """The part of a target that the cache uses: a `ConnectParams`, or an object with a dialer."""

    @property
    def key(self) -> ConnectKey:
        """The connect key, which is equal for targets that may share a connection."""

    @property
    def connection_id(self) -> str:
        """``user@host:port``."""

    @property
    def hostname(self) -> str:
        """The name or address to dial."""

    @property
    def port(self) -> int:
        """The TCP port."""

    @property
    def connect_timeout(self) -> float:
        """Seconds that a dial may take."""

    @property
    def dialer(self) -> Optional[Callable[..., SshTransport]]:
        """The function that makes the connection; None: the cache's dialer."""


class Generation:
    """All entries of a cache between two calls of `cleanup`, each of which starts another one."""

    __slots__ = ("entries", "is_retired")

    def __init__(self) -> None:
        self.entries: Dict[ConnectKey, CacheEntry] = {}
        self.is_retired = False  # set once: all entries are being closed, or are closed


class CacheEntry:
    """
    The place of a key in the cache, with or without a connection.

    Each entry has its own lock, the per-key lock, and its own refcount, which counts the leases of
    its connections.  A thread that holds the lock of one entry blocks no other key.
    """

    __slots__ = (
        "key",
        "generation",
        "lock",
        "slots",
        "connected",
        "session_pool",
        "used_at",
        "was_evicted",
    )

    def __init__(
        self,
        key: ConnectKey,
        generation: Generation,
        now: float,
        connected: Optional[Set[int]] = None,
    ) -> None:
        self.key = key
        self.generation = generation
        self.lock = Lock()
        # The lock guards all of these fields; some are also read without it.
        self.slots: Dict[int, Slot] = {}  # by connection number
        self.connected: Set[int] = connected or set()  # the numbers that have been connected
        self.session_pool: Any = None  # a `ssh_service.sessions.SessionPool` on the connections
        self.used_at = now
        self.was_evicted = False  # set once, when the cache was over its limit

    def is_removed(self) -> bool:
        """Return whether the entry has left or is leaving the cache: its key needs a new one."""
        return self.was_evicted or self.generation.is_retired

    def all_slots(self) -> List[Slot]:
        """Return the slots, read without the lock."""
        return list(self.slots.values())

    @property
    def refcount(self) -> int:
        """The number of leases of the entry's connections, read without the lock."""
        return sum(len(slot.leases) for slot in self.all_slots())

    def is_in_use(self) -> bool:
        """Return whether a slot of the entry is in use."""
        return any(slot.is_in_use() for slot in self.all_slots())


class Slot:
    """
    A connection of an entry, or the dial that will deliver it; the entry's lock guards it.

    Attributes
    ----------
    connection : Promise[Tuple[SshTransport, SshClient]]
        The transport and its client; settled when the dial has ended.
    """

    __slots__ = (
        "target",
        "connection_no",
        "entry",
        "connection",
        "hook_done",
        "transport",
        "dialling",
        "failed",
        "leases",
        "waiters",
        "made_at",
        "idle_since",
        "idle_timeout",
        "max_lifetime",
        "next_expiry_check",
        "__weakref__",
    )

    def __init__(self, target: Target, connection_no: int, entry: CacheEntry) -> None:
        self.target = target
        self.connection_no = connection_no
        self.entry = entry
        self.connection: Promise[Connection] = Promise()
        self.hook_done = LockFreeEvent()  # set when `connection_made` has returned
        # The lock of the entry guards all of these fields.
        self.transport: Optional[SshTransport] = None  # set once, when the dial has succeeded
        self.dialling: Optional[SshTransport] = None  # set once, when the dial has a stream
        self.failed = False
        # The tokens of the leases.  Each is added or discarded by one operation, which may be
        # repeated, so an exception of a signal handler cannot leave a wrong count.
        self.leases: Set[int] = set()
        self.waiters: Set[int] = set()  # tokens of leases whose threads wait for the dial
        self.made_at = 0.0
        self.idle_since = 0.0
        self.idle_timeout: Optional[float] = None
        self.max_lifetime: Optional[float] = None
        self.next_expiry_check = NEVER  # the monotonic instant of the timer's next check

    @property
    def is_retired(self) -> bool:
        """Whether `cleanup` closes the slot, with all others of its generation."""
        return self.entry.generation.is_retired

    @property
    def dial_phase(self) -> str:
        """The phase of the dial, read without the lock; ``connect`` until it has a stream."""
        transport = self.dialling
        if transport is None:
            return "connect"
        if not transport.remote_version:
            return "banner"
        return "auth" if transport.initial_kex_done else "kex"

    def is_in_cache(self) -> bool:
        """Return whether the slot is still in the cache."""
        return not self.entry.is_removed() and self.entry.slots.get(self.connection_no) is self

    def is_live(self) -> bool:
        """Return whether the slot has a usable connection."""
        return self.transport is not None and self.transport.is_active()

    def is_stale(self) -> bool:
        """Return whether the dial failed or the connection has ended."""
        return self.failed or (self.transport is not None and not self.transport.is_active())

    def is_in_use(self) -> bool:
        """Return whether the slot is leased or being dialled."""
        return bool(self.leases) or (self.transport is None and not self.failed)

    def is_busy(self) -> bool:
        """Return whether the connection has open channels; must not be called under a lock."""
        return self.transport is not None and self.transport.open_channel_count > 0

    def expires_at(self) -> float:
        """Return the monotonic instant at which the connection expires, or `NEVER`."""
        instant = NEVER
        if self.idle_timeout is not None:
            instant = self.idle_since + self.idle_timeout
        if self.max_lifetime is not None:
            instant = min(instant, self.made_at + self.max_lifetime)
        return instant


class _NoSlot:
    """Stands in for the slot of a lease that has none yet."""

    leases: FrozenSet[int] = frozenset()


class LeaseOwner(Protocol):
    """Releases leases: the lender."""

    def release(
        self,
        lease: Lease,
        idle_timeout: Optional[float] = None,
        max_lifetime: Optional[float] = None,
    ) -> None:
        """Release a lease; do nothing if it was already released."""

    def release_lost(self, slot: Slot, token: int, warn_if_lost: bool) -> None:
        """Release a lease whose object was collected; called by the lease's destructor."""


class Lease:
    """
    The right to use a connection, which meanwhile neither expires nor is evicted.

    `SshClientCache.acquire`, `SshClientCache.request` and `SshClientCache.renew` return leases.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.

    Guarantees.  A lease is released only once, however often `release` is called.  If it is never
    released, because the caller forgot it or an exception lost it, it is released when it is
    collected.  A lease keeps its cache alive.
    """

    __slots__ = ("slot", "token", "warn_if_lost", "_owner", "_cache")

    def __init__(self, owner: LeaseOwner, cache: Any = None) -> None:
        self.token = next(_tokens)
        self.warn_if_lost = False  # whether the destructor emits a ResourceWarning
        self._owner = owner
        self._cache = cache  # only keeps the cache alive
        # Set last; replaced by the real slot before the token is added to the slot's leases.
        self.slot: Slot = _NoSlot  # type: ignore[assignment]

    @property
    def connection(self) -> Promise[Connection]:
        """A promise of the transport and its client, settled when the dial ends."""
        return self.slot.connection

    @property
    def target(self) -> Target:
        """The target, with the parameters of the caller who caused the dial."""
        return self.slot.target

    def is_held(self) -> bool:
        """Return whether the lease has not been released yet."""
        return self.token in self.slot.leases

    def release(
        self, idle_timeout: Optional[float] = None, max_lifetime: Optional[float] = None
    ) -> None:
        """Release the lease; do nothing if it was already released."""
        self._owner.release(self, idle_timeout, max_lifetime)

    def __del__(self) -> None:
        # Take no lock: the garbage collector may run while any lock is held.
        if hasattr(self, "slot") and self.token in self.slot.leases:
            self._owner.release_lost(self.slot, self.token, self.warn_if_lost)
