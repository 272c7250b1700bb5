"""A server that has let us in, and then breaks the protocol: bounded, ended, or passed over."""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import socket
import struct
import threading
import time
from typing import Any, Callable, List, Optional

import paramiko
import pytest

from ssh_service.errors import SshConnectionLost, SshConnectTimeout, SshSessionRefused
from ssh_service.transport import SshTransport, global_requests, sending
from ssh_service.transport import transport as transport_module
from ssh_service.transport.packets import message
from tests.common import PATIENCE, Outcome, eventually, in_threads, resident, within
from tests.faults.clients import Collector, connected, drain, execute
from tests.faults.evil_ssh import KEYS, EvilSsh, EvilTransport, Server, echo

MANY = 100_000_000
"""As often as it takes, for what must be stopped from the other side."""

Exec = Callable[[EvilTransport, paramiko.Channel, bytes], None]


def lost(transport: SshTransport) -> SshConnectionLost:
    """Wait for the end of a connection; return its reason."""
    ended = threading.Event()
    transport.add_done_callback(lambda *_: ended.set())
    assert ended.wait(PATIENCE)
    loss = transport.loss
    assert loss is not None
    return loss


def meet(on_exec: Exec) -> SshConnectionLost:
    """Run a command on a server that then does `on_exec`; return how the connection was lost."""
    with EvilSsh(on_exec) as server, connected(server.port) as transport:
        sink = Collector(b"now")
        gc.collect()
        memory, began = resident(), time.monotonic()
        transport.start_session(sink)
        assert sink.ended.wait(PATIENCE)
        within(1.0, began)
        loss = lost(transport)
        assert isinstance(sink.error, SshConnectionLost)
        assert sink.error.reason == loss.reason
        del sink.out[:], sink.err[:]
        assert resident() - memory < 8 * 1024 * 1024 + 4 * 1024 * 1024  # the server is in here too
        return loss


def survive(on_exec: Exec) -> Collector:
    """Run a command on such a server, and another one after it; return what came of the first."""

    def once(transport: EvilTransport, channel: paramiko.Channel, command: bytes) -> None:
        (on_exec if command == b"now" else echo)(transport, channel, command)

    with EvilSsh(once) as server, connected(server.port) as transport:
        sink = Collector(b"now")
        transport.start_session(sink)
        assert sink.ended.wait(PATIENCE)
        assert execute(transport, "hello") == (0, b"hello")
        assert sink.ends == 1
        return sink


def test_a_flood_over_the_window_ends_the_connection() -> None:
    """Paramiko never counts what the server may send."""

    def flood(transport: EvilTransport, channel: paramiko.Channel, command: bytes) -> None:
        for _ in range(MANY):
            transport.say(b"\x5e", channel.remote_chanid, b"x" * 32768)

    with EvilSsh(flood) as server, connected(server.port) as transport:
        channel = transport.open_session()
        began, memory = time.monotonic(), resident()
        channel.exec_command("now")
        loss = lost(transport)  # nobody reads, so no window is given back
        within(1.0, began)
        assert loss.reason == "protocol" and "window" in str(loss)
        assert len(channel.in_buffer) <= 2 * 1024 * 1024 + 128 * 1024
        assert resident() - memory < 16 * 1024 * 1024


def test_a_flood_of_stderr_over_the_window_ends_the_connection() -> None:

    def flood(transport: EvilTransport, channel: paramiko.Channel, command: bytes) -> None:
        for _ in range(MANY):
            transport.say(b"\x5f", channel.remote_chanid, 1, b"x" * 32768)

    with EvilSsh(flood) as server, connected(server.port) as transport:
        channel = transport.open_session()
        channel.exec_command("now")
        assert lost(transport).reason == "protocol"


def test_a_packet_of_100_mib_ends_the_connection() -> None:
    """Paramiko allocates it, five times over."""

    def huge(transport: EvilTransport, channel: paramiko.Channel, command: bytes) -> None:
        # With a cipher in use, whatever is sent in clear decrypts to some length or other; and
        # with a MAC over the cipher text, or with GCM, the length itself is in clear.
        transport.packetizer.write_all(struct.pack(">I", 100 * 1024 * 1024) + b"\0" * 64)

    with EvilSsh(huge) as server:
        with connected(
            server.port, ciphers=["aes128-ctr"], macs=["hmac-sha2-256-etm@openssh.com"]
        ) as transport:
            channel = transport.open_session()
            memory, began = resident(), time.monotonic()
            channel.exec_command("now")
            loss = lost(transport)
            within(1.0, began)
            assert loss.reason == "protocol" and "announced a packet" in str(loss)
            assert resident() - memory < 8 * 1024 * 1024


def test_a_message_of_an_unknown_type_is_passed_over() -> None:
    """Paramiko dies of a KeyError."""

    def unknown(transport: EvilTransport, channel: paramiko.Channel, command: bytes) -> None:
        for kind in (b"\xc0", b"\xff", b"\x03"):
            transport.say(kind, b"what is this")
        echo(transport, channel, b"after it")

    sink = survive(unknown)
    assert (bytes(sink.out), sink.statuses) == (b"after it", [0])


def test_global_requests_are_answered_and_harmless() -> None:

    def ask(transport: EvilTransport, channel: paramiko.Channel, command: bytes) -> None:
        for _ in range(1000):
            transport.say(b"\x50", "hostkeys-00@openssh.com", True, b"x" * 100)
        echo(transport, channel, b"after it")

    assert bytes(survive(ask).out) == b"after it"


