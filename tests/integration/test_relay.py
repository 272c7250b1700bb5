"""A transport over what only looks like a socket: all of a socket, and nothing left behind."""

from __future__ import annotations

import contextlib
import datetime
import os
import shlex
import socket
import ssl
import sys
import threading
import time
from pathlib import Path
from typing import Any, Iterator, List, Tuple

import paramiko
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ssh_service.errors import SshConnectError, SshConnectionLost
from ssh_service.transport import SshTransport
from ssh_service.transport.relay import Relay
from tests.common import PATIENCE, Outcome, eventually, within
from tests.faults.clients import execute
from tests.faults.evil_ssh import EvilSsh, EvilTransport

# What `nc` does, in the Python at hand.
NETCAT = """
import os, socket, sys, threading
sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
def up():
    while True:
        data = os.read(0, 65536)
        if not data:
            break
        sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)
threading.Thread(target=up, daemon=True).start()
while True:
    data = sock.recv(65536)
    if not data:
        break
    os.write(1, data)
"""


class Duck:
    """The least that paramiko asks of a socket."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.is_closed = False
        self.timeouts: List[Any] = []

    def send(self, data: bytes) -> int:
        return self.sock.send(data)

    def recv(self, size: int) -> bytes:
        return self.sock.recv(size)

    def settimeout(self, timeout: Any) -> None:
        self.timeouts.append(timeout)
        self.sock.settimeout(timeout)

    def close(self) -> None:
        self.is_closed = True
        self.sock.close()


def proxy(code: str, *args: Any) -> paramiko.ProxyCommand:
    words = [sys.executable, "-c", code, *map(str, args)]
    return paramiko.ProxyCommand(" ".join(map(shlex.quote, words)))


def nothing(server: EvilSsh, sock: Any) -> None:
    """Assert that what stood in for a socket was closed."""
    if isinstance(sock, Duck):
        eventually(lambda: sock.is_closed)
    else:
        eventually(lambda: sock.process.returncode is not None and sock.process.stdin.closed)


@contextlib.contextmanager
def over(kind: str, **options: Any) -> Iterator[Tuple[EvilSsh, Any, SshTransport]]:
    with EvilSsh(**options) as server:
        sock = Duck(server.port) if kind == "duck" else proxy(NETCAT, server.port)
        transport = SshTransport(sock, connection_id="tester@evil:1", keepalive_interval=None)
        try:
            transport.handshake(time.monotonic() + PATIENCE)
            transport.auth_none("tester")
            yield server, sock, transport
        finally:
            transport.close()
        nothing(server, sock)


KINDS = pytest.mark.parametrize("kind", ["duck", "proxy"])


@KINDS
def test_a_transport_over_a_lookalike_runs_commands(kind: str) -> None:
    """`paramiko.ProxyCommand`, and objects with four methods."""
    with over(kind) as (_, sock, transport):
        began = time.monotonic()
        for number in range(20):
            assert execute(transport, f"hello {number}") == (0, f"hello {number}".encode())
        within(4.0, began)  # nothing waits for a time-out
        transport.renegotiate_keys()
        assert execute(transport, "x" * 30_000) == (0, b"x" * 30_000)


@KINDS
def test_a_transport_over_a_lookalike_sees_the_end(kind: str) -> None:
    with over(kind) as (server, _, transport):
        blocked = Outcome(lambda: transport.open_session().recv(10))
        eventually(lambda: transport.open_channel_count)
        server.transports[0].close()
        assert isinstance(blocked.wait().error, SshConnectionLost)
        assert transport.loss is not None and transport.loss.reason in ("eof", "reset")


@KINDS
def test_a_lookalike_that_takes_nothing_does_not_hold_up_close(kind: str) -> None:
    def never_read(transport: EvilTransport, channel: paramiko.Channel, command: bytes) -> None:
        transport.stop_reading()

    with over(kind, on_exec=never_read) as (server, _, transport):
        channel = transport.open_session()
        channel.exec_command("now")
        channel.out_window_size = 1 << 30
        flood = Outcome(lambda: channel.sendall(b"x" * (64 << 20)))
        began = time.monotonic()
        transport.close()
        within(1.0, began)
        assert isinstance(flood.wait().error, OSError)
        server.transports[0].go_on_reading()


def self_signed(folder: Path) -> ssl.SSLContext:
    """Make a context for a TLS server on loopback."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    day = datetime.timedelta(days=1)
    now = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    form, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path = folder / "server.pem"
    path.write_bytes(key.private_bytes(pem, form, none) + certificate.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(str(path))
    return context


def test_a_transport_over_tls_runs_commands(tmp_path: Path) -> None:
    """`poll` does not see the bytes that TLS has decrypted and holds back."""
    theirs = self_signed(tmp_path)

    class Tls(EvilTransport):
        def __init__(self, sock: Any) -> None:
            # paramiko reads and writes at once, which a TLS socket does not bear.
            relay = Relay(theirs.wrap_socket(sock, server_side=True))
            relay.start()
            super().__init__(relay.socket)

    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ours.check_hostname, ours.verify_mode = False, ssl.CERT_NONE
    with EvilSsh(transport_class=Tls) as server:
        sock = ours.wrap_socket(socket.create_connection(("127.0.0.1", server.port), PATIENCE))
        transport = SshTransport(sock, connection_id="tester@evil:1", keepalive_interval=None)
        transport.handshake(time.monotonic() + PATIENCE)
        transport.auth_none("tester")
        assert execute(transport, "x" * 30_000) == (0, b"x" * 30_000)
        assert transport.sock.version().startswith("TLS")
        transport.close()


def test_tls_socket_read_and_written_at_once_garbles_nothing(tmp_path: Path) -> None:
    """Megabytes go up while as many come down, over one TLS connection."""
    theirs, ours = self_signed(tmp_path), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ours.check_hostname, ours.verify_mode = False, ssl.CERT_NONE
    sent = os.urandom(16 * 1024 * 1024)

    def echo(listener: socket.socket) -> None:
        plain, _ = listener.accept()
        with theirs.wrap_socket(plain, server_side=True) as sock:
            for data in iter(lambda: sock.recv(65536), b""):
                sock.sendall(data)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        server = threading.Thread(target=echo, args=(listener,), daemon=True)
        server.start()
        relay = Relay(ours.wrap_socket(socket.create_connection(listener.getsockname(), PATIENCE)))
        relay.start()
        relay.socket.settimeout(PATIENCE)
        writer = threading.Thread(target=relay.socket.sendall, args=(sent,), daemon=True)
        writer.start()
        received = bytearray()
        while len(received) < len(sent):
            data = relay.socket.recv(65536)
            assert data, relay.error
            received += data
        relay.socket.close()
        relay.stop()
        server.join(PATIENCE)
    assert received == sent and relay.error is None


def test_proxy_command_error_quotes_its_stderr() -> None:
    sock = proxy("import sys; sys.exit('no route \\x1b[2J to host')")
    transport = SshTransport(sock, connection_id="tester@evil:1")
    with pytest.raises(SshConnectError, match=r"no route \\x1b\[2J to host"):
        transport.handshake(time.monotonic() + PATIENCE)
    transport.close()
    eventually(lambda: sock.process.stdin.closed)


def test_a_proxy_command_that_has_just_been_reaped_is_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On Python 3.8 and 3.9 the signal then fails, and would end the reader thread half-way."""
    with EvilSsh() as server:
        sock = proxy(NETCAT, server.port)
        transport = SshTransport(sock, connection_id="tester@evil:1", keepalive_interval=None)
        transport.handshake(time.monotonic() + PATIENCE)

        def terminate() -> None:
            sock.process.kill()
            raise ProcessLookupError

        monkeypatch.setattr(sock.process, "terminate", terminate)
        transport.close()
        nothing(server, sock)


@pytest.mark.parametrize("stubborn", [False, True], ids=["idle", "stubborn"])
def test_a_proxy_command_that_closes_its_stdout_is_ended(stubborn: bool) -> None:
    ignore = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " if stubborn else ""
    sock = proxy(f"{ignore}import os, time; os.close(1); os.close(2); time.sleep(60)")
    transport = SshTransport(sock, connection_id="tester@evil:1")
    began = time.monotonic()
    with pytest.raises(SshConnectError, match="the server closed the connection"):
        transport.handshake(time.monotonic() + PATIENCE)
    transport.close()
    eventually(lambda: sock.process.returncode is not None and sock.process.stdin.closed)
    within(2.0, began)


def test_error_of_a_socket_like_object_is_reported() -> None:
    class Failing(Duck):
        def recv(self, size: int) -> bytes:
            raise OSError("the tunnel broke")

    with EvilSsh() as server:
        sock = Failing(server.port)
        transport = SshTransport(sock, connection_id="tester@evil:1")
        with pytest.raises(SshConnectError, match="the tunnel broke"):
            transport.handshake(time.monotonic() + PATIENCE)
        transport.close()
        eventually(lambda: sock.is_closed)


@KINDS
def test_a_transport_that_was_never_started_closes_its_lookalike(kind: str) -> None:
    with EvilSsh() as server:
        sock = Duck(server.port) if kind == "duck" else proxy(NETCAT, server.port)
        SshTransport(sock, connection_id="tester@evil:1").close()
        nothing(server, sock)


def test_an_unknown_algorithm_leaves_a_lookalike_to_its_owner() -> None:
    with EvilSsh() as server:
        sock = Duck(server.port)
        with pytest.raises(ValueError):
            SshTransport(sock, connection_id="tester@evil:1", ciphers=["nonesuch"])
        assert not sock.is_closed and not sock.timeouts
        sock.close()


def test_the_socket_of_a_lookalike_has_its_attributes_alone() -> None:
    with over("duck") as (_, sock, transport):
        assert transport.sock.timeouts is sock.timeouts
        assert transport.getpeername() == ("unknown", 0)  # as paramiko says where there is none
