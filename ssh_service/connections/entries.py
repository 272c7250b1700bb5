"""What the cache knows of a key: its entry, a slot for each connection, and who leases it."""

from __future__ import annotations

import itertools
import threading
from typing import Any, Dict, FrozenSet, List, Optional, Protocol, Set, Tuple

from ssh_service.connections.client import SshClient
from ssh_service.connections.promises import Promise
from ssh_service.params import ConnectKey, ConnectParams
from ssh_service.transport import SshTransport
from ssh_service.transport.lock_free import LockFreeEvent

NEVER = float("inf")

Connection = Tuple[SshTransport, SshClient]

_tokens = itertools.count(1)  # `next` is atomic


class Generation:
    """All entries of a cache up to a `cleanup`; then another takes its place."""

    __slots__ = ("entries", "is_retired")

    def __init__(self) -> None:
        self.entries: Dict[ConnectKey, CacheEntry] = {}
        self.is_retired = False  # set once: all of them are being closed, or were


class CacheEntry:
    """
    A key's place in the cache, connected or not.

    Each entry has its own lock, the per-key lock, and its own refcount, which counts the leases of
    its connections.  What holds one entry's lock keeps nobody from any other key.
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
        self.lock = threading.Lock()
        # The lock guards all of these; some are looked at without it.
        self.slots: Dict[int, Slot] = {}  # by lane
        self.connected: Set[int] = connected or set()  # lanes that have had a connection
        self.session_pool: Any = None  # what others keep for this key
        self.used_at = now
        self.was_evicted = False  # set once, when there was no room for it

    def is_removed(self) -> bool:
        """Tell whether it is being taken out of the cache, or was: the key has to look again."""
        return self.was_evicted or self.generation.is_retired

    def all_slots(self) -> List[Slot]:
        """List the slots, by a look."""
        return list(self.slots.values())

    @property
    def refcount(self) -> int:
        """How many leases there are of its connections, by a look."""
        return sum(len(slot.leases) for slot in self.all_slots())

    def is_in_use(self) -> bool:
        """Tell whether a slot of it is."""
        return any(slot.is_in_use() for slot in self.all_slots())


class Slot:
    """
    A connection of an entry, or the dial that will bring it; its entry's lock guards it.

    Attributes
    ----------
    pair : Promise[Tuple[SshTransport, SshClient]]
        Settled when the dial has ended.

    """

    def __init__(self, target: ConnectParams, connection_no: int, entry: CacheEntry) -> None:
        self.target = target
        self.connection_no = connection_no
        self.entry = entry
        self.connection: Promise[Connection] = Promise()
        self.hook_done = LockFreeEvent()  # connection_made has returned
        # The lock of the entry guards all of these.
        self.transport: Optional[SshTransport] = None  # set once, when the dial has succeeded
        self.dialling: Optional[SshTransport] = None  # set once, when the dial has a stream
        self.failed = False
        # The tokens of leases.  To add or to discard one is one operation, and may be repeated: an
        # exception of a signal's handler cannot leave a count that is wrong for ever.
        self.leases: Set[int] = set()
        self.waiters: Set[int] = set()  # of those whose threads wait for the dial
        self.made_at = 0.0
        self.idle_since = 0.0
        self.idle_timeout: Optional[float] = None
        self.max_lifetime: Optional[float] = None
        self.next_expiry_check = NEVER  # when a timer will look whether it is to be closed

    @property
    def is_retired(self) -> bool:
        """Whether `cleanup` closes it, with all there was."""
        return self.entry.generation.is_retired

    def is_in_cache(self) -> bool:
        """Tell whether it has not been taken out of the cache."""
        return not self.entry.is_removed() and self.entry.slots.get(self.connection_no) is self

    def is_live(self) -> bool:
        """Tell whether it holds a connection that can be used."""
        return self.transport is not None and self.transport.is_active()

    def is_stale(self) -> bool:
        """Tell whether its dial failed or its connection has ended."""
        return self.failed or (self.transport is not None and not self.transport.is_active())

    def is_in_use(self) -> bool:
        """Tell whether somebody leases it, or its dial is under way."""
        return bool(self.leases) or (self.transport is None and not self.failed)

    def is_busy(self) -> bool:
        """Tell whether anything runs on its connection; not to be asked under a lock."""
        return self.transport is not None and self.transport.open_channel_count > 0

    def expires_at(self) -> float:
        """Return when it is to be closed if nothing happens; `NEVER` where it has no limit."""
        instant = NEVER
        if self.idle_timeout is not None:
            instant = self.idle_since + self.idle_timeout
        if self.max_lifetime is not None:
            instant = min(instant, self.made_at + self.max_lifetime)
        return instant


class _NoSlot:
    """Stands for the slot of a lease that has none yet."""

    leases: FrozenSet[int] = frozenset()


class LeaseOwner(Protocol):
    """Takes leases back."""

    def release(
        self,
        lease: Lease,
        idle_timeout: Optional[float] = None,
        max_lifetime: Optional[float] = None,
    ) -> None:
        """Take back a lease; nothing happens where that was done before."""

    def release_lost(self, slot: Slot, token: int, warn_if_lost: bool) -> None:
        """Take back a lease whose object has gone; called by a destructor."""


class Lease:
    """
    The right to use a connection: it is not closed by expiry or a limit meanwhile.

    `SshClientCache.acquire`, `request` and `renew` return one.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.

    Guarantees.  It is given back once, however often `release` is called; one that is forgotten,
    or lost to an exception, is given back when it is collected.  As long as it is there, so is its
    cache.

    """

    __slots__ = ("slot", "token", "warn_if_lost", "_owner", "_cache")

    def __init__(self, owner: LeaseOwner, cache: Any = None) -> None:
        self.token = next(_tokens)
        self.warn_if_lost = False  # whether it is worth a warning if it is lost
        self._owner = owner
        self._cache = cache  # kept alive, nothing else
        # Last; set once more, before the token is among its leases.
        self.slot: Slot = _NoSlot  # type: ignore[assignment]

    @property
    def connection(self) -> Promise[Connection]:
        """The connection and its client, when the dial has ended."""
        return self.slot.connection

    @property
    def target(self) -> ConnectParams:
        """The destination, as the first caller gave it."""
        return self.slot.target

    def is_held(self) -> bool:
        """Tell whether it has not been given back."""
        return self.token in self.slot.leases

    def release(
        self, idle_timeout: Optional[float] = None, max_lifetime: Optional[float] = None
    ) -> None:
        """Give it back, where that was not done before."""
        self._owner.release(self, idle_timeout, max_lifetime)

    def __del__(self) -> None:
        # No lock is taken here: the collector may run with any lock held.
        if hasattr(self, "slot") and self.token in self.slot.leases:
            self._owner.release_lost(self.slot, self.token, self.warn_if_lost)
