"""`SharedSSHClient`: a `paramiko.SSHClient` whose `connect` leases a connection of the cache."""

from __future__ import annotations

import functools
import getpass
import inspect
from typing import Any, Callable, Dict, Optional

import paramiko
import paramiko.client

from ssh_service.drop_in.membership import Membership
from ssh_service.drop_in.sharing import sharing
from ssh_service.drop_in.target import (
    ClientTarget,
    PartialLogin,
    Route,
    is_asking_policy,
    plain_connect,
)
from ssh_service.drop_in.trust import Trust
from ssh_service.transport import DropInTransport, TransportView, client_state

_signature = inspect.signature(plain_connect)
_plain_transport = paramiko.client.Transport
# Removed in later releases of paramiko.
_GSS = ("gss_auth", "gss_kex")


@functools.wraps(plain_connect)
def connect(self: Any, *args: Any, **kwargs: Any) -> Any:
    """Connect as `paramiko.SSHClient.connect` does, over a shared connection if possible."""
    bound = _signature.bind(self, *args, **kwargs)
    bound.apply_defaults()
    arguments = dict(bound.arguments)
    arguments.pop(next(iter(_signature.parameters)))
    try:
        username = arguments["username"]
        username = getpass.getuser() if username is None else username
    except Exception:  # noqa: B902  (paramiko reports it later)
        username = None
    reason = _reason_for_private(self, arguments, username)
    if reason is None:
        _connect_shared(self, arguments, username)
        return None
    sharing.count_private(reason)
    if arguments["transport_factory"] is None and reason != "patched":
        arguments["transport_factory"] = DropInTransport
    return plain_connect(self, **arguments)


def _reason_for_private(
    client: Any, arguments: Dict[str, Any], username: Optional[str]
) -> Optional[str]:
    """Return why a client needs a connection of its own; None: it may share one."""
    for name in ("transport_factory", "auth_strategy"):
        if arguments[name] is not None:
            return name
    if paramiko.client.Transport is not _plain_transport:
        return "patched"  # for example by a test of the program
    if any(arguments.get(name) for name in _GSS):
        return "gss"
    if is_asking_policy():
        return "policy"  # sharing would deadlock: the dial waits for the policy
    if not Route.is_known(arguments["sock"]):
        return "sock"
    if client_state.overrides_login(client):
        return "subclass"
    host, port = arguments["hostname"], arguments["port"]
    if not (isinstance(host, str) and isinstance(port, int) and isinstance(username, str)):
        return "arguments"
    return None if sharing.may_share(host, port, username) else "share"


def _connect_shared(client: Any, arguments: Dict[str, Any], username: str) -> None:
    trust = Trust(client, arguments["hostname"], arguments["port"])
    target = ClientTarget(arguments, username, trust)
    member = Membership(target)
    try:
        connection = member.connect()
        view = TransportView(connection, member)
        _set_timeouts(view, arguments)
        log_channel = client_state.log_channel(client)
        if log_channel is not None:
            view.set_log_channel(log_channel)
        client_state.set_transport(client, view)
        target.route.close_unused()
    except Exception as error:
        member.release()
        # As in paramiko, the client keeps the transport of a failed login.
        if target.failed_transport is not None:
            client_state.set_transport(client, target.failed_transport)
            if isinstance(error, PartialLogin):  # paramiko returns in this case, too
                sharing.count_private("partial")
                return
        raise
    except BaseException:
        target.is_abandoned = True
        member.release()
        if target.failed_transport is not None:
            target.failed_transport.close()
        raise
    sharing.count_shared()


def _set_timeouts(view: TransportView, arguments: Dict[str, Any]) -> None:
    view.channel_timeout = arguments["channel_timeout"] or view.channel_timeout
    for name in ("banner_timeout", "auth_timeout"):
        if arguments[name] is not None:
            setattr(view, name, arguments[name])


class SharedSSHClient(paramiko.SSHClient):  # type: ignore[misc]
    """
    A `paramiko.SSHClient` that shares its connection with other clients of the process.

    See docs/drop_in.md, the page of the manual for code written for paramiko.
    """

    connect: Callable[..., Any] = connect


# The public name, for pickle and for readers.
SharedSSHClient.__name__ = SharedSSHClient.__qualname__ = "SSHClient"
SharedSSHClient.__module__ = "ssh_service.paramiko"
