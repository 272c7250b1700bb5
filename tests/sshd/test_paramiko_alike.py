"""
The same calls on `paramiko.Transport` and on ours, against the same server, have the same outcome.

A case is a function of a transport.  What it returns, or raises, with paramiko's own transport is
what it must return, or raise, with ours; where ours means to differ, `DIFFERENT` says how and why.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import select
import socket
import threading
from typing import Any, Callable, Dict, Iterator, List, Set, Tuple, Type

import paramiko
import pytest

from ssh_service.errors import SshConnectionLost
from ssh_service.testing.pytest_plugin import Sshd
from tests.common import PATIENCE, eventually
from tests.faults.clients import dialled

Case = Callable[[paramiko.Transport], Any]
CASES: Dict[str, Case] = {}
COVERED: Set[str] = set()


def case(*names: str) -> Callable[[Case], Case]:
    """Register a case; `names` are the methods of paramiko that it is about."""

    def register(function: Case) -> Case:
        CASES[function.__name__] = function
        COVERED.update(names)
        return function

    return register


# Where ours differs on purpose, what it raises instead.
DIFFERENT: Dict[str, Tuple[Type[BaseException], str]] = {
    "recv_after_the_transport_was_closed": (
        SshConnectionLost,
        "a lost connection must not look like the end of the output",
    ),
    "the_exit_status_after_the_transport_was_closed": (
        SshConnectionLost,
        "a lost connection must not look like an exit status",
    ),
    "a_global_request_after_close": (
        SshConnectionLost,
        "None is also what a server that refuses gives",
    ),
    "ignore_after_close": (SshConnectionLost, "it was not sent"),
}

# Methods without a case, and why.
UNCOVERED = {
    "Transport.add_server_key": "server",
    "Transport.get_server_key": "server",
    "Transport.load_server_moduli": "server",
    "Transport.set_subsystem_handler": "server",
    "Transport.auth_interactive": "inherited, and used by test_connect_auth",
    "Transport.auth_interactive_dumb": "inherited; asks at the terminal",
    "Transport.auth_none": "inherited, and used by test_connect_auth",
    "Transport.auth_password": "inherited, and used by test_connect_auth",
    "Transport.auth_publickey": "inherited, and used by test_connect_auth",
    "Transport.auth_gssapi_keyex": "inherited; needs Kerberos",
    "Transport.auth_gssapi_with_mic": "inherited; needs Kerberos",
    "Transport.set_gss_host": "inherited; needs Kerberos",
    "Transport.stop_thread": "paramiko's own end of its thread; does nothing here",
    "Transport.atfork": "test_atfork_in_a_child_leaves_the_parents_connection_alone",
    "Transport.use_compression": "inherited; only before the start",
    "Channel.send_stderr": "servers, as is what uses it",
    "Channel.sendall_stderr": "servers",
}


def drain(channel: paramiko.Channel) -> Tuple[bytes, int]:
    channel.settimeout(PATIENCE)
    return b"".join(iter(lambda: channel.recv(65536), b"")), channel.recv_exit_status()


def cat(transport: paramiko.Transport) -> paramiko.Channel:
    channel = transport.open_session()
    channel.exec_command("cat")
    return channel


# Channels.


@case("Channel.exec_command", "Channel.recv", "Channel.recv_exit_status")
def a_command_given_as_text(transport: paramiko.Transport) -> Any:
    channel = transport.open_session()
    return channel.exec_command("echo hé; exit 3"), drain(channel)


@case()
def a_command_given_as_bytes(transport: paramiko.Transport) -> Any:
    channel = transport.open_session()
    return channel.exec_command(b"echo hello"), drain(channel)


@case()
def a_command_that_a_signal_ends(transport: paramiko.Transport) -> Any:
    channel = transport.open_session()
    channel.exec_command("kill -9 $$")
    return drain(channel)


@case("Channel.settimeout", "Channel.gettimeout")
def a_command_on_a_channel_that_does_not_wait(transport: paramiko.Transport) -> Any:
    channel = transport.open_session()
    channel.settimeout(0)
    channel.exec_command("echo hello")
    return channel.gettimeout(), drain(channel)


@case("Channel.get_pty", "Channel.resize_pty", "Channel.invoke_shell", "Channel.setblocking")
def a_shell_on_a_channel_that_does_not_wait(transport: paramiko.Transport) -> Any:
    channel = transport.open_session()
    channel.setblocking(0)
    channel.get_pty("vt100", width=100, height=30)
    channel.resize_pty(width=90, height=20)
    channel.invoke_shell()
    channel.settimeout(PATIENCE)
    channel.sendall("stty size; exit 5\n")
    output, status = drain(channel)
    return b"20 90" in output, status


@case()
def a_second_command_on_a_channel(transport: paramiko.Transport) -> Any:
    channel = cat(transport)
    channel.exec_command("cat")


@case("Channel.invoke_subsystem")
def a_subsystem_that_is_not_there(transport: paramiko.Transport) -> Any:
    transport.open_session().invoke_subsystem("nonesuch")


@case("Channel.set_environment_variable", "Channel.update_environment")
def variables_of_the_environment(transport: paramiko.Transport) -> Any:
    channel = transport.open_session()
    first = channel.set_environment_variable("LANG", "C")
    return first, channel.update_environment({"LC_ALL": "C", "OTHER": "x"})


@case("Channel.request_x11")
def x11_that_is_refused(transport: paramiko.Transport) -> Any:
    transport.open_session().request_x11()


@case("Channel.request_forward_agent")
def an_agent_that_is_forwarded(transport: paramiko.Transport) -> Any:
    return transport.open_session().request_forward_agent(lambda channel: None)


@case()
def an_agent_request_handler(transport: paramiko.Transport) -> Any:
    channel = transport.open_session()
    handler = paramiko.agent.AgentRequestHandler(channel)
    channel.exec_command('test -n "$SSH_AUTH_SOCK"')
    try:
        return drain(channel)
    finally:
        handler.close()


@case("Channel.sendall", "Channel.shutdown_write")
def text_is_sent_whole(transport: paramiko.Transport) -> Any:
    channel = cat(transport)
    result = channel.sendall("héllo" * 10)
    channel.shutdown_write()
    return result, drain(channel)


@case("Channel.send")
def text_is_sent_in_pieces(transport: paramiko.Transport) -> Any:
    channel = cat(transport)
    counts = channel.send("héllo"), channel.send("")
    channel.shutdown_write()
    return counts, drain(channel)


@case()
def bytes_are_sent(transport: paramiko.Transport) -> Any:
    channel = cat(transport)
    counts = channel.send(b"hello"), channel.send(b""), channel.sendall(b"x" * 100_000)
    channel.shutdown_write()
    return counts, drain(channel)


@case()
def a_number_is_not_sent(transport: paramiko.Transport) -> Any:
    cat(transport).send(5)


@case("Channel.shutdown")
def nothing_is_sent_after_shutdown(transport: paramiko.Transport) -> Any:
    channel = transport.open_session()  # without a process: the server would close it at its end
    channel.shutdown(1)
    return channel.send(b"x")


@case("Channel.close")
def nothing_is_sent_after_close(transport: paramiko.Transport) -> Any:
    channel = cat(transport)
    results = channel.close(), channel.close(), channel.closed
    with contextlib.suppress(AssertionError):
        assert results == (None, None, True)
        channel.send(b"x")


@case()
def nothing_is_sent_whole_after_close(transport: paramiko.Transport) -> Any:
    channel = cat(transport)
    channel.close()
    channel.sendall("x")


@case()
def no_request_after_close(transport: paramiko.Transport) -> Any:
    channel = transport.open_session()
    channel.close()
    channel.exec_command("true")


@case()
def recv_after_close(transport: paramiko.Transport) -> Any:
    channel = cat(transport)
    channel.close()
    return channel.recv(10), channel.recv_stderr(10), channel.exit_status_ready()


@case()
def recv_that_does_not_wait(transport: paramiko.Transport) -> Any:
    channel = cat(transport)
    channel.settimeout(0)
    channel.recv(10)


@case("Channel.recv_stderr")
def recv_stderr_that_waits_a_moment(transport: paramiko.Transport) -> Any:
    channel = cat(transport)
    channel.settimeout(0.05)
    channel.recv_stderr(10)


@case("Channel.shutdown_read")
def recv_after_the_reading_side_was_shut(transport: paramiko.Transport) -> Any:
    channel = cat(transport)
    channel.shutdown_read()
    with contextlib.suppress(OSError):
        channel.sendall(b"hello")
    channel.settimeout(PATIENCE)
    return channel.recv(5)


@case("Channel.recv_ready", "Channel.recv_stderr_ready", "Channel.exit_status_ready")
def readiness(transport: paramiko.Transport) -> Any:
    channel = transport.open_session()
    channel.exec_command("read line; echo out; echo err >&2; exit 4")
    before = channel.recv_ready(), channel.recv_stderr_ready(), channel.exit_status_ready()
    channel.sendall("\n")
    eventually(lambda: channel.recv_ready() and channel.recv_stderr_ready())
    eventually(channel.exit_status_ready)
    return before, channel.recv(10), channel.recv_stderr(10), channel.exit_status


@case("Channel.send_ready")
def readiness_to_send(transport: paramiko.Transport) -> Any:
    channel = cat(transport)
    before = channel.send_ready()
    channel.shutdown_write()
    return before, channel.send_ready()


@case("Channel.set_combine_stderr")
def stderr_is_combined_from_the_start(transport: paramiko.Transport) -> Any:
    channel = transport.open_session()
    olds = channel.set_combine_stderr(True), channel.set_combine_stderr(True)
    channel.exec_command("echo err >&2; sleep 0.05; echo out")
    return olds, drain(channel), channel.recv_stderr(10)


@case()
def stderr_is_combined_after_the_end(transport: paramiko.Transport) -> Any:
    channel = transport.open_session()
    channel.exec_command("printf '%300000d' 1 >&2")
    eventually(channel.exit_status_ready)
    eventually(lambda: channel.eof_received)
    channel.set_combine_stderr(True)
    out = channel.in_buffer.empty()
    return len(out)


@case("Channel.makefile", "Channel.makefile_stderr", "Channel.makefile_stdin")
def files(transport: paramiko.Transport) -> Any:
    channel = transport.open_session()
    channel.exec_command("cat; echo err >&2")
    with channel.makefile_stdin("w") as stdin:
        stdin.write("one\ntwo\n")
        stdin.write(b"three\n")
    return list(channel.makefile("r")), channel.makefile_stderr("rb").read()


@case("Channel.fileno")
def select_on_a_channel(transport: paramiko.Transport) -> Any:
    channel = cat(transport)
    before = select.select([channel], [], [], 0)[0]
    channel.sendall("x")
    after = select.select([channel], [], [], PATIENCE)[0]
    return before, after == [channel], isinstance(channel.fileno(), int), channel.close()


@case(
    "Channel.get_id",
    "Channel.get_name",
    "Channel.set_name",
    "Channel.getpeername",
    "Channel.get_transport",
    "Transport.getpeername",
)
def what_a_channel_is(transport: paramiko.Transport) -> Any:
    channel = transport.open_session()
    name = channel.get_name()
    channel.set_name("mine")
    return (
        channel.get_id() == channel.chanid,
        name == str(channel.chanid),
        channel.get_name(),
        channel.getpeername() == transport.getpeername() == transport.sock.getpeername(),
        channel.get_transport() is transport,
        channel.transport == transport,
        isinstance(channel.transport, paramiko.Transport),
        isinstance(channel, paramiko.Channel),
        channel.gettimeout(),
    )


@case("Channel.send_exit_status")
def an_exit_status_from_the_client(transport: paramiko.Transport) -> Any:
    channel = transport.open_session()
    return channel.send_exit_status(3), transport.open_session().closed


@case()
def a_channel_in_a_with_statement(transport: paramiko.Transport) -> Any:
    with transport.open_session() as channel:
        channel.exec_command("cat")
    return channel.closed


# Channels of other kinds.


def banner_of(channel: paramiko.Channel) -> bytes:
    channel.settimeout(PATIENCE)
    try:
        return bytes(channel.recv(4))
    finally:
        channel.close()


@case("Transport.open_channel")
def a_connection_through_the_server(transport: paramiko.Transport) -> Any:
    address = transport.getpeername()
    return banner_of(transport.open_channel("direct-tcpip", address, ("127.0.0.1", 1)))


@case()
def a_connection_through_the_server_to_nobody(transport: paramiko.Transport) -> Any:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        transport.open_channel("direct-tcpip", nobody.getsockname(), ("127.0.0.1", 1))


@case()
def a_connection_through_the_server_to_nowhere(transport: paramiko.Transport) -> Any:
    transport.open_channel("direct-tcpip")


@case()
def a_channel_of_an_unknown_kind(transport: paramiko.Transport) -> Any:
    transport.open_channel("nonesuch")


@case("Transport.open_x11_channel")
def x11_from_the_client(transport: paramiko.Transport) -> Any:
    transport.open_x11_channel(("127.0.0.1", 6010))


@case("Transport.open_forward_agent_channel")
def an_agent_from_the_client(transport: paramiko.Transport) -> Any:
    transport.open_forward_agent_channel()


@case("Transport.open_forwarded_tcpip_channel")
def a_forwarded_connection_from_the_client(transport: paramiko.Transport) -> Any:
    transport.open_forwarded_tcpip_channel(("127.0.0.1", 1), ("127.0.0.1", 2))


@case("Transport.open_session")
def sessions_with_their_own_sizes(transport: paramiko.Transport) -> Any:
    channel = transport.open_session(window_size=70_000, max_packet_size=40_000, timeout=PATIENCE)
    channel.exec_command("head -c 200000 /dev/zero")
    output, status = drain(channel)
    return len(output), status, channel.in_window_size, channel.in_max_packet_size


# Forwarding.


@case("Transport.request_port_forward", "Transport.cancel_port_forward")
def a_forwarded_port_with_a_handler(transport: paramiko.Transport) -> Any:
    seen: List[Any] = []
    done = threading.Event()

    def handler(channel: Any, origin: Any, server: Any) -> None:
        seen.extend([server, origin, channel.origin_addr])
        channel.sendall("hello")
        channel.close()
        done.set()

    port = transport.request_port_forward("127.0.0.1", 0, handler)
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        text = client.recv(10)
        origin = client.getsockname()
    assert done.wait(PATIENCE)
    cancelled = transport.cancel_port_forward("127.0.0.1", port)
    return text, seen == [("127.0.0.1", port), origin, origin], cancelled


@case("Transport.accept")
def a_forwarded_port_without_a_handler(transport: paramiko.Transport) -> Any:
    port = transport.request_port_forward("127.0.0.1", 0)
    nothing = transport.accept(0.01)
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        channel = transport.accept(PATIENCE)
        client.sendall(b"hello")
        channel.settimeout(PATIENCE)
        text = channel.recv(10)
    channel.close()
    return nothing, text


@case()
def a_forwarded_port_that_is_taken(transport: paramiko.Transport) -> Any:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        transport.request_port_forward("127.0.0.1", taken.getsockname()[1])


# SFTP.


@case("Transport.open_sftp_client")
def an_sftp_client(transport: paramiko.Transport) -> Any:
    with transport.open_sftp_client() as sftp:
        return sftp.normalize("/."), sftp.stat("/etc/passwd").st_size, "etc" in sftp.listdir("/")


@case()
def an_sftp_client_from_a_transport(transport: paramiko.Transport) -> Any:
    with paramiko.SFTPClient.from_transport(transport) as sftp:
        with sftp.open("/etc/passwd") as file:
            file.prefetch()
            return file.read()


@case()
def an_sftp_client_on_a_channel(transport: paramiko.Transport) -> Any:
    channel = transport.open_session()
    channel.invoke_subsystem("sftp")
    with paramiko.SFTPClient(channel) as sftp:
        return sftp.get_channel() is channel, sftp.open("/etc/hostname").read()


@case()
def a_file_that_sftp_does_not_find(transport: paramiko.Transport) -> Any:
    with transport.open_sftp_client() as sftp:
        sftp.stat("/nonesuch")


@case()
def sftp_after_the_transport_was_closed(transport: paramiko.Transport) -> Any:
    sftp = transport.open_sftp_client()
    transport.close()
    sftp.listdir("/")


# The transport itself.


@case("Transport.global_request")
def a_global_request_that_is_refused(transport: paramiko.Transport) -> Any:
    first = transport.global_request("nonesuch@example.com", ("text", 7, True))
    return first, transport.global_request("nonesuch@example.com", wait=False)


@case()
def a_global_request_with_flags_that_are_numbers(transport: paramiko.Transport) -> Any:
    first = transport.global_request("nonesuch@example.com", None, 1)
    return first, transport.open_session().active


@case("Transport.send_ignore")
def ignored_bytes(transport: paramiko.Transport) -> Any:
    return transport.send_ignore(), transport.send_ignore(100), transport.open_session().closed


@case("Transport.renegotiate_keys")
def new_keys(transport: paramiko.Transport) -> Any:
    return transport.renegotiate_keys(), drain(exec_on(transport, "echo hello"))


def exec_on(transport: paramiko.Transport, command: str) -> paramiko.Channel:
    channel = transport.open_session()
    channel.exec_command(command)
    return channel


@case("Transport.set_keepalive")
def a_keepalive(transport: paramiko.Transport) -> Any:
    return transport.set_keepalive(1), transport.set_keepalive(0), transport.open_session().closed


@case(
    "Transport.get_remote_server_key",
    "Transport.get_username",
    "Transport.is_authenticated",
    "Transport.is_active",
    "Transport.get_banner",
    "Transport.get_exception",
    "Transport.get_hexdump",
    "Transport.set_hexdump",
    "Transport.get_log_channel",
    "Transport.set_log_channel",
    "Transport.get_security_options",
    *(f"Transport.preferred_{kind}" for kind in ("ciphers", "compression", "kex", "keys")),
    *(f"Transport.preferred_{kind}" for kind in ("macs", "pubkeys")),
)
def what_a_transport_is(transport: paramiko.Transport) -> Any:
    options = transport.get_security_options()
    transport.set_log_channel("a.name")
    transport.set_hexdump(False)
    return (
        transport.get_remote_server_key().asbytes(),
        transport.get_username(),
        transport.is_authenticated(),
        transport.is_active(),
        transport.get_banner(),
        transport.get_exception(),
        transport.get_hexdump(),
        transport.get_log_channel(),
        [type(getattr(options, name)) for name in ("ciphers", "digests", "kex", "key_types")],
        [
            len(getattr(transport, f"preferred_{kind}")) > 0
            for kind in ("ciphers", "compression", "kex", "keys", "macs", "pubkeys")
        ],
        transport.daemon,
        transport.is_alive(),
        transport.remote_version,
        isinstance(transport, paramiko.Transport),
    )


@case()
def the_socket(transport: paramiko.Transport) -> Any:
    sock = transport.sock
    nodelay = socket.IPPROTO_TCP, socket.TCP_NODELAY
    return (
        sock.getsockname()[0],
        sock.getpeername() == transport.getpeername(),
        type(sock.gettimeout()),
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
        sock.setsockopt(*nodelay, 1),
        sock.family,
        sock.type,
        sock.fileno() >= 0,
        sock._closed,
        hasattr(sock, "nonesuch"),
    )


@case("Transport.start_client")
def a_second_start(transport: paramiko.Transport) -> Any:
    transport.start_client()


@case("Transport.connect", "Transport.start_server")
def a_second_connect(transport: paramiko.Transport) -> Any:
    transport.connect(username="somebody", password="x")


@case("Transport.close")
def a_transport_that_was_closed(transport: paramiko.Transport) -> Any:
    results = transport.close(), transport.close()
    return (
        results,
        transport.is_active(),
        transport.is_authenticated(),
        transport.get_username(),
        transport.cancel_port_forward("127.0.0.1", 1),
    )


@case()
def a_session_after_close(transport: paramiko.Transport) -> Any:
    transport.close()
    transport.open_session()


@case()
def a_forward_after_close(transport: paramiko.Transport) -> Any:
    transport.close()
    transport.request_port_forward("127.0.0.1", 0)


@case()
def the_host_key_after_close(transport: paramiko.Transport) -> Any:
    transport.close()
    transport.get_remote_server_key()


@case()
def a_global_request_after_close(transport: paramiko.Transport) -> Any:
    transport.close()
    return transport.global_request("nonesuch@example.com")


@case()
def ignore_after_close(transport: paramiko.Transport) -> Any:
    transport.close()
    return transport.send_ignore()


@case()
def send_after_the_transport_was_closed(transport: paramiko.Transport) -> Any:
    channel = cat(transport)
    transport.close()
    eventually(lambda: channel.closed)
    channel.send(b"x")


@case()
def a_request_after_the_transport_was_closed(transport: paramiko.Transport) -> Any:
    channel = transport.open_session()
    transport.close()
    eventually(lambda: channel.closed)
    channel.exec_command("true")


@case()
def recv_after_the_transport_was_closed(transport: paramiko.Transport) -> Any:
    channel = cat(transport)
    transport.close()
    return channel.recv(10)


@case()
def the_exit_status_after_the_transport_was_closed(transport: paramiko.Transport) -> Any:
    channel = cat(transport)
    transport.close()
    return channel.recv_exit_status()


@case()
def a_transport_in_a_with_statement(transport: paramiko.Transport) -> Any:
    with transport:
        transport.open_session()
    return transport.is_active()


@contextlib.contextmanager
def paramikos_own(sshd: Sshd) -> Iterator[paramiko.Transport]:
    sock = socket.create_connection((sshd.host, sshd.port), PATIENCE)
    transport = paramiko.Transport(sock)
    try:
        key = paramiko.Ed25519Key.from_private_key_file(sshd.client_key)
        transport.connect(username=sshd.username, pkey=key)
        yield transport
    finally:
        transport.close()
        transport.join(PATIENCE)


def outcome(function: Case, transport: paramiko.Transport) -> Tuple[str, Any]:
    try:
        return "returned", function(transport)
    except Exception as error:
        return "raised", error


@pytest.mark.parametrize("name", CASES)
def test_paramiko_alike_same_outcome(sshd: Sshd, name: str) -> None:
    """Whatever paramiko's transport does for its users, ours does."""
    with paramikos_own(sshd) as theirs:
        kind, expected = outcome(CASES[name], theirs)
    with dialled(sshd) as ours:
        our_kind, got = outcome(CASES[name], ours)
    if name in DIFFERENT:
        cls, _ = DIFFERENT[name]
        assert kind == "returned"
        assert isinstance(got, cls)
        return
    assert our_kind == kind, got
    if kind == "returned":
        assert got == expected
        return
    if isinstance(expected, EOFError):
        # The server ended the connection.  Ours is no EOFError, which paramiko's files take for
        # the end of the output.
        assert isinstance(got, SshConnectionLost)
        return
    assert isinstance(got, type(expected)), f"{got!r} is no {expected!r}"
    if isinstance(expected, paramiko.ChannelException):
        assert isinstance(got.text, str)
        # OpenSSH has one code for all; a kind that is refused here has that of RFC 4254.
        assert got.code == (3 if name == "a_channel_of_an_unknown_kind" else expected.code)


def test_paramiko_alike_covers_every_method() -> None:
    """A method that a later paramiko adds is looked at before it is relied upon."""
    public = {
        f"{cls.__name__}.{name}"
        for cls in (paramiko.Transport, paramiko.Channel)
        for name, _ in inspect.getmembers(cls)
        if not name.startswith("_") and not hasattr(threading.Thread, name)
    }
    assert public - COVERED - set(UNCOVERED) == set()
    assert not COVERED & set(UNCOVERED)


def test_atfork_in_a_child_leaves_the_parents_connection_alone(sshd: Sshd) -> None:
    with dialled(sshd) as transport:
        child = os.fork()
        if not child:
            try:
                transport.atfork()
                os._exit(0 if not transport.is_active() and transport.sock.fileno() == -1 else 1)
            finally:
                os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
        assert drain(exec_on(transport, "echo hello")) == (b"hello\n", 0)
