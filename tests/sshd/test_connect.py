"""Dialling a real sshd: addresses, host keys, authentication, routes, and what goes wrong."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import pytest

from ssh_service import background, params
from ssh_service.connect import dial, routes, tcp
from ssh_service.errors import (
    SshAuthError,
    SshConfigError,
    SshConnectError,
    SshConnectTimeout,
    SshHostKeyError,
)
from ssh_service.testing.pytest_plugin import FaultProxy, Sshd
from ssh_service.transport import SshTransport
from tests.common import PATIENCE, eventually
from tests.integration.test_credentials import add, agent, needs_agent  # noqa: F401
from tests.keys import certify, generated, public_line, ssh_fingerprint

SshdFactory = Callable[..., Sshd]


def connect(server: Sshd, timeout: float = 10, **given: Any) -> SshTransport:
    found = params.resolve({**server.connect_params, **given})
    return dial(found, time.monotonic() + timeout)


def works(transport: SshTransport) -> bool:
    """Run a command, close, and tell whether the command's output came."""
    channel = transport.open_session()
    channel.exec_command("echo hello")
    said = channel.recv(100)
    transport.close()
    return bool(said == b"hello\n")


def attempts(server: Sshd) -> int:
    return server.log().count("userauth-request for user")


# --- addresses -------------------------------------------------------------------------------


def test_dials_and_says_who_it_is(sshd: Sshd) -> None:
    transport = connect(sshd)
    assert transport.connection_id == f"{sshd.username}@127.0.0.1:{sshd.port}"
    assert transport.is_authenticated()
    assert works(transport)


def test_small_packets_are_not_held_back_and_the_kernel_watches(sshd: Sshd) -> None:
    found = params.resolve(sshd.connect_params)
    stream = routes.open_stream(found, time.monotonic() + 10, lambda *_: pytest.fail("no hop"))
    with stream.sock as sock:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.gettimeout() is None


def test_packets_are_acknowledged_at_once_until_a_command_runs(sshd: Sshd) -> None:
    """The first command is where sshd turns Nagle's algorithm off."""
    transport = connect(sshd)
    assert transport._wire.acknowledges_at_once is hasattr(socket, "TCP_QUICKACK")
    assert works(transport)
    assert not transport._wire.acknowledges_at_once


def test_a_refused_port_is_an_error_with_errno_at_once(sshd: Sshd) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(SshConnectError) as caught:
            connect(sshd, port=unused.getsockname()[1])
    assert caught.value.errno == errno.ECONNREFUSED and caught.value.phase == "tcp"
    assert isinstance(caught.value.__cause__, OSError)


def test_an_unknown_name_is_an_error_of_resolving(sshd: Sshd) -> None:
    with pytest.raises(SshConnectError, match="'no-such-host.invalid'") as caught:
        connect(sshd, host="no-such-host.invalid")
    assert caught.value.phase == "resolve" and not isinstance(caught.value, SshConnectTimeout)


@pytest.mark.parametrize("host", ["a" * 64 + ".com", "a..b", "\u2603" * 70])
def test_an_impossible_name_is_an_error_of_resolving(sshd: Sshd, host: str) -> None:
    with pytest.raises(SshConnectError) as caught:
        connect(sshd, host=host)
    assert caught.value.phase == "resolve"


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Dict[str, Any]]:
    """Let a test say what names stand for: a list of addresses, or an event to wait for."""
    known: Dict[str, Any] = {}
    asked = socket.getaddrinfo

    def lookup(host: str, port: int, *more: Any, **named: Any) -> Any:
        if host not in known or named.get("flags"):
            return asked(host, port, *more, **named)
        known.setdefault("calls", []).append(host)
        meant = known[host]
        if isinstance(meant, threading.Event):
            meant.wait(20)
            meant = ["127.0.0.1"]
        return [found for address in meant for found in asked(address, port, *more)]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    yield known
    for meant in known.values():
        if isinstance(meant, threading.Event):
            meant.set()


