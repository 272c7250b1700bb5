"""
paramiko, for programs that are to share connections: ``from ssh_service import paramiko``.

Every public name of the installed paramiko is here.  `SSHClient` and `Transport` are replaced: a
client's `connect` leases a connection that all clients with the same host, port, user,
credentials and options share; a `Transport` is repaired, and not shared.

Sessions of a shared connection see the login that it was made with.  **A new login is sometimes
the point**: after a change of groups, limits or ``authorized_keys``, call `fresh`, or refuse to
share by `configure`.
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

# Assigned, so that type checkers see that they are meant to be imported from here.
SSHClient = _SharedSSHClient
Transport = _DropInTransport


def configure(
    *,
    linger: Union[float, _Unchanged] = _UNCHANGED,
    share: Union[Optional[Callable[[str, int, str], Any]], _Unchanged] = _UNCHANGED,
    cache: "Union[Optional[SshClientCache], _Unchanged]" = _UNCHANGED,
) -> None:
    """
    Set how clients share connections, for later calls of `SSHClient.connect`.

    What is not named stays as it is.

    Parameters
    ----------
    linger : float
        Seconds for which a connection is kept that no client uses; at first 60.  With 0 it is
        closed with its last client, as in paramiko, and the next client logs in anew.
    share : Optional[Callable[[str, int, str], bool]]
        ``share(host, port, username)`` returns whether a client may share; it is called by each
        `connect`, on its thread.  None, as at first: wherever it can be done.
    cache : Optional[SshClientCache]
        The cache of the connections; None, as at first: `ssh_service.default_cache`.

    Raises
    ------
    SshConfigError
        One of them is not what it may be (a `ValueError`); nothing is changed then.

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
    Have all clients of paramiko in this process share connections.

    `paramiko.SSHClient` itself gets another `connect`, so this holds for names of it that were
    imported before, and for subclasses.  New objects of `paramiko.Transport` are repaired ones,
    also by names that were imported before; of its subclasses they are as they were.

    Settings that are not named stay as they are.

    Parameters
    ----------
    linger : float
        Seconds for which a connection is kept that no client uses; at first 60.  With 0 it is
        closed with its last client, as in paramiko, and the next client logs in anew.
    share : Optional[Callable[[str, int, str], bool]]
        ``share(host, port, username)`` returns whether a client may share; it is called by each
        `connect`, on its thread.  None, as at first: wherever it can be done.
    cache : Optional[SshClientCache]
        The cache of the connections; None, as at first: `ssh_service.default_cache`.

    Raises
    ------
    SshConfigError
        One of them is not what it may be (a `ValueError`); nothing is changed then.

    Notes
    -----
    Thread safety.  This may be called from any thread, and more than once.
    """
    _sharing.configure(linger, share, cache)
    _installing.install()


def uninstall() -> None:
    """Undo `install`; clients that are connected go on as they are until they are closed."""
    _installing.uninstall()


def fresh(host: Optional[str] = None) -> int:
    """
    Have later clients of a host log in anew.

    Clients that are connected keep their connections, which no later client gets.

    Parameters
    ----------
    host : Optional[str]
        As given to `SSHClient.connect`; None: all hosts.

    Returns
    -------
    int
        How many connections there were to share.  0 may mean that the clients call the host by
        another name, such as with its domain.

    Raises
    ------
    SshConfigError
        It is not a text (a `ValueError`).

    Notes
    -----
    Thread safety.  This may be called from any thread.
    """
    return _end_sharing(host)


def stats() -> Dict[str, Any]:
    """
    Count the clients of this process.

    Returns
    -------
    Dict[str, Any]
        ``shared``: calls of `connect` that were given a connection to share; ``private``: those
        that got one of their own; ``reasons``: these by reason; ``logins``: connections made to
        be shared; ``open``: clients that share one now.

    Notes
    -----
    The reasons are: ``share`` (the function of that name refused); ``sock`` (it is neither a
    `ProxyCommand` nor a channel of a client that shares); ``transport_factory``,
    ``auth_strategy`` and ``gss`` (it was given); ``subclass`` (it logs in by methods of its own);
    ``patched`` (`paramiko.client.Transport` was replaced); ``partial`` (the server wants more
    credentials, which the program may give by the transport); ``policy`` (a policy connected while
    it was asked about a host key); ``arguments`` (the host or the user
    name is not a text, the port not a whole number, or there is no user name to be found).
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
