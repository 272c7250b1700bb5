"""`ssh_service.paramiko`: programs written for paramiko share connections, and do not know it."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator, List, Tuple

import paramiko as real
import pytest

from ssh_service import SshClientCache
from ssh_service import paramiko as ours
from ssh_service.testing.fault_proxy import FaultProxy
from ssh_service.testing.pytest_plugin import Sshd
from tests.common import DROP_IN_DEFAULTS, PATIENCE, Outcome, eventually, in_threads
from tests.injection import HOWS, moments, torn_at
from tests.keys import generated

Connect = Any
_STRIDE = 7


@pytest.fixture
def connect(cache: SshClientCache) -> Iterator[Connect]:
    """Return a function that connects a client to a server, with the test's own cache."""
    ours.configure(cache=cache)
    clients: List[Any] = []

    def make(server: Any, cls: Any = ours.SSHClient, **changes: Any) -> Any:
        client = cls()
        clients.append(client)
        if changes.pop("trusting", True):
            client.set_missing_host_key_policy(real.AutoAddPolicy())
        client.connect(**{**arguments(server), **changes})
        return client

    make.clients = clients  # type: ignore[attr-defined]
    yield make
    for client in clients:
        client.close()
    cache.cleanup()
    ours.uninstall()
    ours.configure(**DROP_IN_DEFAULTS)


def arguments(server: Any) -> Any:
    return {
        "hostname": server.host,
        "port": server.port,
        "username": server.username,
        "key_filename": server.client_key,
        "allow_agent": False,
        "look_for_keys": False,
    }


def run(client: Any, command: str = "echo hello") -> Any:
    stdin, stdout, _ = client.exec_command(command)
    stdin.close()
    return stdout.read(), stdout.channel.recv_exit_status()


def logins(server: Any) -> int:
    """Count the logins, once the server has written of all."""
    written = server.logins()
    while True:
        time.sleep(0.05)  # there is no event for what it will not write
        if server.logins() == written:
            return int(written)
        written = server.logins()


HELLO = (b"hello\n", 0)


# Sharing.


def test_clients_of_one_destination_share_a_login(sshd: Sshd, connect: Connect) -> None:
    """Twenty clients, one after the other and at once, log in once."""
    for _ in range(10):
        client = connect(sshd)
        assert run(client) == HELLO
        client.close()
    clients = [connect(sshd) for _ in range(10)]
    assert [run(client) for client in clients] == [HELLO] * 10
    assert logins(sshd) == 1


def test_stats_count_clients_and_reasons(sshd: Sshd, connect: Connect) -> None:
    before = ours.stats()
    connect(sshd)
    connect(sshd)
    ours.configure(share=lambda host, port, username: False)
    connect(sshd)
    after = ours.stats()
    assert after["shared"] - before["shared"] == 2
    assert after["private"] - before["private"] == 1
    assert after["reasons"]["share"] - before["reasons"].get("share", 0) == 1
    assert after["logins"] - before["logins"] == 1


@pytest.mark.parametrize(
    "change",
    [
        {"compress": True},
        {"disabled_algorithms": {"ciphers": ["aes128-ctr"]}},
        {"password": "secret"},
        {"key_filename": None, "pkey": ...},
    ],
    ids=lambda change: "-".join(change),
)
def test_different_options_have_different_connections(
    sshd: Sshd, connect: Connect, change: Any
) -> None:
    if "pkey" in change:
        change = {**change, "pkey": real.PKey.from_path(sshd.client_key)}
    assert run(connect(sshd)) == HELLO
    assert run(connect(sshd, **change)) == HELLO
    assert run(connect(sshd, **change)) == HELLO
    assert logins(sshd) == 2


def test_public_key_alone_is_refused(sshd: Sshd, connect: Connect) -> None:
    """Who has only the public half of a key does not get its owner's connection."""
    private = real.PKey.from_path(sshd.client_key)
    owner = connect(sshd, key_filename=None, pkey=private)
    public = type(private)(data=private.asbytes())
    assert public == private
    with pytest.raises((real.SSHException, AttributeError, TypeError)):
        connect(sshd, key_filename=None, pkey=public)
    with pytest.raises(real.SSHException):
        connect(sshd, key_filename=sshd.client_key + ".pub")
    assert run(owner) == HELLO
    assert logins(sshd) == 1