def test_a_name_service_that_hangs_ends_at_the_deadline(sshd: Sshd, names: Dict[str, Any]) -> None:
    names["slow"] = threading.Event()
    for _ in range(3):
        began = time.monotonic()
        with pytest.raises(SshConnectTimeout) as caught:
            connect(sshd, timeout=0.2, host="slow")
        assert caught.value.phase == "resolve" and time.monotonic() - began < 1.4
    assert names["calls"] == ["slow"]  # the later ones wait for the same answer


def test_the_next_address_is_tried_where_one_refuses(sshd: Sshd, names: Dict[str, Any]) -> None:
    names["two"] = ["127.0.0.2", "127.0.0.1"]
    assert works(connect(sshd, host="two", known_hosts=None, host_key_policy="off"))


@pytest.fixture
def blackhole() -> Iterator[Tuple[str, int]]:
    """Yield an address on which a connection is neither made nor refused."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.3", 0))
        listener.listen(0)
        fill = []
        try:
            for _ in range(4):
                sock = socket.socket()
                sock.setblocking(False)
                sock.connect_ex(listener.getsockname())
                fill.append(sock)
            yield listener.getsockname()
        finally:
            for sock in fill:
                sock.close()


def test_a_dead_address_holds_up_the_next_one_only_shortly(
    sshd: Sshd, blackhole: Tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcp, "_ATTEMPT_DELAY", 0.1)
    with FaultProxy("127.0.0.1", sshd.port) as proxy:
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", where)
            for where in (blackhole, (proxy.host, proxy.port))
        ]
        monkeypatch.setattr(tcp, "resolve_name", lambda *_: found)
        began = time.monotonic()
        transport = connect(sshd, host="two", known_hosts=None, host_key_policy="off")
        assert time.monotonic() - began < 1.9  # without it, two seconds later
        assert works(transport)


def test_a_dead_host_ends_at_the_deadline(sshd: Sshd, blackhole: Tuple[str, int]) -> None:
    began = time.monotonic()
    with pytest.raises(SshConnectTimeout) as caught:
        connect(sshd, timeout=0.3, host=blackhole[0], port=blackhole[1])
    assert time.monotonic() - began < 1.6
    assert caught.value.phase == "tcp" and caught.value.errno == errno.ETIMEDOUT


def test_an_ipv6_address_is_dialled(sshd_factory: SshdFactory) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")
    server = sshd_factory({"ListenAddress": ["127.0.0.1", "::1"]})
    key = Path(server.host_key + ".pub").read_text()
    Path(server.known_hosts).write_text(f"[::1]:{server.port} {key}")
    assert works(connect(server, host="::1"))
    assert works(connect(server, host="[::1]"))
    with pytest.raises(SshConnectError):
        connect(server, host="::1", family="inet")


def test_a_local_address_is_used(sshd: Sshd) -> None:
    transport = connect(sshd, local_addr="127.0.0.9")
    assert "from 127.0.0.9 port" in sshd.log()
    transport.close()
    with pytest.raises(SshConnectError) as caught:
        connect(sshd, local_addr="192.0.2.1")
    assert caught.value.errno == errno.EADDRNOTAVAIL


# --- host keys -------------------------------------------------------------------------------


def test_an_unknown_host_is_refused_before_any_credential(sshd: Sshd, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    with pytest.raises(SshHostKeyError) as caught:
        connect(sshd, known_hosts=empty)
    assert caught.value.received == ssh_fingerprint(Path(sshd.host_key + ".pub"))
    assert str(empty) in str(caught.value)
    assert attempts(sshd) == 0


@pytest.mark.parametrize("policy", ["strict", "accept-new"])
def test_a_changed_host_is_refused_before_any_credential(
    sshd: Sshd, tmp_path: Path, policy: str
) -> None:
    other = tmp_path / "other"
    other.write_text(f"[127.0.0.1]:{sshd.port} {public_line('host-a')}\n")
    before = other.read_text()
    for _ in range(2):  # and on the next try as well
        with pytest.raises(SshHostKeyError) as caught:
            connect(sshd, known_hosts=other, host_key_policy=policy)
        assert caught.value.expected == ssh_fingerprint(generated("host-a"))
        assert f"{other}:1" in str(caught.value)
    assert attempts(sshd) == 0 and other.read_text() == before


def test_accept_new_believes_once_and_writes_what_ssh_accepts(sshd: Sshd, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    connect(sshd, known_hosts=mine, host_key_policy="accept-new").close()
    connect(sshd, known_hosts=mine).close()
    command = sshd.ssh_command("true")
    at = command.index(f"UserKnownHostsFile={sshd.known_hosts}")
    command[at] = f"UserKnownHostsFile={mine}"
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    assert len(mine.read_text().splitlines()) == 1


def unchecked_warnings(caplog: pytest.LogCaptureFixture) -> List[str]:
    said = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    return [text for text in said if "not checked" in text]


def test_host_key_unchecked_warns_once_per_host(
    sshd_factory: SshdFactory, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning names the setting, for the engine as for the services."""
    sshd = sshd_factory()  # nobody has been warned of this one
    for _ in range(2):
        connect(sshd, known_hosts=None).close()
    (text,) = unchecked_warnings(caplog)
    assert f"{sshd.host}:{sshd.port}" in text and "ssh_known_hosts_path" in text


