"""What becomes of a stream that a command writes: given to a function, or taken line by line."""

from __future__ import annotations

import logging
import subprocess
import threading
from typing import Any, List

import pytest

from ssh_service import background
from ssh_service.commands.output import CallbackOutput, Output, QueueOutput
from ssh_service.commands.stdin import Stdin, one_input
from ssh_service.errors import SshConfigError
from tests.unit.engine_fakes import PATIENCE, callbacks_done, in_threads


class Window:
    """Stands in for the channel: counts what it is given back."""

    def __init__(self) -> None:
        self.given_back: List[int] = []

    def adjust_window(self, size: int) -> None:
        self.given_back.append(size)


@pytest.fixture
def window() -> Any:
    return Window()


# To a function.


def test_pieces_come_in_order_on_the_callback_thread_and_then_the_window(window: Any) -> None:
    seen: List[Any] = []

    def take(piece: str) -> None:
        seen.append((piece, background.is_callback_thread(), list(window.given_back)))

    output = CallbackOutput(take, "utf-8")
    for chunk in (b"one", b"two"):
        assert output.put(chunk, window) is True
    callbacks_done()
    assert seen == [("one", True, []), ("two", True, [3])]
    assert window.given_back == [3, 3]
    assert output.joined() == b""  # it is not kept as well


def test_a_function_that_blocks_stops_the_server_and_not_the_reader_thread(window: Any) -> None:
    gate = threading.Event()

    def take(piece: object) -> None:
        gate.wait(PATIENCE)

    output = CallbackOutput(take, "utf-8")
    output.put(b"x" * 100, window)  # returns, though nobody has taken it
    assert window.given_back == []
    gate.set()
    callbacks_done()
    assert window.given_back == [100]


@pytest.mark.parametrize(
    "encoding, pieces", [("utf-8", ["a", "é", "b\\xc3"]), (None, [b"a\xc3", b"\xa9", b"b\xc3"])]
)
def test_a_character_may_come_in_two_pieces(encoding: Any, pieces: List[Any], window: Any) -> None:
    seen: List[Any] = []
    output = CallbackOutput(seen.append, encoding)
    for chunk in (b"a\xc3", b"\xa9", b"b\xc3"):
        output.put(chunk, window)
    output.end()
    callbacks_done()
    if encoding:  # what was left of the last one comes with the end
        seen[2:] = ["".join(seen[2:])]
    assert seen == pieces


def test_a_function_that_raises_is_logged_and_goes_on_to_be_called(
    window: Any, caplog: pytest.LogCaptureFixture
) -> None:
    seen: List[str] = []

    def take(piece: str) -> None:
        seen.append(piece)
        raise ZeroDivisionError

    output = CallbackOutput(take, "utf-8")
    with caplog.at_level(logging.ERROR):
        output.put(b"one", window)
        output.put(b"two", window)
        callbacks_done()
    assert seen == ["one", "two"] and window.given_back == [3, 3]
    assert len(caplog.records) == 2


# Line by line.


def filled(chunks: List[bytes], encoding: Any = "utf-8", window: Any = None) -> QueueOutput:
    output = QueueOutput(encoding)
    for chunk in chunks:
        output.put(chunk, window)
    return output


@pytest.mark.parametrize(
    "chunks, lines",
    [
        ([], []),
        ([b"one\ntwo\n"], ["one\n", "two\n"]),
        ([b"on", b"e\nt", b"w", b"o"], ["one\n", "two"]),
        ([b"\n\n", b"\n"], ["\n", "\n", "\n"]),
        ([b"\xc3", b"\xa9t\xc3\xa9\n", b"\xff\n"], ["été\n", "\\xff\n"]),
        ([b"cut \xc3"], ["cut \\xc3"]),
        ([b"a\rb\x0bc\x85\n"], ["a\rb\x0bc\\x85\n"]),  # real line ends alone
    ],
)
def test_lines_are_whole_however_they_came(chunks: List[bytes], lines: List[str]) -> None:
    output = filled(chunks)
    output.end()
    assert list(output.lines()) == lines
    output = filled(chunks, None)
    output.end()
    assert b"".join(output.lines()) == b"".join(chunks)  # type: ignore[arg-type]


