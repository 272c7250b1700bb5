"""Forwarding on a connection that several users share, by a real server."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any, Callable, Dict

import paramiko
import pytest

from ssh_service.errors import SshSessionRefused
from ssh_service.testing.pytest_plugin import Sshd
from tests.common import PATIENCE, in_threads
from tests.faults.clients import dialled, execute


def test_forwards_of_many_threads_are_not_mixed_up(sshd: Sshd) -> None:
    with dialled(sshd) as transport:

        def use(number: int) -> None:
            text = f"for {number}".encode()

            def answer(channel: paramiko.Channel, *_: Any) -> None:
                channel.sendall(text)
                channel.close()

            for _ in range(3):
                port = transport.request_port_forward("127.0.0.1", 0, answer)
                for _ in range(3):
                    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
                        assert client.recv(100) == text
                transport.cancel_port_forward("127.0.0.1", port)
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection(("127.0.0.1", port), PATIENCE)

        in_threads(6, use)
        assert execute(transport, "echo hello") == (0, b"hello\n")


@pytest.mark.parametrize("given", [str, Path, lambda path: (str(path), 0)])
def test_a_unix_socket_of_the_server_is_reached(
    sshd: Sshd, tmp_path: Path, given: Callable[[Path], Any]
) -> None:
    """Without its fields, the request ended everybody's connection."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener, dialled(sshd) as transport:
        listener.bind(str(path))
        listener.listen()
        channel = transport.open_channel("direct-streamlocal@openssh.com", given(path))
        with listener.accept()[0] as peer:
            channel.sendall(b"hello")
            assert peer.recv(10) == b"hello"
        channel.close()
        with pytest.raises(SshSessionRefused):
            transport.open_channel("direct-streamlocal@openssh.com", str(tmp_path / "nonesuch"))
        with pytest.raises(TypeError, match="path of a socket"):
            transport.open_channel("direct-streamlocal@openssh.com")
        assert execute(transport, "echo hello") == (0, b"hello\n")


@pytest.mark.parametrize("kind", ["tun@openssh.com", "forwarded-streamlocal@openssh.com", "x"])
def test_channel_kind_with_unknown_fields_is_refused(sshd: Sshd, kind: str) -> None:
    with dialled(sshd) as transport:
        with pytest.raises(
            SshSessionRefused, match="cannot open a channel of the unknown type"
        ) as caught:
            transport.open_channel(kind)
        assert isinstance(caught.value, paramiko.ChannelException)
        assert not caught.value.retryable
        assert execute(transport, "echo hello") == (0, b"hello\n")


def test_an_agent_is_forwarded_by_a_handler(sshd: Sshd) -> None:
    asked = threading.Event()
    seen: Dict[str, Any] = {}

    def handler(channel: paramiko.Channel) -> None:
        seen["request"] = channel.makefile("rb").read(5)
        channel.sendall(b"\0\0\0\1\5")  # SSH_AGENT_FAILURE
        channel.close()
        asked.set()

    with dialled(sshd) as transport:
        channel = transport.open_session()
        channel.request_forward_agent(handler)
        channel.exec_command("ssh-add -l; echo over")
        assert asked.wait(PATIENCE)
        assert seen["request"] == b"\0\0\0\1\x0b"  # SSH_AGENTC_REQUEST_IDENTITIES
        channel.settimeout(PATIENCE)
        assert b"over" in b"".join(iter(lambda: channel.recv(100), b""))