def test_private_clients_work(sshd: Sshd, connect: Connect) -> None:
    """What cannot be shared has a connection of its own, with paramiko's meaning."""
    made: List[Any] = []

    def factory(*args: Any, **kwargs: Any) -> real.Transport:
        made.append(real.Transport(*args, **kwargs))
        return made[-1]

    class Own(ours.SSHClient):
        def _auth(self, *args: Any) -> Any:
            return super()._auth(*args)

    clients = [
        connect(sshd, transport_factory=factory),
        connect(sshd, sock=socket.create_connection((sshd.host, sshd.port))),
        connect(sshd, cls=Own),
    ]
    assert [run(client) for client in clients] == [HELLO] * 3
    assert logins(sshd) == 3
    assert clients[0].get_transport() is made[0]


# Trust.


def test_strict_client_never_gets_what_a_trusting_one_accepted(
    sshd: Sshd, connect: Connect
) -> None:
    trusting = connect(sshd)
    with pytest.raises(real.SSHException, match="not found in known_hosts"):
        connect(sshd, trusting=False)
    assert run(trusting) == HELLO
    strict = ours.SSHClient()
    strict.load_host_keys(sshd.known_hosts)
    strict.connect(**arguments(sshd))
    assert run(strict) == HELLO
    strict.close()
    assert logins(sshd) == 1


def test_a_wrong_known_key_is_paramikos_error_before_and_after(
    sshd: Sshd, connect: Connect, tmp_path: Path
) -> None:
    """A client that knows another key refuses the server, whether a connection exists or not."""
    other = Path(str(generated("other-host")) + ".pub").read_text().split()[:2]
    known = tmp_path / "known_hosts"
    known.write_text(f"[{sshd.host}]:{sshd.port} {' '.join(other)}\n")
    for _ in range(2):
        client = ours.SSHClient()
        client.load_host_keys(str(known))
        with pytest.raises(real.BadHostKeyException) as caught:
            client.connect(**arguments(sshd))
        assert caught.value.hostname == sshd.host
        client.close()
        connect(sshd)
    assert logins(sshd) == 1


def test_a_policy_may_connect_to_the_server_that_it_judges(sshd: Sshd, connect: Connect) -> None:
    """It is asked during the dial, and must not wait for it."""
    found = []

    class Asking(real.MissingHostKeyPolicy):
        def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:
            found.append(run(connect(sshd)))

    client: Any = ours.SSHClient()
    client.set_missing_host_key_policy(Asking())
    with client:
        Outcome(lambda: client.connect(**arguments(sshd))).wait()
        assert run(client) == HELLO
    assert found == [HELLO]


def test_policy_of_each_client_is_asked(sshd: Sshd, connect: Connect) -> None:
    class Policy(real.MissingHostKeyPolicy):
        def __init__(self) -> None:
            self.asked: List[Any] = []

        def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:
            self.asked.append((client, hostname, client.get_transport() is not None))

    name = f"[{sshd.host}]:{sshd.port}"
    for _ in range(2):
        policy, client = Policy(), ours.SSHClient()
        client.set_missing_host_key_policy(policy)
        client.connect(**arguments(sshd))
        assert policy.asked == [(client, name, True)]
        client.close()


def test_strict_client_failure_does_not_fail_a_trusting_one(sshd: Sshd, connect: Connect) -> None:
    """Clients that dial at once, and trust differently, get each their own result."""
    results: List[Any] = []

    def one(number: int) -> None:
        try:
            results.append((number % 2, run(connect(sshd, trusting=bool(number % 2)))))
        except real.SSHException as error:
            results.append((number % 2, type(error)))

    in_threads(8, one)
    assert sorted(map(str, results)) == sorted(
        map(str, [(0, real.SSHException)] * 4 + [(1, HELLO)] * 4)
    )


# Exceptions: paramiko's, from a client that dials, and from one that waits.


def refusing() -> socket.socket:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    return listener


def silent() -> socket.socket:
    listener = refusing()
    listener.listen()
    return listener


FAILURES: Any = {
    "no such name": lambda server: {"hostname": "no-such-host.invalid"},
    "wrong key": lambda server: {"key_filename": str(generated("unknown-user"))},
    "wrong password": lambda server: {"key_filename": None, "password": "wrong"},
    "no credentials": lambda server: {"key_filename": None},
    "encrypted key": lambda server: {"key_filename": str(generated("locked", passphrase="long"))},
    "no such key": lambda server: {"key_filename": "/no/such/key"},
}


