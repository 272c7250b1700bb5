"""Peers that accept a connection and are not SSH servers: a typed error in time, and no leak."""

from __future__ import annotations

import contextlib
import gc
import re
import socket
import struct
import threading
import time
import traceback
from typing import Any, Dict, Iterator, List, Optional, Tuple, Type

import paramiko
import pytest

from ssh_service import paramiko as shared_paramiko
from ssh_service.algorithms import CHACHA20_POLY1305, default
from ssh_service.connect import dial
from ssh_service.connections.cache import SshClientCache
from ssh_service.errors import SshCacheClosed, SshConnectError, SshConnectTimeout, SshServiceError
from ssh_service.params import resolve
from ssh_service.transport import SshTransport
from ssh_service.transport.packets import message
from tests.common import PATIENCE, Outcome, descriptors, eventually, in_threads, resident, within
from tests.faults.clients import connected, execute
from tests.faults.evil_ssh import EvilSsh, EvilTransport
from tests.faults.evil_tcp import (
    NO_SSH_SERVER,
    EvilTcp,
    Visit,
    black_hole,
    close_at_once,
    mute,
)

LIMIT = 0.4
"""Seconds in which to connect."""

ENDS_BY_ITSELF = {
    "close_at_once",
    "reset_at_once",
    "garbage",
    "ssh_1_5",
    "hundred_lines",
    "endless_line",
    "http",
    "huge_packet",
    "throttling",
}
"""Behaviours that are recognised, at the latest by what they say, before the time is up."""


def params_for(port: int, **more: Any) -> Dict[str, Any]:
    return {
        "host": "127.0.0.1",
        "port": port,
        "username": "tester",
        "password": "secret-of-mine",
        "client_keys": None,
        "agent_path": None,
        "known_hosts": None,
        "config": None,
        "connect_timeout": LIMIT,
        **more,
    }


def fail_to_dial(port: int, limit: float = LIMIT) -> SshServiceError:
    began = time.monotonic()
    with pytest.raises(SshServiceError) as caught:
        dial(resolve(params_for(port)), began + limit)
    within(limit, began)
    return caught.value


