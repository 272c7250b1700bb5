"""Runs a task with the files of a host, over the cached SFTP session of its connection."""

from __future__ import annotations

from typing import Any, Callable, Coroutine, Optional, TypeVar

from ssh_service import api
from ssh_service.connections.cache import SshClientCache
from ssh_service.connections.entries import Lease
from ssh_service.copying.context import CopyContext
from ssh_service.copying.failures import Refused
from ssh_service.copying.options import Options
from ssh_service.copying.paths import to_bytes
from ssh_service.copying.running import run_task
from ssh_service.errors import SshConnectionLost
from ssh_service.params import ConnectParams, Resolvable

__all__ = ["CachedHost", "run", "with_lease"]

_T = TypeVar("_T")
Task = Callable[[CopyContext, bytes], Coroutine[Any, Any, _T]]


class CachedHost(Resolvable):
    """
    What a path needs of a `Host`.

    Attributes
    ----------
    cache : Optional[SshClientCache]
        The cache that provides the connections; None: `default_cache`.
    """

    __slots__ = ()
    cache: Optional[SshClientCache]


def with_lease(host: CachedHost, use: Callable[[Lease, ConnectParams], _T]) -> _T:
    """
    Call `use` with a lease of the host's connection, and return its result.

    `use` releases the lease.  It is called once more if the connection was lost before anything
    was sent.
    """
    target = host.resolve()
    cache = api.default_cache() if host.cache is None else host.cache
    try:
        return use(cache.acquire(target, idle_timeout=api.IDLE_TIMEOUT), target)
    except SshConnectionLost as lost:
        if lost.sent:
            raise
    return use(cache.acquire(target, idle_timeout=api.IDLE_TIMEOUT), target)


def run(
    host: CachedHost,
    path: str,
    task: Task[_T],
    *,
    options: Options = Options(),
    repeatable: bool = False,
) -> _T:
    """Run a task with a path on the host, in which ``~`` has been expanded."""
    plain = to_bytes(path)

    async def start(context: CopyContext) -> _T:
        try:
            return await task(context, await context.remote.expand_home(plain))
        except Refused as refused:
            raise await context.remote.to_os_error(refused) from refused

    def use(lease: Lease, target: ConnectParams) -> _T:
        try:
            transport = lease.connection.result()[0]
            return run_task(transport, start, plain, options, repeatable=repeatable)
        finally:
            lease.release(api.IDLE_TIMEOUT)

    return with_lease(host, use)
