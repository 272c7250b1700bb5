"""The settings and the counters of clients that share connections."""

from __future__ import annotations

import collections
import enum
import inspect
import itertools
import os
from typing import Any, Callable, Dict, Hashable, NamedTuple, Optional, Set, Tuple, Union

from ssh_service.api import default_cache
from ssh_service.connections.cache import SshClientCache, check_cache
from ssh_service.errors import SshConfigError
from ssh_service.locks import Lock

# Seconds for which an unused connection is kept for the next client.
LINGER = 60.0
# How many destinations are remembered whose last client with ``linger=0`` has been closed.  Their
# connections are closed within seconds.
_MAX_ENDED = 1024

Share = Callable[[str, int, str], Any]


class Unchanged(enum.Enum):
    """The type of the default for settings that `configure` does not change."""

    UNCHANGED = "unchanged"

    def __repr__(self) -> str:
        return self.name


UNCHANGED = Unchanged.UNCHANGED


class Settings(NamedTuple):
    """The settings that `configure` changes."""

    linger: float = LINGER
    share: Optional[Share] = None
    cache: Optional[SshClientCache] = None


class Sharing:
    """
    The settings and counters of this process.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._lock = Lock()
        # The lock guards all of the following.
        self._settings = Settings()
        self._members: Dict[Hashable, Set[int]] = {}  # clients' tokens, by `base`
        self._fresh: Dict[Optional[str], int] = {}  # by host; None: for all hosts
        self._ended: "collections.OrderedDict[Hashable, int]" = collections.OrderedDict()
        self._shared = self._logins = 0
        self._private: Dict[str, int] = {}

    def after_fork_in_child(self) -> None:
        """Replace the lock, which a thread of the parent may have held; count from 0."""
        self._lock = Lock()
        self._shared = self._logins = 0
        self._private = {}

    def configure(
        self,
        linger: Union[float, Unchanged],
        share: Union[Optional[Share], Unchanged],
        cache: Union[Optional[SshClientCache], Unchanged],
    ) -> None:
        """
        Change the given settings, for later calls of `connect`.

        Raises
        ------
        SshConfigError
            A setting is invalid; in that case, none is changed.
        """
        changes: Dict[str, Any] = {}
        if not isinstance(linger, Unchanged):
            changes["linger"] = _check_linger(linger)
        if not isinstance(share, Unchanged):
            changes["share"] = _check_share(share)
        if not isinstance(cache, Unchanged):
            check_cache(cache)
            changes["cache"] = cache
        with self._lock:
            self._settings = self._settings._replace(**changes)

    @property
    def linger(self) -> float:
        """Seconds for which an unused connection is kept."""
        return self._settings.linger

    @property
    def cache(self) -> SshClientCache:
        """The cache that holds the connections."""
        cache = self._settings.cache
        return default_cache() if cache is None else cache

    def may_share(self, host: str, port: int, username: str) -> bool:
        """
        Return whether the program allows a client to share a connection.

        Raises
        ------
        SshConfigError
            The program's function failed.
        """
        share = self._settings.share
        if share is None:
            return True
        try:
            return bool(share(host, port, username))
        except Exception as error:
            raise SshConfigError(
                f"share: the function {_name_of(share)} failed for {username}@{host}:{port}:"
                f" {type(error).__name__}: {error}"
            ) from error

    # Which connections may be shared.

    def generation(self, host: str, base: Hashable) -> Tuple[int, ...]:
        """Return a value that must be equal, as `base` must, for clients to share."""
        with self._lock:
            fresh = self._fresh
            return fresh.get(None, 0), fresh.get(host.lower(), 0), self._ended.get(base, 0)

    def end_sharing(self, host: Optional[str]) -> None:
        """
        Exclude existing connections to a host (None: to any host) from sharing with later clients.

        Raises
        ------
        SshConfigError
            `host` is neither None nor a text.
        """
        if host is not None and not isinstance(host, str):
            raise SshConfigError(f"host: expected a name or an address, or None, got {host!r}")
        with self._lock:
            self._fresh[None if host is None else host.lower()] = next(self._numbers)

    def join(self, base: Hashable, token: int) -> None:
        """Record that a client uses a connection; may be repeated."""
        with self._lock:
            self._members.setdefault(base, set()).add(token)

    def leave(self, base: Hashable, token: int, linger: float) -> None:
        """Record that a client no longer uses a connection; may be repeated."""
        with self._lock:
            members = self._members.get(base)
            if members is None or token not in members:
                return
            if len(members) == 1:
                if not linger:  # this connection is not given to another client
                    self._ended[base] = next(self._numbers)
                    self._ended.move_to_end(base)
                    if len(self._ended) > _MAX_ENDED:
                        self._ended.popitem(last=False)
                self._members.pop(base, None)
            members.discard(token)

    # Counters.

    def next_token(self) -> int:
        """Return a number that no other client has."""
        return next(self._numbers)

    def count_login(self) -> None:
        """Count a login for a connection that may be shared."""
        with self._lock:
            self._logins += 1

    def count_shared(self) -> None:
        """Count a client that received a shared connection."""
        with self._lock:
            self._shared += 1

    def count_private(self, reason: str) -> None:
        """Count a client that received a connection of its own."""
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


def _check_linger(linger: Any) -> float:
    is_number = isinstance(linger, (int, float)) and not isinstance(linger, bool)
    if not is_number or not 0 <= linger < float("inf"):
        raise SshConfigError(f"linger: expected 0 or more seconds, got {linger!r}")
    return float(linger)


def _check_share(share: Any) -> Optional[Share]:
    """Check that a function accepts a host, a port and a user name."""
    expected = "share: expected None or a function (host, port, username) -> bool, got"
    if share is None:
        return None
    if not callable(share):
        raise SshConfigError(f"{expected} {share!r}")
    if inspect.iscoroutinefunction(share):
        raise SshConfigError(f"{expected} {_name_of(share)}, which is async")
    try:
        signature = inspect.signature(share)
    except (TypeError, ValueError):  # a builtin without a signature
        return share  # type: ignore[no-any-return]
    try:
        signature.bind("host", 22, "username")
    except TypeError as error:
        raise SshConfigError(f"{expected} {_name_of(share)}{signature}: {error}") from None
    return share  # type: ignore[no-any-return]


def _name_of(function: Any) -> str:
    return str(getattr(function, "__qualname__", None) or repr(function))


sharing = Sharing()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=sharing.after_fork_in_child)