@pytest.mark.parametrize(
    "flood",
    [
        lambda transport, channel: transport.say(b"\x50", "are-you-there", True),
        lambda transport, channel: transport.say(b"\xc0", b"what"),
        lambda transport, channel: transport.say(b"\x5a", "x11", 7, 1000, 1000),
        lambda transport, channel: transport.say(b"\x62", channel.remote_chanid, "env", True),
    ],
    ids=["global requests", "unknown messages", "channel opens", "channel requests"],
)
def test_questions_whose_answers_are_never_taken_end_the_connection(
    flood: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers would pile up without end."""
    monkeypatch.setattr(global_requests, "_MAX_PENDING_REPLIES", 200)

    def ask(transport: EvilTransport, channel: paramiko.Channel, command: bytes) -> None:
        transport.stop_reading()
        for _ in range(MANY):
            flood(transport, channel)

    with EvilSsh(ask, receive_buffer=4096) as server, connected(server.port) as transport:
        transport._wire._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        gc.collect()
        memory = resident()
        transport.start_session(Collector(b"now"))
        loss = lost(transport)
        assert loss.reason == "protocol" and "reads no replies" in str(loss)
        assert resident() - memory < 16 * 1024 * 1024


def test_message_for_an_unknown_channel_ends_the_connection() -> None:
    assert meet(lambda transport, *_: transport.say(b"\x5e", 4711, b"x")).reason == "protocol"


def test_confirmations_nobody_asked_for_end_the_connection() -> None:
    confirm = meet(lambda transport, *_: transport.say(b"\x5b", 4711, 0, 1000, 1000))
    refuse = meet(lambda transport, *_: transport.say(b"\x5c", 4711, 1, "no", ""))
    twice = meet(lambda transport, channel, _: transport.say(b"\x5b", 0, 0, 1000, 1000))
    assert {confirm.reason, refuse.reason, twice.reason} == {"protocol"}


def test_channels_that_the_server_opens_are_refused() -> None:
    """Agent, X11 and port forwarding."""
    refused = []

    def open_them(transport: EvilTransport, channel: paramiko.Channel, command: bytes) -> None:
        handler = {92: lambda m: refused.append((m.get_int(), m.get_int()))}
        transport._handler_table = {**transport._handler_table, **handler}
        transport.say(b"\x5a", "auth-agent@openssh.com", 101, 100000, 32768)
        transport.say(b"\x5a", "x11", 102, 100000, 32768, "127.0.0.1", 6000)
        transport.say(b"\x5a", "forwarded-tcpip", 103, 100000, 32768, "h", 1, "h", 2)
        transport.say(b"\x5a", "session", 104, 100000, 32768)
        eventually(lambda: len(refused) == 4, "four refusals")
        echo(transport, channel, b"after it")

    assert bytes(survive(open_them).out) == b"after it"
    assert refused == [(101, 1), (102, 1), (103, 1), (104, 1)]


def test_the_first_exit_status_counts() -> None:

    def twice(transport: EvilTransport, channel: paramiko.Channel, command: bytes) -> None:
        channel.send_exit_status(3)
        channel.send_exit_status(0)
        transport.say(b"\x62", channel.remote_chanid, "exit-signal", False, "KILL", False, "", "")
        channel.close()

    sink = survive(twice)
    assert (sink.statuses, sink.signals) == ([3], [])


@pytest.mark.parametrize(
    "sent, shown",
    [
        (b"TERM", "TERM"),
        (b"USR1@example.com", "USR1@example.com"),
        (b"\x1b[31mTERM", "INVALID"),
        (b"TERM\nother-host: ok", "INVALID"),
        (b"TERM\n", "INVALID"),
        (b"", "INVALID"),
        (b"T" * 65, "INVALID"),
        ("T\u202eERM".encode(), "INVALID"),
        (b"\xff\xfe", "INVALID"),
    ],
)
def test_the_name_of_a_signal_is_a_name(sent: bytes, shown: str) -> None:
    """It reaches terminals and logs."""

    def die(transport: EvilTransport, channel: paramiko.Channel, command: bytes) -> None:
        text = b"a\x1b[2J\x9b\nb" + "\u202ec".encode()
        transport.say(b"\x62", channel.remote_chanid, "exit-signal", False, sent, True, text, b"")
        channel.close()

    sink = survive(die)
    assert sink.signals == [(shown, True, r"a\x1b[2J\x9b\nb\u202ec")]


def test_data_after_the_end_is_dropped() -> None:
    """Output that was reported complete does not change any more."""

    def go_on(transport: EvilTransport, channel: paramiko.Channel, command: bytes) -> None:
        channel.sendall(b"all")
        transport.say(b"\x60", channel.remote_chanid)
        transport.say(b"\x5e", channel.remote_chanid, b" and more")
        transport.say(b"\x5f", channel.remote_chanid, 1, b" and more")
        channel.send_exit_status(0)
        transport.say(b"\x61", channel.remote_chanid)

    sink = survive(go_on)
    assert (bytes(sink.out), bytes(sink.err), sink.statuses) == (b"all", b"", [0])
    with EvilSsh(go_on) as server, connected(server.port) as transport:
        assert execute(transport, "now") == (0, b"all")


def test_data_after_the_end_still_counts_against_the_window() -> None:

    def go_on(transport: EvilTransport, channel: paramiko.Channel, command: bytes) -> None:
        transport.say(b"\x60", channel.remote_chanid)
        for _ in range(MANY):
            transport.say(b"\x5e", channel.remote_chanid, b"x" * 32768)

    assert meet(go_on).reason == "protocol"


def test_extended_data_of_an_unknown_kind_is_passed_over_and_gives_its_window_back() -> None:

    def strange(transport: EvilTransport, channel: paramiko.Channel, command: bytes) -> None:
        for _ in range(200):  # three windows full
            while channel.out_window_size < 32768:
                assert transport.active
                time.sleep(0.001)
            channel.out_window_size -= 32768
            transport.say(b"\x5f", channel.remote_chanid, 7, b"x" * 32768)
        echo(transport, channel, b"after it")

    sink = survive(strange)
    assert (bytes(sink.out), bytes(sink.err)) == (b"after it", b"")


def test_requests_of_the_server_on_a_channel_are_refused_and_harmless() -> None:

    def ask(transport: EvilTransport, channel: paramiko.Channel, command: bytes) -> None:
        transport.say(b"\x62", channel.remote_chanid, "shell", True)
        transport.say(b"\x62", channel.remote_chanid, "signal", True, "KILL")
        echo(transport, channel, b"after it")

    assert bytes(survive(ask).out) == b"after it"


def test_a_session_that_is_closed_at_once_is_an_end_without_status() -> None:
    sink = survive(lambda transport, channel, _: transport.say(b"\x61", channel.remote_chanid))
    assert (sink.error, sink.statuses) == (None, [])


def test_disconnect_text_is_escaped_and_truncated() -> None:
    loss = meet(
        lambda transport, *_: transport.say(b"\x01", 2, b"\x1b]0;you\x07\xff" + b"A" * 100000, b"")
    )
    assert loss.reason == "disconnect"
    assert "\x1b" not in str(loss) and "\\x1b]0;you\\x07" in str(loss)
    assert "code 2" in str(loss) and len(str(loss)) < 500


FORGERY = b"a\x1b[2J\x9b1m\r\nother-host: ok\x85" + "\u202eb\u2066\u2028c\u200e".encode()
"""Control characters, C1 (as bytes that are no UTF-8, too), bidi and line separators."""


def shows_no_forgery(text: str) -> None:
    assert text.isprintable(), ascii(text)
    assert r"\x1b[2J" in text and r"\u202e" in text and "other-host: ok" in text


def test_text_from_a_server_is_escaped() -> None:
    """Goodbyes, refused channels, texts of signals, what comes before the banner."""

    class Forging(EvilTransport):
        def _parse_channel_open(self, m: Any) -> None:
            m.get_text()
            number = m.get_int()
            self.say(b"\x5c", number, 4, FORGERY, FORGERY)
            self.say(b"\x01", 2, FORGERY, FORGERY)

    with EvilSsh(transport_class=Forging) as server, connected(server.port) as transport:
        with pytest.raises(SshSessionRefused) as caught:
            transport.open_session()
        shows_no_forgery(str(caught.value))
        shows_no_forgery(caught.value.text)
        shows_no_forgery(str(lost(transport)))


def test_a_goodbye_by_application_is_a_clean_end() -> None:
    """The server disconnects in order: not a loss, but running commands are cut off."""

    def leave(transport: EvilTransport, channel: paramiko.Channel, command: bytes) -> None:
        transport.say(b"\x01", 11, "shutting down", "")

    with EvilSsh(leave) as server, connected(server.port) as transport:
        sink = Collector(b"now")
        transport.start_session(sink)
        assert sink.ended.wait(PATIENCE)
        assert isinstance(sink.error, SshConnectionLost) and "shutting down" in str(sink.error)
        ended = threading.Event()
        transport.add_done_callback(lambda _, loss: ended.set() if loss is None else None)
        assert ended.wait(PATIENCE)
        assert transport.loss is None


def test_another_host_key_at_a_rekey_ends_the_connection() -> None:
    """Not a byte of what was running is taken for good."""

    def swap(transport: EvilTransport, channel: paramiko.Channel, command: bytes) -> None:
        transport.show_key(KEYS[1])
        transport.begin_rekey()

    loss = meet(swap)
    assert loss.reason == "host key"


def test_the_same_host_key_at_a_rekey_is_fine() -> None:
    def rekey(transport: EvilTransport, channel: paramiko.Channel, command: bytes) -> None:
        transport.begin_rekey()
        eventually(lambda: transport.clear_to_send.is_set(), "new keys")
        echo(transport, channel, b"after it")

    assert bytes(survive(rekey).out) == b"after it"


def test_a_rekey_that_is_never_answered_is_silence() -> None:
    """The server takes all we send, and says nothing."""
    with EvilSsh() as server:
        with connected(server.port, keepalive_interval=0.3, keepalive_count_max=2) as transport:
            server.transports[0].answers_rekeys = False
            began = time.monotonic()
            transport._send_kex_init()
            blocked = Outcome(lambda: execute(transport, "hello"))
            loss = lost(transport)
            within(0.6, began)
            assert loss.reason == "silence"
            assert isinstance(blocked.wait(2).error, SshConnectionLost)


def test_a_rekey_that_is_never_answered_by_a_server_that_goes_on_talking(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sending, "REKEY_TIMEOUT", 0.5)

    def talk(transport: EvilTransport, channel: paramiko.Channel, command: bytes) -> None:
        for _ in range(1000):
            transport.say(b"\x02", b"still here")
            time.sleep(0.02)

    with EvilSsh(talk) as server:
        with connected(server.port, keepalive_interval=0.3, keepalive_count_max=2) as transport:
            transport.start_session(Collector(b"now"))
            server.transports[0].answers_rekeys = False
            began = time.monotonic()
            transport._send_kex_init()
            blocked = Outcome(lambda: execute(transport, "hello"))
            loss = lost(transport)
            within(0.5, began)
            assert loss.reason == "protocol" and "key exchange" in str(loss)
            assert isinstance(blocked.wait(2).error, SshConnectionLost)


def test_a_channel_open_that_is_never_answered_times_out_and_is_closed_once_it_is() -> None:
    with EvilSsh() as server, connected(server.port) as transport:
        server.transports[0].stop_reading()
        began = time.monotonic()
        with pytest.raises(SshConnectTimeout):
            transport.open_session(timeout=0.2)
        within(0.2, began)
        assert len(transport._strong_references) == 1
        server.transports[0].go_on_reading()
        eventually(lambda: not transport._strong_references, "the late channel is closed")
        eventually(lambda: len(server.transports[0]._channels) == 0, "on both sides")
        assert execute(transport, "hello") == (0, b"hello")


def test_each_refused_caller_gets_its_own_error() -> None:
    """Paramiko has one for all threads."""

    class Crowded(EvilTransport):
        def _parse_channel_open(self, m: Any) -> None:
            m.get_text()
            self.say(b"\x5c", m.get_int(), 4, "too many\x1b", "")

    with EvilSsh(transport_class=Crowded) as server, connected(server.port) as transport:
        calls = [Outcome(transport.open_session) for _ in range(12)]
        errors = [call.wait().error for call in calls]
        assert [type(error) for error in errors] == [SshSessionRefused] * 12
        assert {getattr(error, "code") for error in errors} == {4}
        assert "too many\\x1b" in str(errors[0])
        assert transport.is_active()
        assert not transport._strong_references and not transport.open_channel_count


def test_channel_timeout_limits_opening_and_requests() -> None:
    """The setting of `paramiko.Transport` has its effect."""

    class Mute(EvilTransport):
        opens = 0

        def _parse_channel_open(self, m: Any) -> None:
            self.opens += 1
            if self.opens > 1:
                return
            super()._parse_channel_open(m)

        def _send_user_message(self, m: Any) -> None:
            if m.asbytes()[:1] != b"\x63":  # CHANNEL_SUCCESS
                super()._send_user_message(m)

    with EvilSsh(transport_class=Mute) as server, connected(server.port) as transport:
        transport.channel_timeout = 0.1
        channel = transport.open_session()
        for call in (lambda: channel.exec_command("x"), transport.open_session):
            began = time.monotonic()
            with pytest.raises(SshConnectTimeout, match="within 0.1 s") as caught:
                call()
            within(0.1, began)
            assert isinstance(caught.value, paramiko.SSHException)
        assert channel.closed  # or a late reply would be taken for that to another request


def test_text_is_sent_within_the_window_and_whole_characters() -> None:
    """Text is sent in characters, and counted in bytes."""
    text = "aé€😀" * 3

    def take(transport: EvilTransport, channel: paramiko.Channel, command: bytes) -> None:
        got = b""
        while len(got) < len(text.encode()):
            got += channel.recv(1)  # which gives its window back at once
        channel.sendall(got)
        channel.send_exit_status(0)
        channel.close()

    class Narrow(EvilTransport):
        def __init__(self, sock: Any) -> None:
            super().__init__(sock)
            self.default_window_size = 5

        def _sanitize_window_size(self, window_size: Any) -> int:
            return 5

    with EvilSsh(take, transport_class=Narrow) as server:
        with connected(server.port) as transport:
            channel = transport.open_session()
            assert channel.out_window_size == 5
            channel.exec_command("x")
            channel.settimeout(PATIENCE)
            rest = text
            while rest:
                sent = channel.send(rest)
                assert 1 <= sent and len(rest[:sent].encode()) <= 5
                rest = rest[sent:]
            assert drain(channel) == (0, text.encode())


def test_a_request_that_is_refused_is_an_error_of_the_channel_alone() -> None:
    def refuse(transport: EvilTransport, channel: paramiko.Channel, command: bytes) -> None:
        raise AssertionError("is not reached")

    with EvilSsh(refuse) as server, connected(server.port) as transport:
        channel = transport.open_session()
        with pytest.raises(SshSessionRefused):
            channel.invoke_subsystem("no-such-thing")
        assert transport.is_active()


def test_deferred_data_is_sent_when_writable_without_input() -> None:
    """
    A message must not wait for the reader, who waits for bytes that nobody sends.

    The network was full when it was put off, and no thread writes, and no keepalive is due.
    """
    kept = []  # a channel that paramiko's server forgets is closed, which would wake the reader
    with EvilSsh(lambda *about: kept.append(about)) as server, connected(server.port) as transport:
        first = Collector(b"reads nothing")
        transport.start_session(first, window_size=1 << 20)
        assert first.started.wait(PATIENCE) and first.channel is not None
        first.channel.out_window_size = 1 << 30  # as a server may say that has the room
        evil = server.transports[0]
        evil.stop_reading()
        second = fill(transport, first)
        assert not second.is_open.wait(0.3)
        evil.go_on_reading()
        assert second.is_open.wait(5)


def fill(transport: SshTransport, sink: Collector) -> Collector:
    """Send until the network takes nothing any more; return whose open had to be put off."""
    assert sink.channel is not None
    for _ in range(100):  # the system may find more room
        while not transport._wire.backlog:
            sink.channel.send_some(b"x" * 16384, wait=False)
        late = Collector()
        transport.start_session(late)
        if transport._send_queue:
            return late
    raise AssertionError("the network is never full")


@pytest.mark.parametrize("wait", [True, False])
def test_data_in_several_packets_arrives_in_order_before_eof(
    wait: bool,
) -> None:
    sent, received, over = bytes(range(251)) * 2000, bytearray(), threading.Event()

    def take(transport: EvilTransport, channel: paramiko.Channel, command: bytes) -> None:
        while True:
            chunk = channel.recv(65536)
            received.extend(chunk)
            if not chunk:
                over.set()
                return

    with EvilSsh(take) as server, connected(server.port) as transport:
        sink = Collector(b"take")
        transport.start_session(sink)
        assert sink.started.wait(PATIENCE) and sink.channel is not None
        view = memoryview(sent)
        while view:
            view = view[sink.channel.send_some(view, wait=wait) :]
        sink.channel.send_eof()
        assert over.wait(PATIENCE)
        assert received == sent


@pytest.mark.parametrize("wait", [True, False])
def test_several_packets_leave_in_one_write(wait: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each write wakes the server."""
    with EvilSsh(lambda *_: None) as server, connected(server.port) as transport:
        sink = Collector(b"reads nothing")
        transport.start_session(sink)
        assert sink.started.wait(PATIENCE) and sink.channel is not None
        wire, writes = transport._wire, []
        write = wire.sendall if wait else wire.send_nowait

        def note(data: bytes) -> None:
            writes.append(len(data))
            write(data)

        monkeypatch.setattr(wire, write.__name__, note)
        assert sink.channel.send_some(b"x" * 70_000, wait=wait) == 70_000
        assert len(writes) == 1 and writes[0] > 70_000


def test_the_reader_waits_for_no_room_while_another_thread_is_sending() -> None:
    """It would be woken at once, again and again, and keep that thread from the interpreter."""
    with EvilSsh(lambda *_: None) as server, connected(server.port) as transport:
        sink = Collector(b"reads nothing")
        transport.start_session(sink)
        assert sink.started.wait(PATIENCE) and sink.channel is not None
        with transport.clear_to_send_lock:
            sink.channel.send_some(b"x", wait=False)
            assert not transport.packetizer.wants_to_write()


@pytest.mark.parametrize("wait", [True, False])
def test_no_more_is_sent_than_the_servers_window_admits(wait: bool) -> None:
    """RFC 4254 section 5.2, also where it takes several packets."""
    with EvilSsh(lambda *_: None) as server, connected(server.port) as transport:
        sink = Collector(b"reads nothing")
        transport.start_session(sink)
        assert sink.started.wait(PATIENCE) and sink.channel is not None
        sink.channel.out_window_size = 100_000
        sizes = [sink.channel.send_some(b"x" * 1_000_000, wait=wait) for _ in range(6)]
        assert sum(sizes) == 100_000 and sizes[-1] == 0


def test_closing_a_channel_does_not_wait_for_a_write_that_stalls() -> None:
    """It may be closed on a thread that has to serve other hosts too."""
    with EvilSsh(lambda *_: None) as server, connected(server.port) as transport:
        channels = [transport.open_session() for _ in range(2)]
        channels[0].exec_command("reads nothing")
        channels[0].out_window_size = 1 << 30
        server.transports[0].stop_reading()
        sending = Outcome(lambda: channels[0].sendall(b"x" * (1 << 28)))
        eventually(lambda: not transport._wire.writable(), "the network is full")
        began = time.monotonic()
        for channel in channels:
            channel.close()
        transport.close_nowait()
        within(0.0, began)
        assert isinstance(sending.wait().error, OSError)


def test_message_during_a_batch_keeps_its_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Paramiko sends some messages (a login's, a key exchange's) on its own."""
    with EvilSsh() as server, connected(server.port) as transport:
        write = transport._wire.send_nowait
        besides: List[Any] = []

        def send_nowait(data: Any) -> None:
            if not besides:  # a packet that is numbered after these must not leave before them
                ignore = message(b"\x02", b"by the gate")
                besides.append(Outcome(lambda: transport._send_message(ignore)))
                time.sleep(0.2)
            write(data)

        monkeypatch.setattr(transport._wire, "send_nowait", send_nowait)
        sink = Collector(b"hello")
        transport.start_session(sink)
        assert sink.ended.wait(PATIENCE)
        assert (sink.error, bytes(sink.out)) == (None, b"hello")
        assert besides[0].wait().error is None


def test_a_peer_that_takes_nothing_stalls_a_write_for_no_longer_than_its_silence() -> None:
    """Blocked in send, on a server that stopped to read and to write."""
    with EvilSsh(lambda *_: None) as server:
        with connected(server.port, keepalive_interval=0.4, keepalive_count_max=2) as transport:
            channel = transport.open_session()
            channel.exec_command("reads nothing")
            channel.out_window_size = 1 << 30
            server.transports[0].stop_reading()
            began = time.monotonic()
            sending = Outcome(lambda: channel.sendall(b"x" * (1 << 27)))
            assert lost(transport).reason in ("silence", "reset")
            assert isinstance(sending.wait(5).error, OSError)
            within(0.8, began)


def test_delayed_reader_does_not_mistake_itself_for_a_silent_peer() -> None:
    """
    The process was stopped for a while (Ctrl-Z, a starved machine), and the server was not.

    What counts is a question that was not answered, and what has come meanwhile.
    """
    with EvilSsh() as server:
        with connected(server.port, keepalive_interval=0.2, keepalive_count_max=2) as transport:

            class Slow(Collector):
                def on_data(self, chunk: bytes) -> None:
                    super().on_data(chunk)
                    time.sleep(1.5)  # the reader thread, and with it all that could notice

            sink = Slow(b"hello")
            transport.start_session(sink)
            assert sink.ended.wait(PATIENCE)
            assert sink.error is None and sink.statuses == [0]
            time.sleep(1.0)  # more than the limit: the server answers, so it lives
            assert execute(transport, "again") == (0, b"again")


def test_a_request_that_begins_after_the_end_of_its_channel_does_not_wait_for_it() -> None:
    """The end came between the look at the channel and the request."""
    with EvilSsh() as server, connected(server.port) as transport:
        channel = transport.open_session()
        channel.settimeout(PATIENCE)
        server.transports[0].close()
        lost(transport)
        eventually(lambda: channel.closed, "the channel has ended")
        channel._event_pending()
        with pytest.raises(SshConnectionLost):
            channel._wait_for_event()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_silence_is_noticed_after_interval_times_count(count: int) -> None:
    with EvilSsh() as server:
        with connected(
            server.port, keepalive_interval=0.6 / count, keepalive_count_max=count
        ) as transport:
            server.transports[0].stop_reading()
            began = time.monotonic()
            loss = lost(transport)
            assert loss.reason == "silence"
            assert time.monotonic() - began >= 0.5  # not before
            within(0.6, began)


@pytest.mark.parametrize("count", [1, 3])
def test_a_server_that_answers_keepalives_is_never_lost(count: int) -> None:
    with EvilSsh() as server:
        with connected(
            server.port, keepalive_interval=0.5 / count, keepalive_count_max=count
        ) as transport:
            time.sleep(1.0)  # twice the limit
            assert transport.is_active()


class Knowing(EvilTransport):
    """Answers each global request with its name, and those that are called no with a refusal."""

    def _parse_global_request(self, m: Any) -> None:
        name = m.get_text()
        if m.get_boolean():
            if name.startswith(("no", "keepalive")):
                self.say(b"\x52")  # REQUEST_FAILURE
            else:
                self.say(b"\x51", name)  # REQUEST_SUCCESS


def test_each_thread_gets_the_answer_to_its_own_global_request() -> None:
    """Paramiko has one place for all of them, keepalives included."""
    options: Any = {"keepalive_interval": 0.02, "keepalive_count_max": 500}
    evil = EvilSsh(transport_class=Knowing)
    with evil as server, connected(server.port, **options) as transport:

        def ask(thread: int) -> None:
            for number in range(50):
                name = f"{'no' if number % 3 else 'yes'}-{thread}-{number}"
                answer = transport.global_request(name, (1, "more"))
                assert (answer and answer.get_text()) == (None if number % 3 else name)
                transport.global_request(name, wait=False)

        in_threads(8, ask)


def test_a_global_request_ends_with_its_connection() -> None:

    class Silent(EvilTransport):
        def _parse_global_request(self, m: Any) -> None:
            pass

    with EvilSsh(transport_class=Silent) as server, connected(server.port) as transport:
        calls = [Outcome(lambda: transport.global_request("anything")) for _ in range(5)]
        eventually(lambda: len(transport._pending_replies._open) == 5, "all wait")
        began = time.monotonic()
        transport.close()
        for call in calls:
            assert isinstance(call.wait().error, SshConnectionLost)
        with pytest.raises(SshConnectionLost):
            transport.global_request("anything")
        with pytest.raises(SshConnectionLost):
            transport.renegotiate_keys()
        within(0.0, began)


def test_a_keepalive_can_be_given_and_taken_later() -> None:
    """It is paramiko's method; its own keepalives notice nothing."""
    with EvilSsh() as server, connected(server.port) as transport:
        transport.set_keepalive(0.2)
        assert execute(transport, "hello") == (0, b"hello")
        server.transports[0].stop_reading()
        began = time.monotonic()
        transport.join(PATIENCE)
        assert lost(transport).reason == "silence"
        within(0.6, began)
    with EvilSsh() as server, connected(
        server.port, keepalive_interval=0.2, keepalive_count_max=3
    ) as transport:
        transport.set_keepalive(0)
        assert execute(transport, "hello") == (0, b"hello")
        server.transports[0].stop_reading()
        transport.join(1.5)
        assert transport.is_active()


def test_a_keepalive_that_is_given_to_a_silent_server_is_noticed_before_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The reader waits for bytes, and none come to wake it."""
    monkeypatch.setattr(transport_module, "_IDLE_CHECK_INTERVAL", 0.2)
    with EvilSsh() as server, connected(server.port) as transport:
        server.transports[0].stop_reading()
        transport.set_keepalive(0.1)
        assert lost(transport).reason == "silence"


def test_a_login_that_was_refused_is_not_why_the_connection_ends_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Paramiko keeps both errors in one place."""
    monkeypatch.setattr(Server, "check_auth_none", lambda *_: paramiko.AUTH_FAILED)
    monkeypatch.setattr(Server, "get_allowed_auths", lambda *_: "password")
    with EvilSsh() as server:
        sock = socket.create_connection((server.host, server.port), timeout=PATIENCE)
        transport = SshTransport(sock, connection_id="tester@evil:22")
        try:
            transport.handshake(time.monotonic() + PATIENCE)
            with pytest.raises(paramiko.BadAuthenticationType):
                transport.auth_none("tester")
            transport.auth_password("tester", "secret")
            server.transports[0].close()
            assert lost(transport).reason in ("eof", "reset")
        finally:
            transport.close()


class SlowRekey(EvilTransport):
    """Takes part in a re-key only when it may."""

    def __init__(self, sock: Any) -> None:
        super().__init__(sock)
        self.may_rekey = threading.Event()
        self.exchanges = 0

    def _negotiate_keys(self, m: Any) -> None:
        if self.initial_kex_done:
            self.exchanges += 1
            assert self.may_rekey.wait(PATIENCE)
        super()._negotiate_keys(m)


def test_renegotiate_keys_during_an_exchange_begins_another() -> None:
    """An exchange that began before the call is not the one that was asked for."""
    with EvilSsh(transport_class=SlowRekey) as server, connected(server.port) as transport:
        (slow,) = server.transports
        assert isinstance(slow, SlowRekey)
        first = Outcome(transport.renegotiate_keys)
        eventually(lambda: slow.exchanges == 1, "the first exchange begins")
        second = Outcome(transport.renegotiate_keys)
        eventually(lambda: len(transport._rekey_waiters) == 1, "the second caller waits")
        slow.may_rekey.set()
        assert first.wait().error is None and second.wait().error is None
        assert slow.exchanges == 2
        assert execute(transport, "hello") == (0, b"hello")


def test_rekey_waiters_are_released_when_the_connection_ends() -> None:
    with EvilSsh() as server, connected(server.port) as transport:
        server.transports[0].answers_rekeys = False
        call = Outcome(transport.renegotiate_keys)
        eventually(lambda: bool(transport._current_rekey_waiters), "it waits")
        began = time.monotonic()
        server.transports[0].close()
        assert isinstance(call.wait().error, SshConnectionLost)
        within(0.0, began)


def test_a_session_in_reserve_is_given_up_for_who_is_refused_one() -> None:
    """Code that uses the connection as paramiko's does not know of spare sessions."""

    class Full(EvilTransport):
        is_full = True

        def _parse_channel_open(self, m: Any) -> None:
            if self.is_full:
                m.get_text()
                self.say(b"\x5c", m.get_int(), 4, "too many", "")
            else:
                super()._parse_channel_open(m)

    with EvilSsh(transport_class=Full) as server, connected(server.port) as transport:

        def withdraw() -> bool:
            had_one = server.transports[0].is_full
            server.transports[0].is_full = False
            return had_one

        with pytest.raises(SshSessionRefused):
            transport.open_session()
        transport.reclaimers["test"] = withdraw
        assert execute(transport, "hello") == (0, b"hello")


def test_nothing_can_be_read_from_a_channel_that_works_for_a_sink() -> None:
    """Rather than never return."""
    with EvilSsh(lambda *_: None) as server, connected(server.port) as transport:
        channel = transport.start_session(Collector(b"hello"))
        assert channel.recv(1) == channel.recv_stderr(1) == b""


def test_a_key_that_ends_the_connection_is_named_as_the_reason() -> None:
    """The same class as a refusal's, but raised on the reader, which ends by it."""

    def fail(*_: Any) -> None:
        raise paramiko.AuthenticationException("the token was taken out")

    key = paramiko.ECDSAKey.generate()
    key.sign_ssh_data = fail
    with EvilSsh() as server:
        sock = socket.create_connection((server.host, server.port), timeout=PATIENCE)
        transport = SshTransport(sock, connection_id="tester@evil:22")
        try:
            transport.handshake(time.monotonic() + PATIENCE)
            with pytest.raises(paramiko.AuthenticationException):
                transport.auth_publickey("tester", key)
            assert "the token was taken out" in str(lost(transport))
        finally:
            transport.close()


def test_an_rsa_key_does_not_lock_out_of_a_server_that_takes_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It refuses the key, where paramiko would end the connection, and is shown the next one."""

    class Modern(EvilTransport):
        def _send_message(self, m: Any) -> None:
            if m.asbytes()[:1] == b"\x07":  # EXT_INFO
                m = message(b"\x07", 1, "server-sig-algs", "ssh-ed25519,ecdsa-sha2-nistp256")
            super()._send_message(m)

    def check(_: Server, username: str, key: paramiko.PKey) -> int:
        taken = key.get_name() != "ssh-rsa"
        return int(paramiko.AUTH_SUCCESSFUL if taken else paramiko.AUTH_FAILED)

    monkeypatch.setattr(Server, "check_auth_publickey", check)
    with EvilSsh(transport_class=Modern) as server:
        sock = socket.create_connection((server.host, server.port), timeout=PATIENCE)
        transport = SshTransport(sock, connection_id="tester@evil:22")
        try:
            transport.handshake(time.monotonic() + PATIENCE)
            with pytest.raises(paramiko.AuthenticationException):
                transport.auth_publickey("tester", paramiko.RSAKey.generate(1024))
            transport.auth_publickey("tester", paramiko.ECDSAKey.generate())
            assert transport.is_authenticated()
        finally:
            transport.close()


def test_our_close_leaves_a_moment_later_though_nothing_follows_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server would not free the session; and the reader does not spin meanwhile."""
    with EvilSsh(lambda *_: None) as server, connected(server.port) as transport:
        waits = []  # while it waits for a moment; before, others may be writing
        receive = transport._wire.recv

        def recv(timeout: float, until_writable: bool) -> Any:
            if transport._send_queue.flush_at:
                waits.append(until_writable)
            return receive(timeout, until_writable)

        monkeypatch.setattr(transport._wire, "recv", recv)
        sink = Collector(b"hello")
        transport.start_session(sink)
        assert sink.started.wait(PATIENCE) and sink.channel is not None
        sink.channel.send_eof()
        (channel,) = server.transports[0]._channels.values()
        channel.close()
        assert sink.ended.wait(PATIENCE)
        eventually(lambda: not transport._send_queue, "it has left")
        assert sink.channel._send_state.close_sent
        assert 1 <= len(waits) < 50 and not any(waits)


@pytest.mark.parametrize("fails", [True, False])
def test_a_request_that_no_network_took_is_known_not_to_have_been_sent(
    fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only then may it be sent once more, elsewhere."""
    with EvilSsh(lambda *_: None) as server, connected(server.port) as transport:
        asked, waiting = transport.open_session(), transport.open_session()
        asked.request_exec(b"leaves")
        assert asked.has_sent
        if fails:  # the peer was reset between a look at the connection and the write

            class Gone(BrokenPipeError):
                __module__ = "ssh_service.tests"  # or it counts as a signal handler's

            def broken(data: Any) -> None:
                raise Gone(errno.EPIPE, "gone")

            monkeypatch.setattr(transport._wire, "send_nowait", broken)
            waiting.request_exec(b"does not")
        else:  # a key exchange was under way
            transport.clear_to_send.clear()
            waiting.request_exec(b"does not")
            server.transports[0].close()
        lost(transport)
        transport._flush()
        assert asked.has_sent and not waiting.has_sent


@pytest.mark.parametrize("posted", [True, False])
def test_half_a_packet_is_the_end_of_the_connection(
    posted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal's handler raised in the middle of a write."""
    with EvilSsh(lambda *_: None) as server, connected(server.port) as transport:
        channel = transport.open_session()
        channel.exec_command("hello")
        write = transport._wire.sendall
        name = "send_nowait" if posted else "sendall"

        def torn(data: Any) -> None:
            write(bytes(data)[: len(data) // 2])
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(transport._wire, name, torn)
            with pytest.raises(KeyboardInterrupt):
                if posted:
                    channel.send_signal("TERM")
                else:
                    channel.sendall(b"x" * 1000)
        began = time.monotonic()
        assert not transport.is_active()
        with pytest.raises(SshConnectionLost):
            transport.open_session()
        assert lost(transport).reason == "reset"
        within(0.0, began)


class Piecemeal:
    """Stands in for a socket as a channel does, and breaks in the middle of a write."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.left = sock, 1 << 30

    def send_ready(self) -> bool:
        return True

    def send(self, data: bytes) -> int:
        if not self.left:
            raise OSError("broken in the middle")
        taken = self.sock.send(data[: self.left])
        self.left -= taken
        return taken

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)  # wakes the reader
        self.sock.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)


def test_write_broken_off_over_a_jump_host_counts_as_sent() -> None:
    """A command that was sent in full, with more behind it, must not be sent again."""
    with EvilSsh(lambda *_: None) as server:
        sock = Piecemeal(socket.create_connection((server.host, server.port), timeout=PATIENCE))
        transport = SshTransport(sock, connection_id="over@jump:22", keepalive_interval=None)
        try:
            transport.handshake(time.monotonic() + PATIENCE)
            transport.auth_none("tester")
            sink = Collector()
            transport.start_session(sink)
            assert sink.is_open.wait(PATIENCE) and sink.channel is not None
            assert not sink.channel.has_sent
            sock.left = 200
            with transport.batch():
                sink.channel.request_exec(b"touch it")
                sink.channel.send_some(b"x" * 1000, wait=False)
            assert sink.ended.wait(PATIENCE)
            assert sink.channel.has_sent
        finally:
            transport.close()


def test_interrupted_send_does_not_block_later_sends() -> None:
    """It raised between the taking of the gate and the first line behind it."""

    class Torn:
        """A lock that is taken, and then the handler raises."""

        def __init__(self) -> None:
            self.lock = threading.Lock()
            self.armed: Optional[threading.Thread] = None

        def acquire(self, *args: Any, **kwargs: Any) -> bool:
            taken = self.lock.acquire(*args, **kwargs)
            if taken and self.armed is threading.current_thread():
                self.armed = None
                raise KeyboardInterrupt
            return taken

        def release(self) -> None:
            self.lock.release()

        def __enter__(self) -> bool:
            return self.lock.acquire()

        def __exit__(self, *exc_info: object) -> None:
            self.lock.release()

    with EvilSsh() as server, connected(server.port) as transport:
        assert execute(transport, "hello") == (0, b"hello")
        eventually(lambda: not transport.open_channel_count, "nobody sends")
        sending: Any = Torn()
        transport.clear_to_send_lock = sending
        sending.armed = threading.current_thread()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            transport.start_session(Collector(b"now"))
        blocked = [Outcome(lambda: execute(transport, "hello")) for _ in range(3)]
        for call in blocked:
            assert isinstance(call.wait().error, SshConnectionLost)
        transport.close()
        assert not transport.is_alive()
        within(2.0, began)


class Nameless(Exception):
    """An exception that ends a reader thread, and cannot be formatted."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize("error", [Nameless(), OSError("without a number")], ids=["str", "errno"])
def test_error_that_cannot_be_formatted_is_still_reported(error: Exception) -> None:
    """Paramiko formats what ends its reader before it keeps it."""

    class Failing(Collector):
        def on_data(self, chunk: bytes) -> None:
            raise error

    with EvilSsh() as server, connected(server.port) as transport:
        sink = Failing(b"now")
        transport.start_session(sink)
        loss = lost(transport)
        transport.join(PATIENCE)
        assert "no SSH server may send" not in str(loss)
        assert (type(error).__name__ if isinstance(error, Nameless) else str(error)) in str(loss)
        assert loss.__cause__ is error
        assert transport not in paramiko.transport._active_threads


def test_done_callback_that_raises_does_not_stop_the_others() -> None:
    with EvilSsh() as server, connected(server.port) as transport:
        told = threading.Event()

        def fail(*_: object) -> None:
            raise ZeroDivisionError

        transport.add_done_callback(fail)
        transport.add_done_callback(lambda *_: told.set())
        transport.close()
        assert told.is_set()


def test_channel_numbers_may_start_anew() -> None:
    """After 16 million commands; a late message for an old number is still passed over."""

    def late(transport: EvilTransport, channel: paramiko.Channel, command: bytes) -> None:
        transport.say(b"\x5e", 0xFFFFFF, b"late")
        echo(transport, channel, command)

    with EvilSsh(late) as server, connected(server.port) as transport:
        transport._channel_counter = 0xFFFFFE
        results = []
        for number in range(2):
            channel = transport.open_session()
            results.append(channel.chanid)
            channel.close()
        assert execute(transport, "hello") == (0, b"hello")
        assert results == [0xFFFFFE, 0xFFFFFF]
        assert len(transport.channels_seen) == 0


def test_a_refused_slot_and_a_closed_one_leave_nothing_behind() -> None:
    with EvilSsh() as server, connected(server.port) as transport:
        for _ in range(50):
            assert execute(transport, "hello") == (0, b"hello")
        assert not transport._strong_references and not transport.channels_seen
        eventually(lambda: not transport._send_queue, "all that was to be sent is sent")
        gc.collect()
        eventually(lambda: len(transport._channels) == 0, "no channel is left")


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO])
def test_debug_messages_of_a_server_are_in_the_log_if_one_is_kept(
    level: int, caplog: pytest.LogCaptureFixture
) -> None:
    def talkative(transport: EvilTransport, channel: paramiko.Channel, command: bytes) -> None:
        transport.say(b"\x04", False, "debug1: \x1b[2J", "")
        echo(transport, channel, command)

    with caplog.at_level(level, "ssh_service.transport"):
        with EvilSsh(talkative) as server, connected(server.port) as transport:
            assert execute(transport, "hello") == (0, b"hello")
    assert ("debug1: %1B[2J" in caplog.text) == (level == logging.DEBUG)