def test_a_line_is_handed_out_as_soon_as_it_is_there_and_the_end_ends_the_wait() -> None:
    output = QueueOutput("utf-8")
    lines = output.lines()
    first, _ = in_threads(lambda: next(lines), lambda: output.put(b"one\ntwo", None))
    assert first == "one\n"
    rest, _ = in_threads(lambda: list(lines), output.end)
    assert rest == ["two"]


def test_the_server_may_send_more_when_lines_are_taken(window: Any) -> None:
    output = filled([b"one\ntwo\n", b"three\n"], window=window)
    lines = output.lines()
    assert window.given_back == []
    assert next(lines) == "one\n"
    assert window.given_back == [8]
    assert next(lines) == "two\n"
    assert window.given_back == [8]
    assert next(lines) == "three\n"
    assert window.given_back == [8, 6]


def test_unread_output_is_collected_to_the_byte(window: Any) -> None:
    output = filled([b"one\ntwo\nth", b"ree\nfour\n", b"fi\xff"], window=window)
    lines = output.lines()
    assert next(lines) == "one\n"
    assert output.joined() == b"two\nthree\nfour\nfi\xff"
    output.collect()
    output.put(b"ve", window)
    output.end()
    assert output.joined() == b"two\nthree\nfour\nfi\xffve"
    assert sum(window.given_back) == len(b"one\ntwo\nthree\nfour\nfi\xffve")
    assert list(lines) == []


def test_unfinished_line_is_collected() -> None:
    output = filled([b"on"])
    lines = output.lines()
    found, _ = in_threads(lambda: list(lines), lambda: (output.collect(), output.end()))
    assert (found, output.joined()) == ([], b"on")


def test_an_encoding_whose_lines_cannot_be_told_apart_is_refused_at_once() -> None:
    with pytest.raises(SshConfigError, match="utf-16"):
        QueueOutput("utf-16")
    output = filled([b"\xe9t\xe9\n"], "latin-1")
    output.end()
    assert list(output.lines()) == ["été\n"]


# What the command reads.


class Wire:
    """Stands in for the channel: notes what is sent over it."""

    def __init__(self) -> None:
        self.sent = b""
        self.eofs = 0

    def send_some(self, data: Any, *, wait: bool = True) -> int:
        self.sent += bytes(data[:4])
        return min(4, len(data))

    def send_eof(self) -> None:
        self.eofs += 1


@pytest.mark.parametrize("stdin", [None, subprocess.DEVNULL, subprocess.PIPE, "", b""])
def test_no_input_may_be_said_as_to_subprocess(stdin: Any) -> None:
    assert one_input(stdin, None) == b""


def test_input_may_stand_next_to_the_default_of_subprocess() -> None:
    assert one_input(None, "x") == b"x"


def test_stdin_sends_the_preamble_of_each_attempt_first() -> None:
    """A channel that ended before anything left was of no use; the next server may differ."""
    silent: Any = type("Silent", (), {"send_some": lambda *_, **__: 0})()
    wire: Any = Wire()
    stdin = Stdin(b"data", True, "user@host:22")
    stdin.start(silent, b"a preamble that is not wanted ")
    stdin.write(b" and more")
    assert stdin.unsend()
    stdin.start(wire, b"preamble ")
    stdin.close()
    assert (wire.sent, wire.eofs) == (b"preamble data and more", 1)


# Kept.


def test_no_more_is_kept_than_the_limit() -> None:
    output = Output(5)
    assert output.put(b"abc", None) is True
    assert output.put(b"defg", None) is False
    assert output.put(b"h", None) is False
    assert output.joined() == b"abcde"
