"""Tests in this folder use no sockets and no processes; tests that do are in tests/integration."""

from __future__ import annotations

import os
import socket
import subprocess
from typing import Any, Callable, Iterator, List

import pytest


@pytest.fixture(autouse=True)
def no_sockets_and_no_processes() -> Iterator[None]:
    """
    Fail a test that opens a socket, looks up a host name, or starts a process.

    The ends of `socket.socketpair` are allowed: they have no address, and nothing but the test can
    reach them.
    """
    used: List[str] = []
    init = socket.socket.__init__

    def refuse(name: str) -> Callable[..., Any]:
        def refused(*_: object, **__: object) -> Any:
            used.append(name)
            raise AssertionError(f"{name}: a test that needs it belongs in tests/integration")

        return refused

    def init_of_a_pair(self: socket.socket, *arguments: Any, **named: Any) -> None:
        if len(arguments) < 4 and named.get("fileno") is None:
            refuse("socket.socket")()
        init(self, *arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "__init__", init_of_a_pair)
        patch.setattr(socket, "getaddrinfo", refuse("socket.getaddrinfo"))
        patch.setattr(subprocess.Popen, "__init__", refuse("subprocess.Popen"))
        for name in ("fork", "forkpty", "system"):
            patch.setattr(os, name, refuse(f"os.{name}"))
        yield
    # Where the code under test, or another thread, has caught the error.
    if used:
        pytest.fail(f"the test used {', '.join(used)}: it belongs in tests/integration")


@pytest.fixture(autouse=True)
def no_held_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send signals at once, also to commands that have just been started."""
    from ssh_service.commands.process_group import RemoteGroup

    monkeypatch.setattr(RemoteGroup, "may_miss_signals", False)
