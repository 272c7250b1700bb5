"""The settings of the clients that share connections, and what is counted of them."""

from __future__ import annotations

import collections
import itertools
import os
import threading
from typing import Any, Callable, Dict, Hashable, Optional, Set, Tuple

from ssh_service.api import default_cache
from ssh_service.connections.cache import SshClientCache, check_cache
from ssh_service.errors import SshConfigError

# Seconds for which a connection that no client uses is kept for the next one.
LINGER = 60.0
# Destinations whose last client with ``linger=0`` has gone, of which that is remembered.  Their
# connections are closed within seconds.
_MAX_ENDED = 1024

Share = Callable[[str, int, str], Any]


class Sharing:
    """
    The settings and the counters of the process.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self.linger = LINGER
        self.share: Optional[Share] = None
        self._cache: Optional[SshClientCache] = None
        self._lock = threading.Lock()
        # The lock guards all of these.
        self._members: Dict[Hashable, Set[int]] = {}  # tokens, by what they share
        self._fresh: Dict[Optional[str], int] = {}  # by host; None: of all hosts
        self._ended: "collections.OrderedDict[Hashable, int]" = collections.OrderedDict()
        self._shared = self._logins = 0
        self._private: Dict[str, int] = {}

    def after_fork_in_child(self) -> None:
        """Replace the lock, which a thread of the parent may have held."""
        self._lock = threading.Lock()

    def configure(
        self, linger: float, share: Optional[Share], cache: Optional[SshClientCache]
    ) -> None:
        """
        Change the settings, for later connects.

        Raises
        ------
        SshConfigError
            One of them is not what it may be.
        """
        is_number = isinstance(linger, (int, float)) and not isinstance(linger, bool)
        if not is_number or not 0 <= linger < float("inf"):
            raise SshConfigError(f"linger: expected 0 or more seconds, got {linger!r}")
        if share is not None and not callable(share):
            raise SshConfigError(
                f"share: expected None or a function (host, port, username) -> bool, got {share!r}"
            )
        check_cache(cache)
        self.linger, self.share, self._cache = float(linger), share, cache

    @property
    def cache(self) -> SshClientCache:
        """The cache of the connections."""
        return default_cache() if self._cache is None else self._cache

    # What may be shared.

    def generation(self, host: str, base: Hashable) -> Tuple[int, ...]:
        """Return what connections must have in common, for the same `base`, to be shared."""
        with self._lock:
            fresh = self._fresh
            return fresh.get(None, 0), fresh.get(host.lower(), 0), self._ended.get(base, 0)

    def end_sharing(self, host: Optional[str]) -> None:
        """
        Let later clients of a host (None: of any) share none of the connections there are.

        Raises
        ------
        SshConfigError
            It is not a text.
        """
        if host is not None and not isinstance(host, str):
            raise SshConfigError(f"host: expected a name or an address, or None, got {host!r}")
        with self._lock:
            self._fresh[None if host is None else host.lower()] = next(self._numbers)

    def join(self, base: Hashable, token: int) -> None:
        """Note that a client uses a connection; may be repeated."""
        with self._lock:
            self._members.setdefault(base, set()).add(token)

    def leave(self, base: Hashable, token: int, linger: float) -> None:
        """Note that a client is done; may be repeated."""
        with self._lock:
            members = self._members.get(base)
            if members is None or token not in members:
                return
            if len(members) == 1:
                if not linger:  # nobody gets this connection again
                    self._ended[base] = next(self._numbers)
                    self._ended.move_to_end(base)
                    if len(self._ended) > _MAX_ENDED:
                        self._ended.popitem(last=False)
                self._members.pop(base, None)
            members.discard(token)

    # Counters.

    def next_token(self) -> int:
        """Return a number that no client has."""
        return next(self._numbers)

    def count_login(self) -> None:
        """Count a connection that was made to be shared."""
        with self._lock:
            self._logins += 1

    def count_shared(self) -> None:
        """Count a client that was given a connection to share."""
        with self._lock:
            self._shared += 1

    def count_private(self, reason: str) -> None:
        """Count a client that got a connection of its own."""
        with self._lock:
            self._private[reason] = self._private.get(reason, 0) + 1

    def stats(self) -> Dict[str, Any]:
        """Return the counters; see `ssh_service.paramiko.stats`."""
        with self._lock:
            reasons = dict(self._private)
            return {
                "shared": self._shared,
                "private": sum(reasons.values()),
                "reasons": reasons,
                "logins": self._logins,
                "open": sum(len(members) for members in self._members.values()),
            }


sharing = Sharing()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=sharing.after_fork_in_child)