@pytest.mark.parametrize("files", [None, (), "known_hosts"])
def test_host_key_policy_off_by_name_never_warns(
    files: Any, sshd: Sshd, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A caller that sets "off" needs no warning, whatever files there are."""
    known_hosts = str(tmp_path / files) if files else files
    connect(sshd, known_hosts=known_hosts, host_key_policy="off").close()
    assert unchecked_warnings(caplog) == []


def test_a_pinned_fingerprint_decides(sshd: Sshd) -> None:
    pin = ssh_fingerprint(Path(sshd.host_key + ".pub"))
    connect(sshd, known_hosts=None, host_key_fingerprints=pin).close()
    with pytest.raises(SshHostKeyError, match="pinned is"):
        connect(sshd, host_key_fingerprints=[ssh_fingerprint(generated("host-a"))])


@pytest.mark.parametrize("kind", ["rsa", "ecdsa", "ed25519"])
def test_a_server_with_several_keys_is_asked_for_the_known_one(
    sshd_factory: SshdFactory, kind: str
) -> None:
    keys = {name: generated("several-" + name, name) for name in ("rsa", "ecdsa", "ed25519")}
    server = sshd_factory({"HostKey": [str(path) for path in keys.values()]})
    line = f"[127.0.0.1]:{server.port} {public_line('several-' + kind, kind)}\n"
    Path(server.known_hosts).write_text(line)
    transport = connect(server)
    assert kind in transport.get_remote_server_key().get_name()
    transport.close()


@pytest.mark.parametrize("kind", ["rsa", "ecdsa", "ed25519"])
def test_a_certified_host_is_believed_by_its_authority(
    sshd_factory: SshdFactory, kind: str
) -> None:
    key = generated("certified-" + kind, kind)
    shown = certify(key, generated("ca"), host=True, principals="127.0.0.1")
    server = sshd_factory({"HostKey": str(key), "HostCertificate": str(shown)})
    Path(server.known_hosts).write_text("@cert-authority * " + public_line("ca") + "\n")
    subprocess.run(server.ssh_command("true"), check=True, stdin=subprocess.DEVNULL)
    assert works(connect(server))
    Path(server.known_hosts).write_text("@cert-authority * " + public_line("other-ca") + "\n")
    with pytest.raises(SshHostKeyError, match="not certified by the authority"):
        connect(server, host_key_policy="accept-new")


def test_a_certificate_for_another_host_is_refused(sshd_factory: SshdFactory) -> None:
    key = generated("certified-ed25519")
    shown = certify(key, generated("ca"), host=True, principals="elsewhere")
    server = sshd_factory({"HostKey": str(key), "HostCertificate": str(shown)})
    Path(server.known_hosts).write_text("@cert-authority * " + public_line("ca") + "\n")
    with pytest.raises(SshHostKeyError, match="it is for elsewhere"):
        connect(server)
    assert attempts(server) == 0
    assert works(connect(server, host_key_alias="Elsewhere"))


# --- keys ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rsa", "ecdsa", "ed25519"])
@pytest.mark.parametrize("passphrase", ["", "correct horse"])
def test_every_kind_of_key_logs_in(sshd_factory: SshdFactory, kind: str, passphrase: str) -> None:
    server = sshd_factory()
    key = generated(f"login-{kind}-{bool(passphrase)}", kind, passphrase)
    shutil.copy(str(key) + ".pub", server.authorized_keys)
    assert works(connect(server, client_keys=[key], passphrase=passphrase or None))


def test_the_named_key_is_the_only_one_shown(sshd: Sshd) -> None:
    connect(sshd).close()
    eventually(lambda: sshd.logins() == 1)
    assert "Failed publickey" not in sshd.log()


def test_refused_keys_are_named_and_nothing_is_tried_again(sshd: Sshd) -> None:
    keys = [generated("stranger-1"), generated("stranger-2")]
    with pytest.raises(SshAuthError) as caught:
        connect(sshd, client_keys=keys)
    assert [text.split()[1] for text in caught.value.tried] == [f"{key}:" for key in keys]
    assert sshd.log().count("Connection from") == 1


def test_a_server_that_has_enough_of_wrong_keys_is_an_authentication_error(
    sshd_factory: SshdFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = SshTransport._on_ended

    def finish_late(transport: SshTransport) -> None:
        threading.Event().wait(0.1)
        finish(transport)

    # Why a connection ended is known a moment after it is known to have ended.
    monkeypatch.setattr(SshTransport, "_on_ended", finish_late)
    server = sshd_factory({"MaxAuthTries": 3})
    keys = [generated(f"stranger-{number}") for number in range(6)]
    with pytest.raises(SshAuthError, match="Too many authentication failures") as caught:
        connect(server, client_keys=keys)
    assert len(caught.value.tried) == 3
    assert works(connect(server, client_keys=[*keys[:2], server.client_key]))


def test_a_key_file_that_is_wrong_costs_the_server_nothing(sshd: Sshd, tmp_path: Path) -> None:
    with pytest.raises(SshConfigError, match="No such file"):
        connect(sshd, client_keys=[tmp_path / "missing"])
    assert "Connection from" not in sshd.log()


@needs_agent
@pytest.mark.parametrize("kind", ["rsa", "ecdsa", "ed25519"])
def test_an_agent_logs_in(sshd_factory: SshdFactory, agent: str, kind: str) -> None:  # noqa: F811
    server = sshd_factory()
    key = generated("agent-" + kind, kind)
    add(agent, key)
    shutil.copy(str(key) + ".pub", server.authorized_keys)
    assert works(connect(server, client_keys=(), agent_path=agent))
    assert works(connect(server, client_keys=[generated("stranger-1")], agent_path=agent))
    with pytest.raises(SshAuthError):
        connect(
            server,
            client_keys=[generated("stranger-1")],
            agent_path=agent,
            identities_only=True,
        )


@needs_agent
@pytest.mark.parametrize("kind", ["rsa", "ecdsa", "ed25519"])
def test_a_user_certificate_logs_in_from_file_and_agent(
    sshd_factory: SshdFactory, agent: str, kind: str, tmp_path: Path  # noqa: F811
) -> None:
    ca = generated("user-ca")
    server = sshd_factory({"TrustedUserCAKeys": f"{ca}.pub", "AuthorizedKeysFile": "none"})
    key = tmp_path / "id"
    shutil.copy(str(generated("cert-" + kind, kind)), str(key))
    with pytest.raises(SshAuthError):
        connect(server, client_keys=[key])
    shown = certify(generated("cert-" + kind, kind), ca, host=False, principals=server.username)
    shutil.copy(str(shown), f"{key}-cert.pub")
    assert works(connect(server, client_keys=[key]))
    add(agent, key)
    assert works(connect(server, client_keys=[], agent_path=agent))


def test_two_keys_where_the_server_wants_two(sshd_factory: SshdFactory) -> None:
    server = sshd_factory({"AuthenticationMethods": "publickey,publickey"})
    second = generated("second")
    with open(server.authorized_keys, "a") as file:
        file.write(Path(f"{second}.pub").read_text())
    assert works(connect(server, client_keys=[server.client_key, second]))
    with pytest.raises(SshAuthError) as caught:
        connect(server)
    assert "accepted, more is required" in caught.value.tried[0]


# --- routes ----------------------------------------------------------------------------------


def test_two_jump_hosts_are_gone_through_with_one_login_each(sshd_factory: SshdFactory) -> None:
    near, middle, target = (sshd_factory() for _ in range(3))
    chain = {**middle.connect_params, "tunnel": near.connect_params}
    assert works(connect(target, tunnel=chain))
    assert [server.logins() for server in (near, middle, target)] == [1, 1, 1]


def test_jump_hosts_of_ssh_config_are_those_ssh_would_take(
    sshd_factory: SshdFactory, tmp_path: Path
) -> None:
    near, target = sshd_factory(), sshd_factory()
    config = tmp_path / "config"
    blocks = []
    for name, server in (("near", near), ("target", target)):
        blocks.append(
            f"Host {name}\nHostName 127.0.0.1\nPort {server.port}\nUser {server.username}\n"
            f"IdentityFile {server.client_key}\nIdentitiesOnly yes\n"
            f"UserKnownHostsFile {server.known_hosts}\n"
        )
    config.write_text("".join(blocks) + "Host target\nProxyJump near\n")
    subprocess.run(
        ["ssh", "-F", str(config), "-o", "BatchMode=yes", "target", "true"],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    found = params.resolve({"host": "target", "config": str(config)})
    assert works(dial(found, time.monotonic() + 10))
    assert near.logins() == target.logins() == 2


def test_a_tunnel_is_opened_by_the_cache_and_released_when_the_connection_ends(
    sshd: Sshd,
) -> None:
    hop = connect(sshd)
    released = threading.Event()
    asked: List[Any] = []

    def open_tunnel(found: Any, deadline: float) -> Any:
        asked.append((found.connection_id, deadline))
        return hop, released.set

    deadline = time.monotonic() + 10
    found = params.resolve({**sshd.connect_params, "tunnel": sshd.connect_params})
    transport = dial(found, deadline, open_tunnel=open_tunnel)
    assert asked == [(hop.connection_id, deadline)] and not released.is_set()
    assert works(transport)
    assert released.wait(5) and hop.is_active()
    hop.close()


def test_a_tunnel_is_released_where_the_dial_fails(sshd: Sshd, tmp_path: Path) -> None:
    hop = connect(sshd)
    released: List[bool] = []
    empty = tmp_path / "empty"
    empty.touch()
    for wrong in ({"port": 1}, {"known_hosts": empty}):
        given = {**sshd.connect_params, "tunnel": sshd.connect_params, **wrong}
        with pytest.raises(SshConnectError):
            dial(
                params.resolve(given),
                time.monotonic() + 10,
                open_tunnel=lambda *_: (hop, lambda: released.append(True)),
            )
    assert released == [True, True] and hop.is_active()
    eventually(lambda: hop.open_channel_count == 0)  # the server's answer to our CLOSE
    hop.close()


def test_a_connection_in_hand_serves_as_tunnel_and_survives(sshd: Sshd) -> None:
    hop = connect(sshd)
    assert works(connect(sshd, tunnel=hop))
    assert hop.is_active()
    hop.close()


def test_jump_host_refusal_is_reported(sshd: Sshd) -> None:
    with pytest.raises(SshConnectError, match="cannot connect to 127.0.0.1:1") as caught:
        connect(sshd, port=1, tunnel=sshd.connect_params)
    assert caught.value.phase == "tcp"


def test_a_jump_host_is_checked_by_its_own_trust(sshd: Sshd, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    with pytest.raises(SshHostKeyError):
        connect(sshd, tunnel={**sshd.connect_params, "known_hosts": empty})
    assert attempts(sshd) == 0


RELAY = """
import os, socket, sys, threading
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def back():
    while True:
        data = sock.recv(65536)
        if not data:
            os._exit(0)
        os.write(1, data)
threading.Thread(target=back, daemon=True).start()
while True:
    data = os.read(0, 65536)
    if not data:
        os._exit(0)
    sock.sendall(data)
"""


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_through_a_proxy_command_that_ends_with_the_connection(sshd: Sshd, tmp_path: Path) -> None:
    relay = tmp_path / "relay.py"
    relay.write_text(RELAY)
    pid_file = tmp_path / "pid"
    command = f"sh -c 'echo $$ > {pid_file}; exec {sys.executable} {relay} 127.0.0.1 {sshd.port}'"
    assert works(connect(sshd, proxy_command=command))
    pid = int(pid_file.read_text())
    eventually(lambda: is_gone(pid))


STUBBORN = RELAY.replace("os._exit(0)", "time.sleep(60)").replace(
    "import os,", "import time, signal, os,"
)


@pytest.mark.parametrize("how", ["ignores TERM", "is stopped", "is a pipeline"])
def test_a_proxy_command_that_does_not_end_is_ended(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr("ssh_service.connect.proxy_command._KILL_DELAY", 0.3)
    relay = tmp_path / "relay.py"
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    relay.write_text(STUBBORN.replace("\nsock =", f"\n{ignore}\nsock =", how != "is stopped"))
    pid_file = tmp_path / "pid"
    command = f"sh -c 'echo $$ > {pid_file}; exec {sys.executable} {relay} 127.0.0.1 {sshd.port}'"
    if how == "is a pipeline":
        command += " | cat"
    transport = connect(sshd, proxy_command=command)
    pid = int(pid_file.read_text())
    if how == "is stopped":
        os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    transport.close()
    assert time.monotonic() - began < 0.3
    try:
        eventually(lambda: is_gone(pid))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_a_proxy_command_of_another_user_ends_with_its_stream(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By sudo, for example: we may not signal it."""

    def killpg(pid: int, number: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "killpg", killpg)
    relay = tmp_path / "relay.py"
    relay.write_text(RELAY)
    pid_file = tmp_path / "pid"
    command = f"sh -c 'echo $$ > {pid_file}; exec {sys.executable} {relay} 127.0.0.1 {sshd.port}'"
    transport = connect(sshd, proxy_command=command)
    transport.close()
    pid = int(pid_file.read_text())
    eventually(lambda: is_gone(pid))
    assert not any(isinstance(what, subprocess.Popen) for what in background._delaying_exit)


@pytest.mark.parametrize("command", ["exit 7", "/no/such/command", "echo junk", "cat"])
def test_a_proxy_command_that_fails_is_a_connect_error(sshd: Sshd, command: str) -> None:
    with pytest.raises(SshConnectError) as caught:
        connect(sshd, timeout=5, proxy_command=command)
    assert caught.value.phase in ("banner", "kex")


def test_proxy_command_stderr_is_reported(sshd: Sshd, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("echo first >&2\nprintf 'no way \\033[31mtoday\\n' >&2\nexit 1\n")
    with pytest.raises(SshConnectError) as caught:
        connect(sshd, proxy_command=f"sh {script}")
    assert str(caught.value).endswith("; the proxy command wrote: no way \\x1b[31mtoday")


def test_proxy_command_error_quotes_its_unfinished_line(sshd: Sshd, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("printf '%081920d' 0 >&2; printf 'no way' >&2; exit 1\n")
    with pytest.raises(SshConnectError) as caught:
        connect(sshd, proxy_command=f"sh {script}")
    assert str(caught.value).endswith("; the proxy command wrote: no way")


def test_a_mute_proxy_command_ends_at_the_deadline(sshd: Sshd) -> None:
    began = time.monotonic()
    with pytest.raises(SshConnectTimeout):
        connect(sshd, timeout=0.3, proxy_command="sleep 60")
    assert time.monotonic() - began < 1.6


@needs_agent
def test_nothing_of_the_callers_is_forwarded_whatever_ssh_config_says(
    sshd: Sshd, agent: str, tmp_path: Path  # noqa: F811
) -> None:
    """Neither the agent nor a display: the host's administrator could use them."""
    config = tmp_path / "config"
    config.write_text("ForwardAgent yes\nForwardX11 yes\nForwardX11Trusted yes\n")
    transport = connect(sshd, config=str(config), agent_path=agent)
    channel = transport.open_session()
    channel.exec_command('echo "agent:$SSH_AUTH_SOCK display:$DISPLAY"')
    assert channel.recv(100) == b"agent: display:\n"
    transport.close()
    assert "auth-agent-req" not in sshd.log() and "x11-req" not in sshd.log()


# --- what is left behind ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "option, setting, ours",
    [
        ("Ciphers", "encryption_algs", "aes128-ctr"),
        ("MACs", "mac_algs", "hmac-sha2-256"),
        ("KexAlgorithms", "kex_algs", "ecdh-sha2-nistp256"),
        ("HostKeyAlgorithms", "server_host_key_algs", "ecdsa-sha2-nistp256"),
    ],
)
def test_an_algorithm_the_server_lacks_is_an_error_that_says_so(
    sshd_factory: SshdFactory, option: str, setting: str, ours: str
) -> None:
    """And which setting decides."""
    server = sshd_factory({option: f"-{ours}"})
    given: Any = {"encryption_algs": ["aes128-ctr"], setting: [ours]}  # GCM would need no MAC
    with pytest.raises(
        SshConnectError, match=f"no acceptable .*; {setting} was {ours}$"
    ) as caught:
        connect(server, **given)
    assert caught.value.phase == "kex"


@pytest.mark.parametrize("name", ["curve25519-sha256", "curve25519-sha256@libssh.org"])
def test_a_server_that_knows_curve25519_by_one_name_is_reached(
    sshd_factory: SshdFactory, name: str
) -> None:
    """RFC 8731 renamed what libssh had introduced; a hardened server may offer either alone."""
    server = sshd_factory({"KexAlgorithms": name})
    asked: Any = {"kex_algs": "curve25519-sha256"}
    connect(server).close()
    connect(server, **asked).close()


def test_a_mute_server_ends_at_the_deadline(sshd: Sshd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        began = time.monotonic()
        with pytest.raises(SshConnectTimeout) as caught:
            connect(sshd, timeout=0.3, port=mute.getsockname()[1])
        assert caught.value.phase == "banner" and time.monotonic() - began < 1.6


def test_login_timeout_is_of_the_login_alone(sshd: Sshd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        began = time.monotonic()
        with pytest.raises(SshConnectTimeout):
            connect(sshd, timeout=60, port=mute.getsockname()[1], login_timeout=0.2)
        assert time.monotonic() - began < PATIENCE  # not 60


def test_a_keyboard_interrupt_leaves_nothing_behind(
    sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SshTransport, "auth_publickey", interrupt)
    with pytest.raises(KeyboardInterrupt):
        connect(sshd)  # the fixture of all tests looks for sockets and threads


def test_twenty_failures_leave_nothing_behind(sshd: Sshd, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    before = threading.active_count()
    for _ in range(10):
        for wrong in ({"client_keys": [generated("stranger-1")]}, {"known_hosts": empty}):
            with pytest.raises(SshConnectError):
                connect(sshd, **wrong)
    assert threading.active_count() <= before + 1  # the process-wide helper


def test_the_agreed_algorithms_are_the_callers(sshd: Sshd) -> None:
    transport = connect(sshd, encryption_algs=["aes256-ctr"], mac_algs=["hmac-sha2-512"])
    assert transport.remote_cipher == transport.local_cipher == "aes256-ctr"
    assert transport.remote_mac == "hmac-sha2-512"
    transport.close()
    transport = connect(sshd)
    assert transport.remote_cipher == "aes128-gcm@openssh.com"
    transport.close()


def test_commands_run_over_a_compressed_connection(sshd: Sshd) -> None:
    assert works(connect(sshd, compression_algs=["zlib@openssh.com"]))