@pytest.mark.parametrize("name", FAILURES)
def test_failures_are_paramikos(sshd: Sshd, connect: Connect, name: str) -> None:
    """The class and the arguments of an exception are what plain paramiko raises."""
    caught = []
    for cls in (real.SSHClient, ours.SSHClient):
        with pytest.raises(Exception) as info:
            connect(sshd, cls=cls, **FAILURES[name](sshd))
        caught.append(info.value)
    theirs, mine = caught
    assert type(mine) is type(theirs)
    assert str(mine) == str(theirs)
    for attribute in ("allowed_types", "errors"):
        assert getattr(mine, attribute, None) == getattr(theirs, attribute, None)


def test_no_common_algorithm_is_an_incompatible_peer(sshd: Sshd, connect: Connect) -> None:
    ciphers = list(real.Transport._preferred_ciphers)
    with pytest.raises(real.ssh_exception.IncompatiblePeer):
        connect(sshd, disabled_algorithms={"ciphers": ciphers})


def test_no_listener_is_no_valid_connections(sshd: Sshd, connect: Connect) -> None:
    with refusing() as listener:
        port = listener.getsockname()[1]
        with pytest.raises(real.ssh_exception.NoValidConnectionsError) as caught:
            connect(sshd, port=port)
    assert list(caught.value.errors) == [("127.0.0.1", port)]


def test_banner_timeout_is_the_clients_own(sshd: Sshd, connect: Connect) -> None:
    with silent() as listener:
        began = time.monotonic()
        with pytest.raises(
            real.SSHException, match="Error reading SSH protocol banner: the server"
        ):
            connect(sshd, port=listener.getsockname()[1], banner_timeout=0.3)
        assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("limit", "error"),
    [
        ({"banner_timeout": 0.4}, "Error reading SSH protocol banner"),
        ({"timeout": 0.4}, "Error reading SSH protocol banner"),
    ],
    ids=["banner", "timeout"],
)
def test_time_limits_are_the_clients_own_while_another_one_dials(
    sshd: Sshd, connect: Connect, limit: Any, error: str
) -> None:
    with silent() as listener:
        port = listener.getsockname()[1]
        patient = Outcome(lambda: connect(sshd, port=port, banner_timeout=PATIENCE))
        eventually(lambda: ours.stats()["open"] == 1)
        began = time.monotonic()
        with pytest.raises(real.SSHException, match=error):
            connect(sshd, port=port, **limit)
        assert time.monotonic() - began < 5
        assert not patient.is_over()
    assert isinstance(patient.wait().error, real.SSHException)


def test_a_login_that_takes_too_long_for_one_client_may_go_on_for_another(
    sshd: Sshd, connect: Connect
) -> None:
    with FaultProxy(sshd) as proxy:
        proxy.delay = 0.5
        there = {"hostname": proxy.host, "port": proxy.port}
        patient = Outcome(lambda: run(connect(sshd, **there)))
        eventually(lambda: ours.stats()["open"] == 1)
        with pytest.raises(real.AuthenticationException, match="Authentication timeout"):
            connect(sshd, auth_timeout=0.05, **there)
        assert patient.wait().value == HELLO
    assert logins(sshd) == 1


def test_a_failed_login_leaves_the_client_its_transport(sshd: Sshd, connect: Connect) -> None:
    """As in paramiko, a program may go on to log in by itself."""
    client = ours.SSHClient()
    client.set_missing_host_key_policy(real.AutoAddPolicy())
    with pytest.raises(real.AuthenticationException):
        client.connect(**{**arguments(sshd), "key_filename": str(generated("unknown-user"))})
    client.get_transport().auth_publickey(sshd.username, real.PKey.from_path(sshd.client_key))
    assert run(client) == HELLO
    client.close()


# A client's own view.


def test_closing_a_client_does_not_touch_the_others(sshd: Sshd, connect: Connect) -> None:
    one, two = connect(sshd), connect(sshd)
    reading = one.exec_command("sleep 60")[1]
    waiting = Outcome(reading.read)
    kept = two.exec_command("read x; echo $x")
    one.close()
    assert waiting.wait().value == b""
    assert one.get_transport() is None
    kept[0].write("still\n")
    assert kept[1].read() == b"still\n"
    assert logins(sshd) == 1


