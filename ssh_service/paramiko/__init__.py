"""
paramiko with shared connections: ``from ssh_service import paramiko``.

This module has every public name of the installed paramiko.  Two classes are replaced: `connect`
of `SSHClient` leases a connection that all clients with the same host, port, user, credentials and
options share; `Transport` is repaired, but not shared.

Sessions of a shared connection belong to the login that it was made with.  **Some programs need a
new login**: after a change of groups, limits or ``authorized_keys``, call `fresh`, or disable
sharing by `configure`.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Union

import paramiko as _paramiko

from ssh_service.drop_in import installing as _installing
from ssh_service.drop_in import modules as _modules
from ssh_service.drop_in.clients import SharedSSHClient as _SharedSSHClient
from ssh_service.drop_in.sharing import UNCHANGED as _UNCHANGED
from ssh_service.drop_in.sharing import Unchanged as _Unchanged
from ssh_service.drop_in.sharing import sharing as _sharing
from ssh_service.drop_in.target import end_sharing as _end_sharing
from ssh_service.transport import DropInTransport as _DropInTransport

if TYPE_CHECKING:
    from ssh_service.connections.cache import SshClientCache

# Assigned, so that type checkers treat these names as exported.
SSHClient = _SharedSSHClient
"""A subclass of `paramiko.SSHClient` whose `connect` shares connections."""
Transport = _DropInTransport
"""A subclass of `paramiko.Transport`, repaired; it is not shared."""


def configure(
    *,
    linger: Union[float, _Unchanged] = _UNCHANGED,
    share: Union[Optional[Callable[[str, int, str], Any]], _Unchanged] = _UNCHANGED,
    cache: "Union[Optional[SshClientCache], _Unchanged]" = _UNCHANGED,
) -> None:
    """
    Set how clients share connections, for later calls of `SSHClient.connect`.

    Settings that are not given are not changed.

    Parameters
    ----------
    linger : float
        Seconds for which an unused connection is kept; initially 60.  With 0, a connection is
        closed with its last client, as in paramiko, and the next client logs in again.
    share : Optional[Callable[[str, int, str], bool]]
        ``share(host, port, username)`` returns whether a client may share a connection; each
        `connect` calls it on its own thread.  None (initially): clients share whenever possible.
    cache : Optional[SshClientCache]
        The cache for the connections; None (initially): `ssh_service.default_cache`.

    Raises
    ------
    SshConfigError
        A setting is invalid (a `ValueError`); in that case, none is changed.

    Notes
    -----
    Thread safety.  This may be called from any thread.
    """
    _sharing.configure(linger, share, cache)


def install(
    *,
    linger: Union[float, _Unchanged] = _UNCHANGED,
    share: Union[Optional[Callable[[str, int, str], Any]], _Unchanged] = _UNCHANGED,
    cache: "Union[Optional[SshClientCache], _Unchanged]" = _UNCHANGED,
) -> None:
    """
    Make all paramiko clients of this process share connections.

    `connect` of `paramiko.SSHClient` itself is replaced, so this also applies to names that were
    imported before, and to subclasses.  New objects of `paramiko.Transport` are repaired, also
    under names that were imported before; subclasses of it are not changed.

    Settings that are not given are not changed.

    Parameters
    ----------
    linger : float
        Seconds for which an unused connection is kept; initially 60.  With 0, a connection is
        closed with its last client, as in paramiko, and the next client logs in again.
    share : Optional[Callable[[str, int, str], bool]]
        ``share(host, port, username)`` returns whether a client may share a connection; each
        `connect` calls it on its own thread.  None (initially): clients share whenever possible.
    cache : Optional[SshClientCache]
        The cache for the connections; None (initially): `ssh_service.default_cache`.

    Raises
    ------
    SshConfigError
        A setting is invalid (a `ValueError`); in that case, none is changed.

    Notes
    -----
    Thread safety.  This may be called from any thread, and more than once.
    """
    _sharing.configure(linger, share, cache)
    _installing.install()


def uninstall() -> None:
    """Undo `install`; connected clients keep working until they are closed."""
    _installing.uninstall()


def fresh(host: Optional[str] = None) -> int:
    """
    Make later clients of a host log in again.

    Connected clients keep their connections, which are not shared with later clients.

    Parameters
    ----------
    host : Optional[str]
        The host, as passed to `SSHClient.connect`; None: all hosts.

    Returns
    -------
    int
        The number of existing connections that were shared.  0 may mean that clients use another
        name for the host, such as its full domain name.

    Raises
    ------
    SshConfigError
        `host` is neither None nor a text (a `ValueError`).

    Notes
    -----
    Thread safety.  This may be called from any thread.
    """
    return _end_sharing(host)


def stats() -> Dict[str, Any]:
    """
    Return statistics of the clients of this process.

    Returns
    -------
    Dict[str, Any]
        ``shared``: the number of calls of `connect` that received a shared connection;
        ``private``: of those that received a connection of their own; ``reasons``: the latter by
        reason; ``logins``: the number of connections made for sharing; ``open``: of clients that
        currently share a connection.

    Notes
    -----
    The reasons are: ``share`` (the `share` function returned False); ``sock`` (it is neither a
    `ProxyCommand` nor a channel of a client that shares); ``transport_factory``, ``auth_strategy``
    and ``gss`` (these arguments were given); ``subclass`` (it has methods of its own for logging
    in); ``patched`` (`paramiko.client.Transport` was replaced); ``partial`` (the server requires
    further credentials, which the program may supply through the transport); ``policy`` (a host
    key policy called `connect`); ``arguments`` (the host or the user name is not a text, the port
    is not an integer, or no user name can be determined).
    """
    return _sharing.stats()


def _public_names() -> List[str]:
    names = getattr(_paramiko, "__all__", None)
    return list(names or [name for name in vars(_paramiko) if not name.startswith("_")])


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return _public_names()
    if name in _modules.REPLACED:
        return importlib.import_module(f"{__name__}.{name}")
    return getattr(_paramiko, name)


def __dir__() -> List[str]:
    return sorted({*globals(), *dir(_paramiko)})


_modules.serve(sys.modules[__name__], {"SSHClient": SSHClient, "Transport": Transport})
