"""The cache that functions use if none is given: `default_cache`, for the whole process."""

from __future__ import annotations

from ssh_service.connections.cache import SshClientCache

__all__ = ["IDLE_TIMEOUT", "close_all", "default_cache"]

# Seconds after which the default cache closes an unused connection.
IDLE_TIMEOUT = 600.0

_cache = SshClientCache()


def default_cache() -> SshClientCache:
    """
    Return the cache that `run`, `start`, `upload` and `download` use if none is given.

    Returns
    -------
    SshClientCache
        The same object for the whole life of the process.  It closes connections that have been
        unused for ten minutes.  ``str(default_cache())`` lists its open connections.

    Examples
    --------
    >>> ssh_service.default_cache().subscribe(print)  # every connection, command and copy
    """
    return _cache


def close_all() -> None:
    """
    Close all connections of `default_cache`, which `run`, `start`, `upload` and `download` use.

    Commands and copies in progress on these connections fail at once; later calls connect again.
    Other caches keep their connections: those of services, of `fleet`, and of calls with a
    ``cache`` argument.  This may be called from any thread.
    """
    _cache.cleanup()