def test_closing_a_transport_is_the_clients_own(sshd: Sshd, connect: Connect) -> None:
    one, two = connect(sshd), connect(sshd)
    transport = one.get_transport()
    assert isinstance(transport, real.Transport)
    assert transport.is_active() and transport.is_authenticated() and transport.active
    channel = transport.open_session()
    assert channel.get_transport() is transport
    channel.get_transport().close()
    assert not transport.is_active() and not transport.active
    with pytest.raises(real.SSHException, match="not active"):
        one.exec_command("true")
    assert run(two) == HELLO


def test_a_keepalive_may_be_set_after_close(sshd: Sshd, connect: Connect) -> None:
    for cls in (real.SSHClient, ours.SSHClient):
        client = connect(sshd, cls=cls)
        transport = client.get_transport()
        client.close()
        transport.set_keepalive(5)


def test_a_command_that_is_too_long_ends_nothing_but_itself(sshd: Sshd, connect: Connect) -> None:
    """A packet that is too large makes OpenSSH end the connection, with all that runs on it."""
    other, client = connect(sshd), connect(sshd)
    stdin, stdout, _ = other.exec_command("read x; echo $x")
    for request in (
        {"command": "x" * 300_000},
        {"command": "true", "environment": {"X": "x" * 300_000}},
    ):
        with pytest.raises(real.SSHException, match="would end the connection"):
            client.exec_command(**request)
    assert run(client, "x" * 250_000)[1] != 0  # too long for the system, not for the connection
    stdin.write("hello\n")
    stdin.flush()
    assert stdout.read() == b"hello\n"
    assert logins(sshd) == 1


