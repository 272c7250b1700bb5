"""A session shared by clients: replies, sending, and the end."""

from __future__ import annotations

import struct
import threading

import pytest

from ssh_service.copying.sftp import decode, encode, protocol
from ssh_service.copying.sftp.client import SftpClient, negotiate
from ssh_service.copying.sftp.session import SessionEnded, SftpChannel, SftpSession
from ssh_service.copying.sftp.time_limits import Stalled
from ssh_service.errors import SshConnectionLost
from tests.unit.sftp_harness import PATIENCE, MadeUpServer, attributes, frame, status, string


class NoRoom(SftpChannel):
    """A peer that takes so many bytes, and no more until it is given room."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.taken = b""
        self.session = SftpSession(self)

    def send_some(self, data: memoryview) -> int:
        count = min(self.room, len(data))
        self.room -= count
        self.taken += bytes(data[:count])
        return count

    def close(self) -> None:
        pass


def answering(kind: int, request_id: int, rest: bytes) -> bytes:
    return status(request_id, protocol.OK)


def test_negotiate_with_another_first_packet_fails() -> None:
    stream = NoRoom(1000)
    with pytest.raises(SessionEnded, match="no SFTP server"):
        stream.session.feed(status(1, protocol.OK))
        negotiate(stream.session, PATIENCE)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_output_of_a_profile_before_sftp_is_skipped(size: int) -> None:
    stream = NoRoom(1000)
    said = b"Welcome!\r\n\x1b[1mToday: \xff\n" + frame(protocol.VERSION_REPLY, 3, b"")
    for at in range(0, len(said), size):
        stream.session.feed(said[at : at + size])
    negotiate(stream.session, PATIENCE)


def test_negotiate_with_endless_output_fails() -> None:
    stream = NoRoom(1000)
    with pytest.raises(SessionEnded, match="no SFTP server"):
        for _ in range(100):
            stream.session.feed(b"blah " * 200)
        negotiate(stream.session, PATIENCE)


def test_a_server_of_an_older_version_is_refused() -> None:
    stream = NoRoom(1000)
    stream.session.feed(frame(protocol.VERSION_REPLY, 2, b""))
    with pytest.raises(SessionEnded, match="version 2"):
        negotiate(stream.session, PATIENCE)


def test_negotiate_silent_server_raises_stalled() -> None:
    with pytest.raises(Stalled):
        negotiate(NoRoom(1000).session, 0.05)


def test_negotiate_waits_until_the_channel_is_writable() -> None:
    stream = NoRoom(0)

    def open_up() -> None:
        stream.room = 1000
        stream.session.on_writable()
        stream.session.feed(frame(protocol.VERSION_REPLY, 3, string(b"name") + string(b"1")))

    thread = threading.Timer(0.05, open_up)
    thread.start()
    try:
        negotiate(stream.session, PATIENCE)
    finally:
        thread.join(PATIENCE)
    assert stream.taken == encode.init()
    assert stream.session.extensions == {b"name": b"1"}


def test_negotiate_asks_for_announced_limits() -> None:
    def answer(kind: int, request_id: int, rest: bytes) -> bytes:
        return frame(protocol.EXTENDED_REPLY, request_id, struct.pack(">QQQQ", 1, 2, 3, 4))

    server = MadeUpServer(answer, {protocol.LIMITS: b"1"})
    negotiate(server.session, PATIENCE)
    assert server.session.limits == (1, 2, 3, 4)


def test_unknown_reply_ends_the_session() -> None:
    server = MadeUpServer(answering)
    negotiate(server.session, PATIENCE)
    server.session.feed(status(99, protocol.OK))
    with pytest.raises(SessionEnded, match="99"):
        server.session.raise_if_ended()
    assert server.closed


def test_requests_beyond_the_window_leave_when_writable() -> None:
    stream = NoRoom(1000)
    stream.session.feed(frame(protocol.VERSION_REPLY, 3, b""))
    negotiate(stream.session, PATIENCE)
    stream.room, stream.taken = 10, b""
    with SftpClient(stream.session) as client:
        reply = client.ask(encode.stat, b"x" * 100)
        client.flush()
        assert len(stream.taken) == 10
        stream.room = 1000
        stream.session.on_writable()
        stream.session.feed(status(reply.request_id, protocol.OK))
        assert client.collect(PATIENCE) == [reply]
        assert stream.taken == encode.stat(reply.request_id, b"x" * 100)


def test_a_part_of_a_reply_is_a_sign_of_life() -> None:
    stream = NoRoom(1000)
    stream.session.feed(frame(protocol.VERSION_REPLY, 3, b""))
    negotiate(stream.session, PATIENCE)
    with SftpClient(stream.session) as client:
        reply = client.ask(encode.read, b"h", 0, 1000)
        client.flush()
        packet = frame(protocol.DATA, reply.request_id, string(bytes(1000)))
        before = client.activity
        stream.session.feed(packet[:500])
        assert client.activity != before
        stream.session.feed(packet[500:])
        assert client.collect(PATIENCE) == [reply]


def test_every_client_sees_the_end_after_its_replies() -> None:
    server = MadeUpServer(lambda kind, request_id, rest: b"")
    negotiate(server.session, PATIENCE)
    with SftpClient(server.session) as one, SftpClient(server.session) as other:
        replies = [client.ask(encode.stat, b"x") for client in (one, other)]
        one.flush()
        other.flush()
        server.session.feed(status(replies[0].request_id, protocol.OK))
        server.session.mark_ended(None)
        assert one.collect(PATIENCE) == [replies[0]]
        for client in (one, other):
            with pytest.raises(SessionEnded):
                client.collect(PATIENCE)
    assert not server.session.is_usable


def test_session_with_an_unclean_client_ends_with_its_last_one() -> None:
    server = MadeUpServer(lambda kind, request_id, rest: b"")
    negotiate(server.session, PATIENCE)
    with SftpClient(server.session):
        with SftpClient(server.session) as untidy:
            untidy.ask(encode.stat, b"x")
            untidy.flush()
        assert not server.session.is_usable
        assert not server.closed
    assert server.closed


def test_an_error_while_sending_ends_the_session() -> None:
    stream = NoRoom(1000)
    stream.session.feed(frame(protocol.VERSION_REPLY, 3, b""))
    negotiate(stream.session, PATIENCE)

    def fail(data: memoryview) -> int:
        raise SshConnectionLost("no route")

    stream.send_some = fail  # type: ignore[method-assign]
    with SftpClient(stream.session) as client:
        client.ask(encode.stat, b"x")
        with pytest.raises(SessionEnded, match="no route"):
            client.collect(PATIENCE)


def test_interrupt_while_sending_ends_the_session_for_all() -> None:
    stream = NoRoom(1000)
    stream.session.feed(frame(protocol.VERSION_REPLY, 3, b""))
    negotiate(stream.session, PATIENCE)

    def interrupt(data: memoryview) -> int:
        raise KeyboardInterrupt

    stream.send_some = interrupt  # type: ignore[method-assign]
    with SftpClient(stream.session) as other:
        other.ask(encode.stat, b"x")
        with SftpClient(stream.session) as client:
            client.ask(encode.stat, b"x")
            with pytest.raises(KeyboardInterrupt):
                client.collect(PATIENCE)
        with pytest.raises(SessionEnded):
            other.collect(PATIENCE)


def test_attributes_are_built_as_the_reader_reads_them() -> None:
    assert decode.attributes(attributes(0o40755, 3)).mode == 0o40755
