"""The bytes of the mock server's commands and forwards, carried by threads of its connections."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import IO, Callable, Iterator

import paramiko

__all__ = ["carry", "closed_after", "copy_output", "copy_stdin", "hang_up"]

_CHUNK = 32 * 1024

_POLL_INTERVAL = 0.1
"""Seconds before a closed channel of a forward is noticed while its target is silent."""


@contextlib.contextmanager
def closed_after(channel: paramiko.Channel) -> Iterator[None]:
    """Close a channel at the end, regardless of the state of its connection."""
    try:
        yield
    finally:
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            channel.close()


def copy_stdin(channel: paramiko.Channel, stdin: IO[bytes], replied: threading.Event) -> None:
    """Write the client's data to a command's stdin, then close it."""
    with contextlib.suppress(OSError, ValueError):  # the command has ended
        with stdin:
            while True:
                data = channel.recv(_CHUNK)
                # The thread that sends the reply has received this data, so the reply was sent.
                replied.set()
                if not data:
                    break
                stdin.write(data)
                stdin.flush()


def copy_output(stream: IO[bytes], send: Callable[[bytes], None]) -> None:
    """Send a command's output; close the pipe if the channel is closed."""
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException), stream:
        while True:
            data = os.read(stream.fileno(), _CHUNK)
            if not data:
                break
            send(data)


def carry(
    channel: paramiko.Channel, target: socket.socket, spawn: Callable[..., threading.Thread]
) -> None:
    """Carry one stream of a forward, until both ends have ended or the channel is closed."""
    with closed_after(channel):
        back = spawn(_copy_to_channel, target, channel)
        _copy_to_target(channel, target)
        while back.is_alive():
            if channel.closed:
                hang_up(target)
            back.join(_POLL_INTERVAL)


def hang_up(target: socket.socket) -> None:
    """End both directions of a socket, so that no thread waits for it any more."""
    with contextlib.suppress(OSError):  # it has ended already
        target.shutdown(socket.SHUT_RDWR)


def _copy_to_target(channel: paramiko.Channel, target: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the target has closed
        while True:
            data = channel.recv(_CHUNK)
            if not data:
                break
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def _copy_to_channel(target: socket.socket, channel: paramiko.Channel) -> None:
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
        while True:
            data = target.recv(_CHUNK)
            if not data:
                break
            channel.sendall(data)
        channel.shutdown_write()