def test_what_is_logged_is_logged_where_paramiko_logs(
    sshd: Sshd, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("DEBUG"):
        transport = connect(sshd).get_transport()
    assert transport.get_log_channel() == "paramiko.transport"
    assert any(record.name == "paramiko.transport" for record in caplog.records)


def test_keepalive_only_becomes_shorter(sshd: Sshd, connect: Connect) -> None:
    one, two = connect(sshd).get_transport(), connect(sshd).get_transport()
    one.set_keepalive(5)
    two.set_keepalive(30)
    two.set_keepalive(0)
    assert one.connection.keepalive_interval == 5
    two.set_keepalive(2)
    assert one.connection.keepalive_interval == 2


def test_defaults_of_windows_are_the_clients_own(sshd: Sshd, connect: Connect) -> None:
    one, two = connect(sshd).get_transport(), connect(sshd).get_transport()
    one.default_window_size = 100_000
    assert one.open_session().in_window_size == 100_000
    assert two.open_session().in_window_size != 100_000
    assert two.open_session(window_size=50_000).in_window_size == 50_000


def test_forwarded_ports_reach_their_own_client(sshd: Sshd, connect: Connect) -> None:
    one, two = connect(sshd).get_transport(), connect(sshd).get_transport()
    ports = [one.request_port_forward("", 0), two.request_port_forward("", 0)]
    for transport, port in zip((two, one), ports[::-1]):
        with socket.create_connection(("127.0.0.1", port)) as peer:
            channel = transport.accept(PATIENCE)
            peer.sendall(b"to %d" % port)
            assert channel.recv(100) == b"to %d" % port
            assert channel.get_transport() is transport
    one.close()
    eventually(lambda: not _listens(ports[0]))
    assert _listens(ports[1])
    assert one.accept(0.1) is None


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_logging_in_again_does_not_touch_the_others(sshd: Sshd, connect: Connect) -> None:
    one, two = connect(sshd), connect(sshd)
    assert one.get_transport().auth_password(sshd.username, "any") == []
    with pytest.raises(real.AuthenticationException):
        one.get_transport().auth_none("somebody-else")
    assert run(one) == run(two) == HELLO


def test_a_dropped_client_ends_with_its_last_channel(
    sshd: Sshd, connect: Connect, cache: SshClientCache
) -> None:
    ours.configure(cache=cache, linger=0)
    client = ours.SSHClient()
    client.set_missing_host_key_policy(real.AutoAddPolicy())
    client.connect(**arguments(sshd))
    stdin, stdout, _ = client.exec_command("read x; echo $x")
    del client
    gc.collect()
    stdin.write("hello\n")
    stdin.flush()
    assert stdout.read() == b"hello\n"
    assert len(cache) == 1
    del stdin, stdout, _
    gc.collect()
    eventually(lambda: len(cache) == 0)


def test_open_sftp_is_paramikos(sshd: Sshd, connect: Connect, tmp_path: Path) -> None:
    client = connect(sshd)
    sftp = client.open_sftp()
    assert type(sftp) is real.SFTPClient
    content = os.urandom(300_000)
    (tmp_path / "from").write_bytes(content)
    sftp.put(str(tmp_path / "from"), str(tmp_path / "there"))
    sftp.get(str(tmp_path / "there"), str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == content
    sftp.close()


def test_terminal_and_shell(sshd: Sshd, connect: Connect) -> None:
    client = connect(sshd)
    _, stdout, _ = client.exec_command("stty size; exit 5", get_pty=True)
    assert b"24 80" in stdout.read()
    assert stdout.channel.recv_exit_status() == 5
    shell = client.invoke_shell(width=100, height=30)
    assert shell.get_transport() is client.get_transport()


# Lifetime.


def test_linger_keeps_the_connection_for_the_next_client(
    sshd: Sshd, connect: Connect, cache: SshClientCache
) -> None:
    ours.configure(cache=cache, linger=0.2)
    connect(sshd).close()
    connect(sshd).close()
    assert logins(sshd) == 1
    eventually(lambda: len(cache) == 0)


def test_without_linger_the_next_client_logs_in_anew(
    sshd: Sshd, connect: Connect, cache: SshClientCache
) -> None:
    ours.configure(cache=cache, linger=0)
    for _ in range(3):
        client = connect(sshd)
        run(client)
        client.close()
    assert logins(sshd) == 3
    one, two = connect(sshd), connect(sshd)
    assert run(one) == run(two) == HELLO
    assert logins(sshd) == 4
    one.close(), two.close()
    eventually(lambda: len(cache) == 0)


@pytest.mark.parametrize("host", [None, "127.0.0.1"])
def test_fresh_ends_the_sharing_of_what_exists(
    sshd: Sshd, connect: Connect, cache: SshClientCache, host: Any
) -> None:
    before = connect(sshd)
    ours.fresh("another.example")
    other = connect(sshd)
    assert logins(sshd) == 1
    ours.fresh(host)
    after = connect(sshd)
    assert logins(sshd) == 2
    assert run(before) == run(after) == HELLO
    before.close(), other.close()
    eventually(lambda: len(cache) == 1)  # nobody would get it again
    after.close()
    ours.fresh(host)
    eventually(lambda: len(cache) == 0)


def test_an_idle_connection_that_is_lost_is_replaced(sshd: Sshd, connect: Connect) -> None:
    """The program notices nothing but `is_active()`."""
    one, two = connect(sshd), connect(sshd)
    run(one)
    sshd.cut()
    eventually(lambda: not one.get_transport().is_active())
    assert run(one) == HELLO
    assert one.get_transport().is_active()
    assert two.get_transport().request_port_forward("", 0)
    assert two.get_transport().is_active()
    assert run(connect(sshd)) == HELLO
    assert logins(sshd) == 2


def test_a_login_that_wants_more_is_each_clients_own(
    connect: Connect, sshd_factory: Callable[..., Sshd]
) -> None:
    """As in paramiko, connect() returns, and the program goes on by the transport."""
    server = sshd_factory({"AuthenticationMethods": "publickey,publickey"})
    second = generated("second")
    with open(server.authorized_keys, "a", encoding="ascii") as file:
        file.write(Path(f"{second}.pub").read_text("ascii"))
    calls = [Outcome(lambda: connect(server)) for _ in range(3)]
    clients = [call.wait().value for call in calls]
    for client in [*clients, connect(server)]:
        transport = client.get_transport()
        assert transport.is_active() and not transport.is_authenticated()
        assert transport.auth_publickey(server.username, real.PKey.from_path(str(second))) == []
        assert run(client) == HELLO
    assert logins(server) == 4


# Routes.


def test_channel_of_another_client_as_socket(
    sshd: Sshd, connect: Connect, sshd_factory: Callable[..., Sshd]
) -> None:
    """Clients that come by the same client of another host share, and outlive that client."""
    jump = sshd_factory()
    clients = []
    for _ in range(3):
        gate = connect(jump)
        channel = gate.get_transport().open_channel(
            "direct-tcpip", (sshd.host, sshd.port), ("127.0.0.1", 0)
        )
        clients.append(connect(sshd, sock=channel))
        assert run(clients[-1]) == HELLO
        gate.close()
    assert [run(client) for client in clients] == [HELLO] * 3
    assert (logins(jump), logins(sshd)) == (1, 1)


def test_proxy_command_as_socket(sshd: Sshd, connect: Connect, tmp_path: Path) -> None:
    relay = tmp_path / "relay.py"
    relay.write_text(RELAY)
    line = f"{sys.executable} {relay} {sshd.host} {sshd.port}"
    clients = [connect(sshd, sock=real.ProxyCommand(line)) for _ in range(3)]
    assert [run(client) for client in clients] == [HELLO] * 3
    assert logins(sshd) == 1
    sshd.cut()
    eventually(lambda: not clients[0].get_transport().is_active())
    assert run(clients[0]) == HELLO


RELAY = """
import os, socket, sys, threading
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def out():
    while True:
        data = sock.recv(65536)
        if not data:
            os._exit(0)
        os.write(1, data)
threading.Thread(target=out, daemon=True).start()
while True:
    data = os.read(0, 65536)
    if not data:
        break
    sock.sendall(data)
"""


# Sessions.


def churn(server: Sshd, threads: int, rounds: int) -> None:
    def one(number: int) -> None:
        for index in range(rounds):
            client = ours.SSHClient()
            client.set_missing_host_key_policy(real.AutoAddPolicy())
            client.connect(**arguments(server))
            try:
                expected = f"{number} {index}"
                assert run(client, f"echo {expected}") == (f"{expected}\n".encode(), 0)
            finally:
                client.close()

    in_threads(threads, one, timeout=500)


@pytest.mark.parametrize("most", [10, 1])
def test_many_threads_with_few_sessions(
    connect: Connect, sshd_factory: Callable[..., Sshd], most: int
) -> None:
    server = sshd_factory({"MaxSessions": most, "MaxStartups": 100})
    churn(server, 12, 4)
    assert server.logins() <= 12 / most + 2


@pytest.mark.long
@pytest.mark.parametrize("most", [10, 1])
def test_64_threads_with_50_clients_each_share_logins(
    connect: Connect, cache: SshClientCache, sshd_factory: Callable[..., Sshd], most: int
) -> None:
    """No error, and never more logins than clients at once divided by MaxSessions, plus two."""
    server = sshd_factory({"MaxSessions": most, "MaxStartups": 100})
    churn(server, 64, 6)
    memory = resident_bytes()
    before = threads_and_descriptors(cache)
    churn(server, 64, 44)
    assert server.logins() <= 64 / most + 2
    after = threads_and_descriptors(cache)
    assert after[0] <= before[0] + 5 and after[1] <= before[1] + 5
    # What a connection takes, of which there may be more now.
    assert resident_bytes() <= memory + 30e6


def threads_and_descriptors(cache: SshClientCache) -> Tuple[int, int]:
    """Count those that no connection has; each has one of both."""
    made = len(cache)
    return threading.active_count() - made, len(os.listdir("/proc/self/fd")) - made


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_more_sessions_than_a_server_admits(
    connect: Connect, sshd_factory: Callable[..., Sshd]
) -> None:
    """Clients that all hold a session do not wait for each other."""
    server = sshd_factory({"MaxSessions": 2})
    clients = [connect(server) for _ in range(5)]
    running = [client.exec_command("read x; echo $x") for client in clients]
    for stdin, stdout, _ in running:
        stdin.write("x\n")
        stdin.flush()
        assert stdout.read() == b"x\n"
    assert logins(server) == 3


def test_a_forgotten_channel_gives_its_session_back(
    connect: Connect, sshd_factory: Callable[..., Sshd]
) -> None:
    server = sshd_factory({"MaxSessions": 2})
    client = connect(server)
    for _ in range(20):
        client.exec_command("cat")
    assert run(client) == HELLO
    assert server.logins() <= 2


# For the whole process.


def test_install_holds_for_names_imported_before(
    sshd: Sshd, connect: Connect, cache: SshClientCache
) -> None:
    from paramiko import SSHClient, Transport  # before

    class Sub(SSHClient):
        pass

    class SubTransport(Transport):
        pass

    ours.install(cache=cache)
    for cls in (SSHClient, Sub, real.SSHClient, ours.SSHClient):
        assert run(connect(sshd, cls=cls)) == HELLO
    assert logins(sshd) == 1
    with socket.create_connection((sshd.host, sshd.port)) as sock:
        assert isinstance(Transport(sock), ours.Transport)
        assert not isinstance(SubTransport(sock), ours.Transport)
    living = connect(sshd, cls=Sub)
    ours.uninstall()
    assert run(living) == HELLO
    connect(sshd, cls=SSHClient)
    eventually(lambda: sshd.logins() == 2)
    with socket.create_connection((sshd.host, sshd.port)) as sock:
        assert type(Transport(sock)) is Transport


PROGRAM = """
import sys
import paramiko
if __name__ == "__main__":
    host, port, user, key = sys.argv[1:]
    for _ in range(5):
        client = paramiko.SSHClient()
        client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        client.connect(host, int(port), user, key_filename=key, allow_agent=False)
        print(client.exec_command("echo hello")[1].read().decode().strip())
        client.close()
    sys.exit(3)
"""


@pytest.mark.parametrize("way", ["path", "module", "name"])
def test_an_unchanged_program_runs_so(sshd: Sshd, tmp_path: Path, way: str) -> None:
    program = tmp_path / ("tool" if way == "name" else "tool.py")
    program.write_text(f"#!{sys.executable}\n{PROGRAM}")
    program.chmod(0o755)
    name = {"path": [str(program)], "module": ["-m", "tool"], "name": ["tool"]}[way]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "ssh_service.paramiko", *name]
        + [sshd.host, str(sshd.port), sshd.username, sshd.client_key],
        cwd=str(tmp_path),
        env={
            **os.environ,
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=PATIENCE,
        check=False,
    )
    assert done.stdout.decode() == "hello\n" * 5, done.stderr.decode()
    assert done.stderr == b""
    assert done.returncode == 3
    assert logins(sshd) == 1


# Transport.


def test_transport_has_paramikos_constructor(sshd: Sshd) -> None:
    key = real.PKey.from_path(sshd.client_key)
    for address in ((sshd.host, sshd.port), f"{sshd.host}:{sshd.port}"):
        transport = ours.Transport(address, disabled_algorithms={"ciphers": ["aes128-ctr"]})
        try:
            transport.connect(username=sshd.username, pkey=key)
            assert transport.hostname == sshd.host
            assert transport.local_cipher == "aes192-ctr"
            channel = transport.open_session()
            channel.exec_command("echo hello")
            assert channel.recv(100) == b"hello\n"
        finally:
            transport.close()
            transport.join(PATIENCE)


def test_aes_gcm_is_used_where_clients_share_and_the_program_has_no_order(
    sshd: Sshd, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is several times faster; whoever sets paramiko's list gets what is first in it."""
    assert connect(sshd).get_transport().local_cipher == "aes128-gcm@openssh.com"
    monkeypatch.setattr(real.Transport, "_preferred_ciphers", ("aes256-ctr", "aes128-ctr"))
    assert connect(sshd).get_transport().local_cipher == "aes256-ctr"


def test_an_altered_packet_is_paramikos_error(
    sshd: Sshd, connect: Connect, cache: SshClientCache
) -> None:
    """Also where AES-GCM finds it, of which paramiko itself lets another exception through."""
    found = [""]
    with FaultProxy(sshd.host, sshd.port) as proxy:
        for offset in range(1500, 6000, 60):  # where the key exchange has ended, by its algorithm
            proxy.corrupt_at(offset, "to_client")
            try:
                run(connect(sshd, hostname=proxy.host, port=proxy.port))
            except (real.SSHException, EOFError, OSError) as error:
                found.append(str(error))
            if "Mismatched MAC" in found[-1]:
                return
            cache.cleanup()  # a connection whose padding was altered is none the worse
    pytest.fail(f"no altered packet was noticed: {found}")


def test_transport_may_be_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that serves gets paramiko's own transport, once it says so."""

    class Server(real.ServerInterface):
        def check_auth_password(self, username: str, password: str) -> int:
            return int(real.AUTH_SUCCESSFUL)

        def get_allowed_auths(self, username: str) -> str:
            return "password"

    left, right = socket.socketpair()
    server, client = ours.Transport(left), ours.Transport(right)
    server.add_server_key(real.ECDSAKey.generate())
    server.start_server(event=threading.Event(), server=Server())
    client.connect(username="anyone", password="any")
    assert client.is_authenticated()
    assert type(server) is real.Transport
    failures: List[Any] = []  # of handlers of forks
    monkeypatch.setattr(sys, "unraisablehook", failures.append)
    child = os.fork()
    if not child:
        os._exit(len(failures))
    assert os.waitpid(child, 0)[1] == 0
    client.close()
    server.close()
    server.join(PATIENCE)


# Forks and interruptions.


def test_a_forked_child_has_connections_of_its_own(sshd: Sshd, connect: Connect) -> None:
    client = connect(sshd)
    child = os.fork()
    if not child:
        status = 1
        try:
            status = 0 if run(client) == HELLO and run(connect(sshd)) == HELLO else 2
            if ours.stats()["logins"] != 1:  # and not those of the parent
                status = 3
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert run(client) == HELLO
    assert logins(sshd) == 2


@pytest.mark.long
@pytest.mark.parametrize("how", HOWS)
def test_an_exception_anywhere_leaves_the_destination_usable(
    sshd: Sshd, connect: Connect, cache: SshClientCache, how: str
) -> None:
    """
    Whatever line a signal's handler interrupts, no lease, session or lock is lost.

    An interrupted write ends its connection, so there are some logins more.
    """

    def call() -> None:
        client = ours.SSHClient()
        client.set_missing_host_key_policy(real.AutoAddPolicy())
        try:
            client.connect(**arguments(sshd))
            client.exec_command("true")[1].read()
        finally:
            client.close()

    kept = connect(sshd)
    for moment in moments(60, step=_STRIDE):
        if not torn_at(moment, call, how):
            break
        assert run(kept) == HELLO
    gc.collect()
    kept.close()
    eventually(lambda: cache.stats()["leases"] <= 1)


# Paramiko's meaning in the details.


def test_a_kind_of_channel_that_nobody_knows(sshd: Sshd, connect: Connect) -> None:
    """It is refused, by the server or, for the sake of the others, by us."""
    client = connect(sshd)
    with pytest.raises(real.ChannelException):
        client.get_transport().open_channel("nonesuch")
    transport = ours.Transport((sshd.host, sshd.port))
    try:
        transport.connect(username=sshd.username, pkey=real.PKey.from_path(sshd.client_key))
        with pytest.raises(real.ChannelException, match="open failed"):
            transport.open_channel("nonesuch")
    finally:
        transport.close()
        transport.join(PATIENCE)
    assert run(client) == HELLO


def test_handlers_may_queue_what_they_get(sshd: Sshd, connect: Connect) -> None:
    """As paramiko's own default handler does, and its documentation says."""
    transport = connect(sshd).get_transport()

    def handler(channel: Any, origin: Any, here: Any) -> None:
        transport._queue_incoming_channel(channel)

    port = transport.request_port_forward("", 0, handler)
    with socket.create_connection(("127.0.0.1", port)) as peer:
        channel = transport.accept(PATIENCE)
        channel.sendall(b"hello")
        assert peer.recv(5) == b"hello"


def test_files_of_a_lost_connection_are_dropped_in_silence(sshd: Sshd, connect: Connect) -> None:
    """Their destructors raise nothing, which Python would print."""
    client = connect(sshd)
    files = client.exec_command("cat")
    sshd.cut()
    eventually(lambda: not client.get_transport().is_active())
    for file in files:
        file.close()
    del files, file
    gc.collect()


def test_an_agent_is_forwarded_for_each_client(
    sshd: Sshd, connect: Connect, openssh_client: None
) -> None:
    """Also for a client that asks for it second, and after the first was closed."""
    with agent() as path:
        clients = [connect(sshd), connect(sshd)]
        for client in clients:
            channel = client.get_transport().open_session()
            handler = real.agent.AgentRequestHandler(channel)
            channel.exec_command("ssh-add -l; true")
            output = b"".join(iter(lambda: channel.recv(4096), b""))
            assert b"no identities" in output, (path, output)
            handler.close()
            client.close()


@contextlib.contextmanager
def agent() -> Iterator[str]:
    """Run an agent without keys, and name it in the environment."""
    folder = tempfile.mkdtemp(prefix="ssh-service-agent-")
    path, before = os.path.join(folder, "agent"), os.environ.get("SSH_AUTH_SOCK")
    process = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)
    try:
        eventually(lambda: os.path.exists(path))
        os.environ["SSH_AUTH_SOCK"] = path
        yield path
    finally:
        if before is None:
            os.environ.pop("SSH_AUTH_SOCK", None)
        else:
            os.environ["SSH_AUTH_SOCK"] = before
        process.terminate()
        process.wait(PATIENCE)
        shutil.rmtree(folder, ignore_errors=True)