def try_often(name: str, rounds: int) -> None:
    with EvilTcp(NO_SSH_SERVER[name]) as server:
        fail_to_dial(server.port)  # imports, and threads that the whole process shares
        gc.collect()
        threads, files, memory = threading.active_count(), descriptors(), resident()

        def fail(_: int) -> None:
            error = fail_to_dial(server.port)
            assert isinstance(error, SshConnectError)
            assert isinstance(error, ConnectionError)
            assert error.phase in ("banner", "kex") or name == "reset_at_once"
            assert "secret-of-mine" not in str(error)
            if name not in ENDS_BY_ITSELF:
                assert isinstance(error, SshConnectTimeout)

        at_once = max(2, rounds // 5)
        for _ in range(rounds // at_once):
            in_threads(at_once, fail)
        # What the server's side of the connections holds goes with them.
        eventually(lambda: threading.active_count() <= threads, "the same number of threads")
        eventually(lambda: descriptors() <= files, "the same number of descriptors")
        assert resident() - memory < 4 * 1024 * 1024 * max(1, rounds // 10)


@pytest.mark.parametrize("name", sorted(NO_SSH_SERVER))
def test_no_ssh_server_is_a_typed_error_in_time_and_leaves_nothing(name: str) -> None:
    try_often(name, 2)


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(NO_SSH_SERVER))
def test_no_ssh_server_fifty_times(name: str) -> None:
    try_often(name, 50)


def test_a_refused_connection_is_a_typed_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    error = fail_to_dial(port)
    assert isinstance(error, SshConnectError) and error.phase == "tcp"
    assert not isinstance(error, TimeoutError)


def test_a_syn_that_nobody_answers_is_a_time_out_of_phase_tcp() -> None:
    with black_hole() as port:
        error = fail_to_dial(port)
    assert isinstance(error, SshConnectTimeout) and error.phase == "tcp"


def packet(payload: bytes) -> bytes:
    padding = 8 - (len(payload) + 5) % 8 + 8
    return struct.pack(">IB", len(payload) + padding + 1, padding) + payload + bytes(padding)


KEXINIT = b"\x14" + bytes(16)


@pytest.mark.parametrize(
    "payload, told",
    [
        (KEXINIT + b"\0\0\0\3\xff\xfe\x80" * 10 + bytes(5), "malformed KEXINIT"),
        (KEXINIT + b"\0\0\0\3abc" * 9, "malformed KEXINIT"),
        (KEXINIT + b"\x40\0\0\0abc", "malformed KEXINIT"),
        (b"\x14abc", "malformed KEXINIT"),
        (b"\x15", r"message 21 \(newkeys\) where message 20 \(kexinit\) was expected"),
        (b"\xc8", r"message 200 where message 20 \(kexinit\) was expected"),
        (b"", "malformed message"),
    ],
)
def test_garbled_key_exchange_is_reported_as_such(payload: bytes, told: str) -> None:
    """With the host, not as "'utf-8' codec can't decode" or a lack of common algorithms."""

    def garble(visit: Visit) -> None:
        visit.sock.sendall(b"SSH-2.0-Garbled\r\n" + packet(payload))
        visit.sock.recv(100)

    with EvilTcp(garble) as server:
        error = fail_to_dial(server.port)
        assert str(error).startswith(f"tester@127.0.0.1:{server.port}: the server sent ")
    assert re.search(told, str(error)) and error.phase == "kex"


def test_server_text_instead_of_identification_is_reported() -> None:
    """Paramiko has it only in its debug log."""
    with EvilTcp(NO_SSH_SERVER["throttling"]) as server:
        assert "Exceeded MaxStartups" in str(fail_to_dial(server.port))


def test_server_without_identification_is_a_clear_error() -> None:
    """Paramiko glues the reason to its own words."""

    def leave(visit: Visit) -> None:
        visit.sock.recv(100)  # what is not read makes the end a reset

    with EvilTcp(leave) as server:
        error = fail_to_dial(server.port)
    assert "no SSH identification: the server closed the connection (phase: banner)" in str(error)
    assert "banner" not in str(error).replace("(phase: banner)", "")
    assert error.retryable


@pytest.mark.parametrize(
    "setting, ours, theirs",
    [
        ("kex_algs", "curve25519-sha256@libssh.org", "ecdh-sha2-nistp256"),
        ("encryption_algs", "aes128-ctr", "aes256-ctr"),
        ("mac_algs", "hmac-sha2-256", "hmac-sha2-512"),
        ("server_host_key_algs", "ssh-ed25519", "ecdsa-sha2-nistp256"),
        ("compression_algs", "none", "zlib"),
    ],
)
def test_no_common_algorithm_shows_the_servers_offer(setting: str, ours: str, theirs: str) -> None:
    """As ssh does, so that it can be set."""

    class Picky(EvilTransport):
        def _parse_kex_init(self, m: Any) -> None:
            """Leave the refusal to the client."""

        def __init__(self, sock: Any) -> None:
            super().__init__(sock)
            options = self.get_security_options()
            name = {
                "kex_algs": "kex",
                "encryption_algs": "ciphers",
                "mac_algs": "digests",
                "server_host_key_algs": "key_types",
                "compression_algs": "compression",
            }[setting]
            setattr(options, name, (theirs,))

    with EvilSsh(transport_class=Picky) as server:
        with pytest.raises(SshConnectError) as caught:
            dial(
                resolve(params_for(server.port, **{setting: [ours]})), time.monotonic() + PATIENCE
            )
    assert f"; their offer: {theirs}" in str(caught.value)
    assert f"; {setting} was {ours}" in str(caught.value)
    assert not caught.value.retryable


def test_text_of_an_unknown_server_is_cut_and_escaped() -> None:

    def shout(visit: Any) -> None:
        visit.sock.sendall(b"\x1b[2J\x07" + b"A" * 5000 + b"\r\n")

    with EvilTcp(shout) as server:
        text = str(fail_to_dial(server.port))
    assert "\x1b" not in text and "\\x1b[2J" in text
    assert len(text) < 700


class OffTheCurve(EvilTransport):
    """Its part of the key exchange is a byte too short to be a point of the curve."""

    _preferred_kex = ("curve25519-sha256@libssh.org",)

    def _send_message(self, data: Any) -> None:
        old = paramiko.Message(data.asbytes())
        if old.get_byte() == b"\x1f":  # SSH_MSG_KEX_ECDH_REPLY (RFC 5656 section 4)
            key, point, signature = (old.get_string() for _ in range(3))
            data = message(b"\x1f", key, point[:-1], signature)
        super()._send_message(data)


def test_a_malformed_message_is_an_ssh_exception_for_clients() -> None:
    """Programs written for paramiko catch no `ValueError` of the libraries below it."""
    with EvilSsh(transport_class=OffTheCurve) as server:
        client = shared_paramiko.SSHClient()
        client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        with pytest.raises(paramiko.SSHException, match="malformed message .* 32 bytes"):
            client.connect(
                "127.0.0.1",
                server.port,
                "tester",
                "any",
                allow_agent=False,
                look_for_keys=False,
                timeout=PATIENCE,
            )
        client.close()
        assert "malformed message" in str(fail_to_dial(server.port, PATIENCE))


def kex_init_of(kex: bytes) -> bytes:
    """Make a packet that offers one key exchange."""
    message = paramiko.Message()
    message.add_bytes(b"\x14" + bytes(16))
    for names in (kex, b"ssh-ed25519", *[b"x"] * 6, b"", b""):
        message.add_string(names)
    message.add_bytes(bytes(5))
    payload = message.asbytes()
    padding = 16 - (len(payload) + 5) % 8
    return struct.pack(">IB", len(payload) + padding + 1, padding) + payload + bytes(padding)


@pytest.mark.parametrize(
    "words",
    [
        b"SSH-2.0-x\r\n" + kex_init_of(b"curve\x1b[2J"),
        b"SSH-\x1b[2J-x\r\n",
        b"\x1b[2J\r\n" * 200,
    ],
    ids=["offer", "version", "no version"],
)
def test_traceback_of_a_failed_handshake_is_escaped(words: bytes) -> None:
    """Not only our own error, but also paramiko's, which it is raised from."""

    def speak(visit: Any) -> None:
        visit.sock.sendall(words)
        visit.sock.recv(10_000)

    with EvilTcp(speak) as server:
        error = fail_to_dial(server.port)
    shown = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    assert "\x1b" not in shown and "\\x1b[2J" in shown


def test_callers_who_wait_for_one_dial_all_get_its_error_at_once() -> None:
    gone = threading.Event()

    def leave_when_told(visit: Any) -> None:
        gone.wait(PATIENCE)

    cache = SshClientCache()
    with EvilTcp(leave_when_told) as server:
        params = params_for(server.port, connect_timeout=10)
        calls = [Outcome(lambda: cache.get_client_connection(params)) for _ in range(30)]
        eventually(lambda: cache.stats()["waiting"] == 30, "all wait")
        began = time.monotonic()
        gone.set()
        errors = [call.wait().error for call in calls]
        assert all(isinstance(error, SshConnectError) for error in errors)
        assert len({id(error) for error in errors}) == 30  # each has its own
        within(0.1, began)
        assert server.accepted == 1
        with pytest.raises(SshConnectError):
            cache.get_client_connection(params)
        assert server.accepted == 2  # the next one tries anew
    assert cache.stats()["waiting"] == 0


def test_hosts_that_never_speak_do_not_delay_a_good_one() -> None:
    """64 of them; 0.2 s."""
    cache = SshClientCache()
    cache.enter()
    with contextlib.ExitStack() as stack:
        dead = [stack.enter_context(EvilTcp(mute)) for _ in range(64)]
        good = stack.enter_context(EvilSsh())
        calls = [
            Outcome(
                lambda port=host.port: cache.get_client_connection(  # type: ignore[misc]
                    params_for(port, connect_timeout=3)
                )
            )
            for host in dead
        ]
        eventually(lambda: all(host.accepted for host in dead), "all are being dialled")
        began = time.monotonic()
        transport, _ = cache.get_client_connection(params_for(good.port, connect_timeout=20))
        assert execute(transport, "hello")[1] == b"hello"
        within(0.2, began)
        assert not any(call.is_over() for call in calls)
        for call in calls:
            assert isinstance(call.wait().error, SshConnectTimeout)
        cache.exit()


def test_closing_the_cache_releases_those_who_wait_for_a_dial() -> None:
    cache = SshClientCache()
    cache.enter()
    with EvilTcp(mute) as server:
        params = params_for(server.port, connect_timeout=60)
        calls = [Outcome(lambda: cache.get_client_connection(params)) for _ in range(20)]
        eventually(lambda: cache.stats()["waiting"] == 20, "all wait")
        began = time.monotonic()
        cache.exit()
        for call in calls:
            assert isinstance(call.wait().error, SshCacheClosed)
        within(0.0, began)
        eventually(
            lambda: not [t for t in threading.enumerate() if "ssh-service-dial" in t.name],
            "the dial does not go on",
        )


@contextlib.contextmanager
def endless_lookup() -> Iterator[Dict[str, Any]]:
    """Give a name that the name service never answers for."""
    found, over = socket.getaddrinfo, threading.Event()

    def hang(host: Any, *args: Any, **options: Any) -> Any:
        if host == "nowhere.invalid" and not options.get("flags"):
            over.wait(PATIENCE)
        return found(host, *args, **options)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", hang)
        try:
            yield {"host": "nowhere.invalid", "port": 22}
        finally:
            over.set()
            eventually(lambda: not named("ssh-service-resolve"), "the lookup ends")


@contextlib.contextmanager
def endless_connect() -> Iterator[Dict[str, Any]]:
    """Give an address that answers no SYN."""
    with black_hole() as port:
        yield {"port": port}


@contextlib.contextmanager
def endless_command() -> Iterator[Dict[str, Any]]:
    """Give a proxy command that connects to nothing."""
    yield {"proxy_command": "sleep 60"}


def named(prefix: str) -> List[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(prefix)]


@pytest.mark.parametrize("phase", [endless_lookup, endless_connect, endless_command])
def test_closing_the_cache_ends_a_dial_in_each_phase(phase: Any) -> None:
    cache = SshClientCache()
    with phase() as more:
        params = {**params_for(1, connect_timeout=60), **more}
        call = Outcome(lambda: cache.get_client_connection(params))
        eventually(lambda: cache.stats()["waiting"], "it waits")
        began = time.monotonic()
        cache.cleanup()
        assert isinstance(call.wait().error, SshCacheClosed)
        within(0.0, began)
        eventually(lambda: not named("ssh-service-dial"), "the dial does not go on")


class Talkative(EvilTransport):
    """Says something in the middle of the first key exchange, where strict-kex forbids it."""

    what = b"\x02"  # IGNORE

    def _send_kex_init(self) -> None:
        super()._send_kex_init()
        if not self.initial_kex_done:
            self.say(self.what, b"x")


class Inventive(Talkative):
    what = b"\xc0"


class Lax(Talkative):
    """Does not offer strict-kex."""

    def __init__(self, sock: Any) -> None:
        super().__init__(sock)
        self.advertise_strict_kex = False


@pytest.mark.parametrize("kind, strict", [(Talkative, True), (Inventive, True), (Lax, False)])
def test_strict_kex_refuses_what_is_said_during_the_first_key_exchange(
    kind: Type[EvilTransport], strict: bool
) -> None:
    """Terrapin."""
    error: Optional[BaseException] = None
    with EvilSsh(transport_class=kind) as server:
        try:
            with connected(server.port) as transport:
                assert not transport.agreed_on_strict_kex
                assert execute(transport, "hello")[1] == b"hello"
        except SshConnectError as caught:
            error = caught
    assert (error is not None) is strict
    if error is not None:
        assert isinstance(error.__cause__, paramiko.ssh_exception.MessageOrderError)


def test_strict_kex_is_agreed_on() -> None:
    with EvilSsh() as server, connected(server.port) as transport:
        assert transport.agreed_on_strict_kex


class Removable(EvilTransport):
    """Has one cipher, which needs strict-kex, and does not offer that."""

    _preferred_ciphers: Tuple[str, ...] = (CHACHA20_POLY1305,)

    def __init__(self, sock: Any) -> None:
        super().__init__(sock)
        self.advertise_strict_kex = False


def test_chacha20_is_refused_without_strict_kex() -> None:
    """Terrapin removes its packets unnoticed; no other try would help."""
    with EvilSsh(transport_class=Removable) as server:
        with pytest.raises(SshConnectError, match="needs strict key exchange") as caught:
            with connected(server.port, ciphers=default("encryption_algs")):
                pass
    caught.match("CVE-2023-48795.*; their offer: chacha20-poly1305@openssh.com")
    assert not caught.value.retryable


def test_chacha20_is_offered_last_and_only_with_strict_kex() -> None:
    here, there = socket.socketpair()
    with there:
        transport = SshTransport(here, connection_id="u@h:1", ciphers=default("encryption_algs"))
        assert transport.preferred_ciphers[-1] == CHACHA20_POLY1305
        transport.advertise_strict_kex = False
        assert CHACHA20_POLY1305 not in transport.preferred_ciphers
        transport.close()


class Replaceable(Removable):
    """Prefers that cipher, but has another one."""

    _preferred_ciphers = (CHACHA20_POLY1305, "aes128-ctr")


def test_another_cipher_is_used_where_strict_kex_is_not_certain() -> None:
    """A list of ssh_config often begins with chacha20, and the server may be old."""
    with EvilSsh(transport_class=Replaceable) as server:
        with connected(server.port, ciphers=Replaceable._preferred_ciphers) as transport:
            assert transport.local_cipher == transport.remote_cipher == "aes128-ctr"
            transport.remote_version = "SSH-2.0-OpenSSH_9.6p1"
            assert transport.preferred_ciphers == Replaceable._preferred_ciphers


class OneSession(EvilTransport):
    """Says that it is tinysshd, which ends each connection after one session."""

    def __init__(self, sock: Any) -> None:
        super().__init__(sock)
        self.local_version = "SSH-2.0-tinyssh_20250501 A1b2C3d4"


def test_tinysshds_connection_is_not_used_again() -> None:
    """Whoever comes while the server ends it would be refused, or cut off."""
    with EvilSsh(transport_class=OneSession) as server, connected(server.port) as transport:
        assert execute(transport, "hello")[1] == b"hello"
        eventually(lambda: not transport.is_active(), "it counts as ended")


class Counting(EvilTransport):
    """Sends, before anyone has logged in, a message that announces four billion items."""

    def _parse_newkeys(self, m: Any) -> None:
        super()._parse_newkeys(m)
        self.say(b"\x07", 2**32 - 1)


def test_a_count_of_four_billion_does_not_keep_the_reader_busy() -> None:
    """Paramiko would read items of nothing for hours."""
    began = time.monotonic()
    with EvilSsh(transport_class=Counting) as server:
        with pytest.raises((SshServiceError, paramiko.SSHException, EOFError)):
            with connected(server.port) as transport:
                execute(transport, "hello")
    within(1.0, began)


def test_a_transport_that_was_never_started_can_be_closed() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        transport = SshTransport(ours, connection_id="u@h:1")
        transport.close()
        transport.close()
        assert theirs.recv(1) == b""
    assert not transport.is_active()
    assert ours.fileno() == -1


def test_a_handshake_ends_at_once_though_it_is_hung_up_as_it_begins() -> None:
    """A cache that is closed; the reader thread's life has just not begun."""
    ours, theirs = socket.socketpair()
    with theirs:
        transport = SshTransport(ours, connection_id="u@h:1")

        def start() -> None:
            transport.close_nowait()
            SshTransport.start(transport)

        transport.start = start
        began = time.monotonic()
        with pytest.raises(SshConnectError):
            transport.handshake(began + PATIENCE)
        within(0.0, began)
        transport.close()


def test_an_unknown_algorithm_is_a_value_error_and_the_socket_the_callers() -> None:
    ours, theirs = socket.socketpair()
    with theirs, ours:
        with pytest.raises(ValueError):
            SshTransport(ours, connection_id="u@h:1", ciphers=["rot13"])


def test_rounds_of_failures_leave_the_same_threads_and_descriptors() -> None:
    """Paramiko leaks a thread and a socket for each failure."""
    with EvilTcp(close_at_once) as closed, EvilSsh() as good:

        def one_round() -> None:
            cache = SshClientCache()
            cache.enter()
            transport, _ = cache.get_client_connection(params_for(good.port, connect_timeout=20))
            assert execute(transport, "hello")[1] == b"hello"
            with pytest.raises(SshConnectError):
                cache.get_client_connection(params_for(closed.port))
            cache.exit()

        one_round()
        eventually(lambda: not good.transports[0].is_alive(), "the server's end is over")
        threads, files = threading.active_count(), descriptors()
        for _ in range(10):
            one_round()
        eventually(lambda: threading.active_count() <= threads, "the same number of threads")
        eventually(lambda: descriptors() <= files, "the same number of descriptors")
