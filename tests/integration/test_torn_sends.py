"""An exception of a signal's handler at each line of a send: nothing garbled, nobody waiting."""

from __future__ import annotations

import os
import threading
from functools import partial
from typing import Any, Callable

import paramiko
import pytest

from ssh_service import transport as package
from ssh_service.errors import SshConnectionLost
from ssh_service.transport import SshChannel, SshTransport
from tests.common import Outcome, eventually
from tests.faults.clients import Collector, connected, execute
from tests.faults.evil_ssh import EvilSsh, EvilTransport
from tests.injection import LINES, Torn, torn_at

PLACES = (
    os.path.dirname(package.__file__),
    os.path.dirname(paramiko.__file__),
    threading.__file__,
)


def swallow(transport: EvilTransport, channel: paramiko.Channel, command: bytes) -> None:
    """Answer ``hello``; of anything else, take all that comes."""
    if command == b"hello":
        channel.sendall(command)
        channel.send_exit_status(0)
        channel.close()
        return
    while channel.recv(65536):
        pass
    channel.close()


def group(transport: SshTransport, channel: SshChannel) -> None:
    with transport.batch():
        channel.send_signal("TERM")
        channel.send_signal("KILL")


SENDS = {
    "a request": lambda transport, channel: channel.exec_command("swallow"),
    "a group": group,
    "packets": lambda transport, channel: channel.send_some(b"x" * 100_000),
    "packets without waiting": lambda transport, channel: channel.send_some(
        b"x" * 100_000, wait=False
    ),
    "a packet": lambda transport, channel: channel.sendall(b"x" * 1000),
    "the end": lambda transport, channel: channel.shutdown_write(),
    "a post": lambda transport, channel: channel.send_signal("TERM"),
    "an open": lambda transport, channel: transport.start_session(Collector()),
    "a close": lambda transport, channel: channel.close(),
}


def tear(send: Callable[[SshTransport, SshChannel], Any], first: int, step: int) -> None:
    """Tear a send at every `step`-th of its lines, and see what becomes of the connection."""
    line = first
    with EvilSsh(swallow) as server:
        more = True
        while more:
            with connected(server.port) as transport:
                while more and transport.is_active():
                    channel = transport.open_session()
                    channel.exec_command("swallow")
                    more = torn_at(line, partial(send, transport, channel), LINES, PLACES)
                    line += step
                    # What others want to send leaves, or they are told that it cannot.
                    other = Outcome(lambda: execute(transport, "hello")).wait()
                    if transport.is_active():
                        assert other.error is None and other.value == (0, b"hello"), line
                        continue
                    if other.error is not None:
                        assert isinstance(other.error, (SshConnectionLost, EOFError)), line
                    eventually(lambda: not transport.is_alive(), f"the reader ends, {line}")
                transport.close()
                assert not transport.is_alive(), f"the reader does not end, {line}"
            server.transports[-1].join(10)
            complaint = server.transports[-1].get_exception()
            assert complaint is None or isinstance(complaint, EOFError), (line, complaint)


@pytest.mark.parametrize("what", SENDS)
def test_interrupted_send_keeps_the_stream_intact(what: str) -> None:
    before = threading.active_count()
    tear(SENDS[what], first=3, step=17)
    eventually(lambda: threading.active_count() <= before + 1, "no thread is left")


def test_a_torn_write_ends_the_connection_before_anyone_else_may_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Data after a packet that was encrypted and not written would be garbage."""
    with EvilSsh(swallow) as server, connected(server.port) as transport:
        mine, others = transport.open_session(), transport.open_session()
        abort, uncork, later = transport.abort, transport.packetizer.uncork, []

        def torn(**_: Any) -> None:
            monkeypatch.setattr(transport.packetizer, "uncork", uncork)
            later.append(Outcome(lambda: others.send_some(b"x" * 100_000)))
            raise Torn

        def slow_abort(error: SshConnectionLost) -> None:
            monkeypatch.setattr(transport, "abort", abort)
            later[0]._thread.join(0.3)  # which may not be over before it
            abort(error)

        monkeypatch.setattr(transport.packetizer, "uncork", torn)
        monkeypatch.setattr(transport, "abort", slow_abort)
        with pytest.raises(Torn):
            mine.send_some(b"x" * 100_000)
        assert isinstance(later[0].wait().error, SshConnectionLost)
        server.transports[0].join(10)
        assert isinstance(server.transports[0].get_exception(), EOFError)


@pytest.mark.long
@pytest.mark.parametrize("what", SENDS)
def test_a_send_torn_at_every_line(what: str) -> None:
    tear(SENDS[what], first=0, step=1)
