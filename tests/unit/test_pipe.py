"""A channel's receive buffer."""

from __future__ import annotations

import random
import threading

import pytest
from paramiko.buffered_pipe import PipeTimeout

from ssh_service.transport.pipe import ChunkPipe
from tests.common import Outcome


def test_pipe_returns_data_in_order_in_any_pieces() -> None:
    rng = random.Random(7)
    data = bytes(rng.randrange(256) for _ in range(20000))
    pipe = ChunkPipe()
    fed = 0
    read = b""
    while len(read) < len(data):
        if fed < len(data) and rng.random() < 0.5:
            size = rng.randrange(1, 400)
            pipe.feed(data[fed : fed + size])
            fed = min(len(data), fed + size)
        elif len(pipe):
            piece = pipe.read(rng.randrange(1, 300))
            assert isinstance(piece, bytes) and piece
            read += piece
        assert len(pipe) == fed - len(read)
    assert read == data


def test_pipe_small_reads_of_a_big_buffer_do_not_copy_the_rest() -> None:
    """Paramiko deletes each piece from the front, which moves all that is behind it."""
    pipe = ChunkPipe()
    chunk = bytes(4 * 1024 * 1024)
    pipe.feed(chunk)
    pipe.read(10)
    rest = pipe._chunks[0]
    assert isinstance(rest, memoryview) and rest.obj is chunk


def test_read_waits_for_the_first_byte() -> None:
    pipe = ChunkPipe()
    reading = Outcome(lambda: pipe.read(100))
    pipe.feed(b"")
    assert not reading.is_over()
    pipe.feed(b"there")
    assert reading.wait().value == b"there"


def test_read_gives_up_when_its_time_is_over() -> None:
    with pytest.raises(PipeTimeout):
        ChunkPipe().read(1, timeout=0.01)
    with pytest.raises(PipeTimeout):
        ChunkPipe().read(1, timeout=0.0)


def test_close_ends_reads_once_all_is_taken() -> None:
    pipe = ChunkPipe()
    pipe.feed(b"last")
    pipe.close()
    assert pipe.read(100) == b"last"
    assert pipe.read(100) == b""


def test_close_wakes_all_waiters() -> None:
    pipe = ChunkPipe()
    readers = [Outcome(lambda: pipe.read(1)) for _ in range(5)]
    pipe.close()
    assert [reader.wait().value for reader in readers] == [b""] * 5


def test_empty_takes_all_without_waiting() -> None:
    pipe = ChunkPipe()
    assert pipe.empty() == b""
    pipe.feed(b"ab")
    pipe.feed(b"c")
    assert pipe.empty() == b"abc"
    assert not pipe.read_ready()


def test_the_event_is_set_while_there_is_something_to_read() -> None:
    pipe, event = ChunkPipe(), threading.Event()
    pipe.set_event(event)
    assert not event.is_set()
    pipe.feed(b"ab")
    assert event.is_set()
    pipe.read(1)
    assert event.is_set()
    pipe.read(1)
    assert not event.is_set()
    pipe.close()
    assert event.is_set()
