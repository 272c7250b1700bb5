"""A command with a terminal: nothing of ours is echoed, and the end of stdin is a character."""

from __future__ import annotations

import os
import random
from typing import Any, List, Tuple

import pytest

from ssh_service.commands.command import Command
from ssh_service.commands.marks import Marks
from ssh_service.commands.stdin import Stdin
from ssh_service.errors import SshCommandCancelled, SshConnectionLost, SshSessionRefused
from tests.unit.engine_fakes import FakeChannel, FakeTransport


def begun(text: str = "cat", **more: Any) -> Tuple[Command, FakeChannel]:
    """Start a command that wants a terminal."""
    env = more.pop("env", None)
    command = Command(text, env, more.pop("shell", None), "root@alpha:22", pty=True, **more)
    channel = FakeChannel(FakeTransport(), command)
    channel.transport.channels.append(channel)
    channel.is_open = True
    assert command.start(channel)
    return command, channel


def marks_of(command: Command) -> List[bytes]:
    """Return what the shell writes when the terminal is raw, and when it is restored."""
    assert command._terminal is not None
    marks = command._terminal._marks
    return [marks.text(word).encode() for word in ("ready", "restored")]


# The terminal itself.


def test_command_is_sent_only_once_there_is_a_terminal() -> None:
    command, channel = begun()
    assert (channel.terminals, channel.command) == (1, None)
    command.on_reply(True)
    assert channel.command == b"cat"
    command.on_reply(True)
    channel.end()


def test_command_without_its_terminal_fails_and_is_not_run() -> None:
    command, channel = begun()
    command.on_reply(False)
    error = command.future.exception(0)
    assert isinstance(error, SshSessionRefused) and error.phase == "pty"
    assert "refused to give a terminal" in str(error)
    assert channel.command is None and channel.closed


def test_command_cancelled_before_its_terminal_came_is_not_run() -> None:
    command, channel = begun()
    command.cancel()
    command.on_reply(True)
    assert channel.command is None
    error = command.future.exception(0)
    assert isinstance(error, SshCommandCancelled) and error.ended is True


@pytest.mark.parametrize("lost", [False, True], ids=["closed", "lost"])
def test_command_whose_session_ended_before_the_terminal_came_is_unsent(lost: bool) -> None:
    """The server may have read the request for a terminal, but not the script."""
    command, channel = begun()
    assert command.unsend(channel, lost)
    second = FakeChannel(channel.transport, command)
    assert command.start(second)
    command.on_reply(True)
    assert second.command == b"cat" and channel.command is None
    assert not command.unsend(second)
    command.on_close(SshConnectionLost("lost"))
    assert isinstance(command.future.exception(0), SshConnectionLost)


# The script that cannot be in the exec request.


@pytest.mark.parametrize(
    "more", [{"env": {"A": "secret"}}, {"shell": "/bin/sh"}, {"text": "# " + "x" * 70_000}]
)
def test_script_is_sent_only_once_the_echo_is_off(more: Any) -> None:
    command, channel = begun(stdin=b"input\n", **more)
    command.on_reply(True)
    assert b"secret" not in (channel.command or b"")
    command.on_data(b"noise of the profile\r\n")
    assert channel.sent == b""
    ready, restored = marks_of(command)
    command.on_data(ready[:9])
    assert channel.sent == b""
    command.on_data(ready[9:])
    assert channel.sent.startswith((b'eval "', b"_ssh_i=")) and channel.sent.endswith(b'"\n')
    script, channel.sent = channel.sent, b""
    command.on_data(restored + b"input\r\n")
    assert channel.sent == b"input\n\x04" and b"input" not in script
    assert channel.eof_sent == 0
    channel.complete()
    assert command.future.result(0).stdout == "noise of the profile\r\ninput\r\n"


def test_marks_of_two_commands_never_match() -> None:
    command, channel = begun(env={"A": "b"})
    command.on_reply(True)
    other = Marks().text("ready").encode()
    command.on_data(other)
    assert channel.sent == b""
    channel.complete()
    assert command.future.result(0).stdout_bytes == other


def test_marks_are_removed_from_any_pieces() -> None:
    rng = random.Random(3)
    for _ in range(2000):
        marks = Marks(2)
        noise = [b"", b"<", b"<1", marks.start[:7].encode(), b"text\n", b">", b"<" * 30, b"\xff"]
        pieces = [rng.choice(noise), marks.text("one").encode(), rng.choice(noise)]
        pieces += [marks.text("two 2").encode(), rng.choice(noise), marks.text("three").encode()]
        text = b"".join(pieces)
        cuts = sorted(rng.choices(range(len(text) + 1), k=rng.randrange(9)))
        found = [marks.extract(text[i:j]) for i, j in zip([0, *cuts], [*cuts, len(text)])]
        shown = b"".join(chunk for chunk, _ in found) + marks.flush()
        assert shown == pieces[0] + pieces[2] + pieces[4] + pieces[5]
        assert [word for _, words in found for word in words] == [b"one", b"two 2"]


# The end of stdin.


class Wire:
    """Stands in for the channel: notes what is sent over it."""

    def __init__(self) -> None:
        self.sent = b""
        self.eofs = 0

    def send_some(self, data: Any, *, wait: bool = True) -> int:
        self.sent += bytes(data[:3])
        return min(3, len(data))

    def send_eof(self) -> None:
        self.eofs += 1


@pytest.mark.parametrize(
    "data, sent",
    [
        (b"", b"\x04"),
        (b"line\n", b"line\n\x04"),
        (b"line\r", b"line\r\x04"),
        (b"part", b"part\x04\x04"),  # the first one lets the reader have the line so far
        (b"part\x04", b"part\x04\x04"),
    ],
)
def test_stdin_of_a_terminal_ends_with_its_veof(data: bytes, sent: bytes) -> None:
    wire: Any = Wire()
    stdin = Stdin(data, False, "user@host:22", terminal=True)
    stdin.start(wire)
    stdin.pump()
    assert (wire.sent, wire.eofs) == (sent, 0)


def test_stdin_of_a_terminal_ends_when_it_is_closed() -> None:
    wire: Any = Wire()
    stdin = Stdin(b"", True, "user@host:22", terminal=True)
    stdin.start(wire)
    stdin.write(b"one\ntwo")
    assert wire.sent == b"one\ntwo"
    stdin.close()
    stdin.close()
    assert (wire.sent, wire.eofs) == (b"one\ntwo\x04\x04", 0)


def test_request_hides_its_marks_from_other_shells() -> None:
    """It passes through csh and fish in single quotes."""
    command, channel = begun(shell="/bin/sh")
    command.on_reply(True)
    text = os.fsdecode(channel.command or b"")
    assert text.startswith("exec /bin/sh -c '") and text.endswith("'")
    assert not set(text[len("exec /bin/sh -c '") : -1]) & set("'\\!\n")
    channel.end()
