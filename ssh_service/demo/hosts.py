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

__all__ = ["Host", "MockStage", "RealStage", "Stage", "connect_params", "try_once"]

# Seconds a byte takes each way between this process and its own servers.
_DELAY = 0.015
# Seconds for what is done beside the steps.
_TIMEOUT = 30.0
_MADE = re.compile(r"/\S.*/ssh-service-demo\.\w+\Z")


class Host(NamedTuple):
    """
    A destination, and a way to cut the line to it.

    Attributes
    ----------
    name : str
        For people.
    params : Dict[str, Any]
        Connect parameters.
    cut : Callable[[SshTransport], None]
        Cuts the line under a connection to it.
    connection_id : str
        What its connections are called.
    logins : int
        How many it takes to get there: one more than there are jump hosts.
    """

    name: str
    params: Dict[str, Any]
    cut: Callable[[SshTransport], None]
    connection_id: str
    logins: int


def _host(name: str, given: Dict[str, Any], cut: Callable[[SshTransport], None]) -> Host:
    target = params.resolve(given)
    logins, hop = 1, target.tunnel
    while isinstance(hop, params.ConnectParams):
        logins, hop = logins + 1, hop.tunnel
    return Host(name, given, cut, target.connection_id, logins)


class Stage(ABC):
    """
    Two destinations; a context manager that gives them.

    Attributes
    ----------
    introduction : str
        Says where all this happens.
    keeps_times : bool
        Whether its servers keep the times of files.
    """

    introduction: str
    keeps_times: bool

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> List[Host]:
        with contextlib.ExitStack() as stack:
            hosts = self._hosts(stack)
            self._stack = stack.pop_all()
        return hosts

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    @abstractmethod
    def _hosts(self, stack: contextlib.ExitStack) -> List[Host]:
        """Make the hosts; `stack` ends what they need."""

    @abstractmethod
    def workspace(self, cache: SshClientCache) -> ContextManager[str]:
        """Give a folder on the first host, which is removed afterwards."""


class MockStage(Stage):
    """Two servers inside this process, each at the far end of a line that takes its time."""

    introduction = (
        "Two SSH servers, alpha and beta, run inside this process, each at the end of a line that"
        f" takes {2000 * _DELAY:.0f} ms there and back."
    )
    keeps_times = False

    def _hosts(self, stack: contextlib.ExitStack) -> List[Host]:
        from ssh_service.testing.mock_sshd import MockSshd

        stack.enter_context(_quiet("paramiko"))
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ssh-service-demo-"))
        config = os.path.join(folder, "ssh_config")
        Path(config).write_text("Host alpha beta\n    HostName 127.0.0.1\n", "utf-8")
        hosts = []
        for name in ("alpha", "beta"):
            server = stack.enter_context(MockSshd("demo"))
            proxy = stack.enter_context(FaultProxy(server.host, server.port))
            proxy.delay = _DELAY
            given = {
                **server.connect_params,
                "host": name,
                "port": proxy.port,
                "config": config,
                "host_key_alias": f"[{server.host}]:{server.port}",
                "agent_path": None,
            }
            hosts.append(_host(name, given, _cutter(proxy)))
        return hosts

    @contextlib.contextmanager
    def workspace(self, cache: SshClientCache) -> Iterator[str]:
        """Give a folder; the servers' files are this machine's."""
        with tempfile.TemporaryDirectory(prefix="ssh-service-demo-") as folder:
            yield folder


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keep what a package logs from stderr, where nobody has asked for it."""
    logger, handler = logging.getLogger(name), logging.NullHandler()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _cutter(proxy: FaultProxy) -> Callable[[SshTransport], None]:
    return lambda transport: proxy.cut()


class RealStage(Stage):
    """Two connections to one server."""

    keeps_times = True

    def __init__(self, given: Dict[str, Any]) -> None:
        super().__init__()
        target = params.resolve(given)
        interval = target.keepalive_interval or 15.0
        # Destinations that differ in a setting never share a connection.
        self._given = [
            {**given, "keepalive_interval": seconds} for seconds in (interval, interval + 1)
        ]
        self._name = target.connection_id
        self.introduction = (
            f"The server is {self._name}. It is asked for with two keepalive intervals, so it gets"
            " two connections: they are shared only where every setting agrees."
        )

    def _hosts(self, stack: contextlib.ExitStack) -> List[Host]:
        # The socket is shut under the transport, which finds it ended as if the network had done
        # so.  (A proxy in between would hide the host from the user's ssh_config.)
        return [_host(self._name, given, lambda t: t.sock.close()) for given in self._given]

    @contextlib.contextmanager
    def workspace(self, cache: SshClientCache) -> Iterator[str]:
        """Have the server make a temporary folder."""
        script = 'mktemp -d "${TMPDIR:-/tmp}/ssh-service-demo.XXXXXX"'
        made = self._run(cache, script)
        folder = made.stdout.strip()
        if made.exit_status != 0 or not _MADE.match(folder):
            said = made.stderr.strip() or folder
            raise SshTransferError(f"{self._name} made no temporary folder: {said}")
        try:
            yield folder
        finally:
            try:
                self._run(cache, 'rm -rf -- "$folder"', {"folder": folder})
            except SshServiceError as error:  # must not hide what went wrong before
                print(f"{folder} is left on the server: {error}", file=sys.stderr)

    def _run(
        self, cache: SshClientCache, script: str, env: Optional[Dict[str, str]] = None
    ) -> CompletedProcess:
        return api.run(
            self._given[0], script, env=env, shell="/bin/sh", cache=cache, timeout=_TIMEOUT
        )


def connect_params(host: str, key: Optional[str], host_key: Optional[str]) -> Dict[str, Any]:
    """
    Make connect parameters of the command line.

    Raises
    ------
    SshConfigError
        The host cannot be one, or there is no such key.
    """
    from ssh_service.fleet.hosts import parse

    try:
        given = parse(host)
    except SshConfigError as error:
        raise SshConfigError(f"--{error}") from error
    if key is not None:
        path = os.path.expanduser(key)
        if not os.path.isfile(path):
            raise SshConfigError(f"--key {key}: no such file")
        given["client_keys"] = [path]
    if host_key is not None:
        given["host_key_policy"] = host_key
    return given


def try_once(given: Dict[str, Any]) -> None:
    """
    Connect, and hang up, so that what is wrong is told before anything is shown.

    Raises
    ------
    SshServiceError
        There is no connection to be had.
    """
    cache = SshClientCache()
    try:
        cache.get_client_connection(given)
    finally:
        cache.cleanup()
