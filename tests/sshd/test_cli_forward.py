"""``ssh-service forward`` against a real server."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Iterator, List

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

from ssh_service.testing.local_sshd import Sshd  # noqa: E402
from tests.common import PATIENCE, eventually  # noqa: E402
from tests.sshd.conftest import make_home  # noqa: E402
from tests.sshd.forward_targets import (  # noqa: E402
    answer_after_eof,
    ask,
    connect,
    read_all,
    target,
)

COMMAND = [sys.executable, "-m", "ssh_service", "forward"]


@pytest.fixture
def home(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let ``web1`` be the server."""
    root = Path(__file__).resolve().parents[2]
    monkeypatch.setenv("PYTHONPATH", f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    make_home(tmp_path, "web1", sshd, monkeypatch)
    yield


class Program:
    """The command, running."""

    def __init__(self, *arguments: str, **options: Any) -> None:
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        self.process = subprocess.Popen(
            [*COMMAND, *arguments, "web1"], universal_newlines=True, **options
        )

    def lines(self, count: int) -> List[str]:
        assert self.process.stdout is not None
        return [self.process.stdout.readline().strip() for _ in range(count)]

    def end(self, number: int = signal.SIGINT) -> "tuple[int, str]":
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            err = self.process.communicate(timeout=PATIENCE)[1]
        finally:
            self.process.kill()
        return self.process.returncode, err


def test_several_forwards_are_printed_and_end_with_ctrl_c(home: None) -> None:
    with target() as server:
        port = server.port
        program = Program(
            "-L", f"0:localhost:{port}", "-R", f"0:localhost:{port}", "-D", "0",
            "-L", f"127.0.0.1:0:127.0.0.1:{port}",
        )  # fmt: skip
        local, second, remote, socks = program.lines(4)
        assert local.endswith(f" -> localhost:{port}") and local.startswith("127.0.0.1:")
        assert remote.startswith("the server's 127.0.0.1:") and socks.endswith("-> SOCKS")
        for line in (local, second, remote):
            assert ask(int(line.split(" -> ")[0].rpartition(":")[2])) == b"hello"
        status, err = program.end()
    assert status == 130
    # The last stream may have been on its way to its end.
    begin = f"ssh-service: {err.split()[1]} connected\n"
    waiting = "ssh-service: interrupted: waiting up to 5 s for 1 stream to end\n"
    assert err in (begin, begin + waiting)


def test_ctrl_c_lets_streams_end(home: None) -> None:
    with target(answer_after_eof) as server:
        program = Program("-L", f"0:localhost:{server.port}")
        port = int(program.lines(1)[0].split(" -> ")[0].rpartition(":")[2])
        with connect(port) as client:
            client.sendall(b"hello")
            eventually(lambda: server.clients, "the stream is open")
            program.process.send_signal(signal.SIGTERM)
            assert "waiting up to 5 s for 1 stream to end" in _read_until(program, "to end")
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == b"5 bytes"
        assert program.end()[0] == 143


def _read_until(program: Program, word: str) -> str:
    assert program.process.stderr is not None
    while True:
        line: str = program.process.stderr.readline()
        assert line, "the program has ended"
        if word in line:
            return line


def test_one_that_fails_at_the_start_ends_all_with_status_1(home: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        program = Program("-L", "0:localhost:1", "-L", f"{port}:localhost:1")
        out, err = program.process.communicate(timeout=PATIENCE)
    assert (program.process.returncode, out) == (1, "")
    assert f"-L {port}:localhost:1: cannot listen on 127.0.0.1:{port}" in err
    assert "Traceback" not in err


def test_losses_and_refusals_are_reported_and_survived(home: None, sshd: Sshd) -> None:
    program = Program("-L", "0:localhost:1")
    port = int(program.lines(1)[0].split(" -> ")[0].rpartition(":")[2])
    try:
        with connect(port) as client:
            client.recv(1)
    except ConnectionResetError:
        pass
    assert "cannot connect to localhost:1" in _read_until(program, "localhost:1")
    sshd.cut()
    assert "connected" not in _read_until(program, "closed the connection")
    _read_until(program, ": connected")
    assert program.end()[0] == 130


def test_a_terminal_shows_counters(home: None) -> None:
    ours, theirs = pty.openpty()
    try:
        with target() as server:
            process = subprocess.Popen(
                [*COMMAND, "-L", f"0:localhost:{server.port}", "web1"],
                stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "COLUMNS": "200"},
            )  # fmt: skip
            seen: List[bytes] = []

            def read() -> None:
                try:
                    while True:
                        seen.append(os.read(ours, 4096))
                except OSError:
                    pass

            threading.Thread(target=read, daemon=True).start()
            eventually(lambda: b"0 streams" in b"".join(seen), "the counters are shown")
            text = b"".join(seen).decode()
            port = int(text.split(" -> ")[0].rpartition(":")[2])
            assert ask(port, bytes(5000)) == bytes(5000)
            eventually(lambda: b"5.0 kB to and 5.0 kB from" in b"".join(seen), "they move")
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 130
    finally:
        os.close(theirs)
        os.close(ours)
