"""Where the demonstration takes place: two servers in this process, or a real one."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Callable, ContextManager, Dict, Iterator, List, NamedTuple, Optional

from ssh_service import api, params
from ssh_service.commands.result import CompletedProcess
from ssh_service.connections.cache import SshClientCache
from ssh_service.errors import SshConfigError, SshServiceError, SshTransferError
from ssh_service.testing.fault_proxy import FaultProxy
from ssh_service.transport import SshTransport

__all__ = ["DemoHost", "MockStage", "RealStage", "Stage", "connect_params", "check_connection"]

# Latency in seconds, each way, between this process and its own servers.
_LATENCY = 0.015
# Seconds for preparing and removing the workspace.
_TIMEOUT = 30.0
_WORKSPACE = re.compile(r"/\S.*/ssh-service-demo\.\w+\Z")


class DemoHost(NamedTuple):
    """
    A destination, and a function that cuts a connection to it.

    Attributes
    ----------
    name : str
        Its name in the output.
    params : Dict[str, Any]
        Connect parameters.
    cut : Callable[[SshTransport], None]
        Cuts a connection to it.
    connection_id : str
        The id of its connections.
    logins : int
        The number of logins for a connection: one more than its jump hosts.
    """

    name: str
    params: Dict[str, Any]
    cut: Callable[[SshTransport], None]
    connection_id: str
    logins: int


def _host(name: str, connect: Dict[str, Any], cut: Callable[[SshTransport], None]) -> DemoHost:
    target = params.resolve(connect)
    logins, hop = 1, target.tunnel
    while isinstance(hop, params.ConnectParams):
        logins, hop = logins + 1, hop.tunnel
    return DemoHost(name, connect, cut, target.connection_id, logins)


class Stage(ABC):
    """
    Two destinations; a context manager that returns them.

    Attributes
    ----------
    introduction : str
        Describes the servers.
    keeps_times : bool
        Whether the servers keep the times of files.
    """

    introduction: str
    keeps_times: bool

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> List[DemoHost]:
        with contextlib.ExitStack() as stack:
            hosts = self._hosts(stack)
            self._stack = stack.pop_all()
        return hosts

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    @abstractmethod
    def _hosts(self, stack: contextlib.ExitStack) -> List[DemoHost]:
        """Create the hosts; `stack` closes what they need."""

    @abstractmethod
    def workspace(self, cache: SshClientCache) -> ContextManager[str]:
        """Create a folder on the first host, and remove it afterwards."""


class MockStage(Stage):
    """Two servers inside this process, each behind a proxy that adds latency."""

    introduction = (
        "Two SSH servers, alpha and beta, run inside this process, each with a round-trip time of"
        f" {2000 * _LATENCY:.0f} ms."
    )
    keeps_times = False

    def _hosts(self, stack: contextlib.ExitStack) -> List[DemoHost]:
        from ssh_service.testing.mock_sshd import MockSshd

        stack.enter_context(_quiet("paramiko"))
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ssh-service-demo-"))
        config = os.path.join(folder, "ssh_config")
        Path(config).write_text("Host alpha beta\n    HostName 127.0.0.1\n", "utf-8")
        hosts = []
        for name in ("alpha", "beta"):
            # Jobs are kept in the temporary folder, not in the user's home.
            state = {"XDG_STATE_HOME": os.path.join(folder, "state")}
            server = stack.enter_context(MockSshd("demo", env=state))
            proxy = stack.enter_context(FaultProxy(server.host, server.port))
            proxy.delay = _LATENCY
            connect = {
                **server.connect_params,
                "host": name,
                "port": proxy.port,
                "config": config,
                "host_key_alias": f"[{server.host}]:{server.port}",
                "agent_path": None,
            }
            hosts.append(_host(name, connect, _cut_function(proxy)))
        return hosts

    @contextlib.contextmanager
    def workspace(self, cache: SshClientCache) -> Iterator[str]:
        """Create a folder; the servers use this machine's files."""
        with tempfile.TemporaryDirectory(prefix="ssh-service-demo-") as folder:
            yield folder


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keep a package's log off stderr, unless logging is configured."""
    logger, handler = logging.getLogger(name), logging.NullHandler()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _cut_function(proxy: FaultProxy) -> Callable[[SshTransport], None]:
    return lambda transport: proxy.cut()


class RealStage(Stage):
    """Two connections to one server."""

    keeps_times = True

    def __init__(self, connect: Dict[str, Any]) -> None:
        super().__init__()
        target = params.resolve(connect)
        interval = target.keepalive_interval or 15.0
        # Destinations that differ in a setting never share a connection.
        self._connect = [
            {**connect, "keepalive_interval": seconds} for seconds in (interval, interval + 1)
        ]
        self._name = target.connection_id
        self.introduction = (
            f"The server is {self._name}. It is used with two keepalive intervals, which makes two"
            " connections: a connection is shared only if all settings are equal."
        )

    def _hosts(self, stack: contextlib.ExitStack) -> List[DemoHost]:
        # Closing the transport's socket looks like a lost network.  (A proxy would hide the host
        # from the user's ssh_config.)
        return [_host(self._name, connect, lambda t: t.sock.close()) for connect in self._connect]

    @contextlib.contextmanager
    def workspace(self, cache: SshClientCache) -> Iterator[str]:
        """Create a temporary folder on the server."""
        script = 'mktemp -d "${TMPDIR:-/tmp}/ssh-service-demo.XXXXXX"'
        made = self._run(cache, script)
        folder = made.stdout.strip()
        if made.exit_status != 0 or not _WORKSPACE.match(folder):
            said = made.stderr.strip() or folder
            raise SshTransferError(f"{self._name} could not create a temporary folder: {said}")
        try:
            yield folder
        finally:
            try:
                self._run(cache, 'rm -rf -- "$folder"', {"folder": folder})
            except SshServiceError as error:  # must not hide an earlier error
                print(f"{folder} is left on the server: {error}", file=sys.stderr)

    def _run(
        self, cache: SshClientCache, script: str, env: Optional[Dict[str, str]] = None
    ) -> CompletedProcess:
        return api.run(
            self._connect[0], script, env=env, shell="/bin/sh", cache=cache, timeout=_TIMEOUT
        )


def connect_params(host: str, key: Optional[str], host_key: Optional[str]) -> Dict[str, Any]:
    """
    Return the connect parameters for the command line.

    Raises
    ------
    SshConfigError
        The host is invalid, or the key file does not exist.
    """
    from ssh_service.fleet.hosts import parse

    try:
        connect = parse(host)
    except SshConfigError as error:
        raise SshConfigError(f"--{error}") from error
    if key is not None:
        path = os.path.expanduser(key)
        if not os.path.isfile(path):
            raise SshConfigError(f"--key {key}: no such file")
        connect["client_keys"] = [path]
    if host_key is not None:
        connect["host_key_policy"] = host_key
    return connect


def check_connection(connect: Dict[str, Any]) -> None:
    """
    Connect and disconnect, so that errors are reported before the first step.

    Raises
    ------
    SshServiceError
        No connection could be made.
    """
    cache = SshClientCache()
    try:
        cache.get_client_connection(connect)
    finally:
        cache.cleanup()
