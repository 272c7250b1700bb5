"""Files that the user names: regular ones, pipes, devices."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest

from ssh_service import params
from ssh_service.errors import SshConfigError
from ssh_service.known_hosts.file import KnownHosts
from ssh_service.known_hosts.revoked import load_revoked
from ssh_service.user_files import read_file
from tests.common import PATIENCE, in_threads

CONFIG = b"Host web1\n  User bob\n"


@pytest.fixture
def fifo(tmp_path: Path) -> str:
    path = tmp_path / "fifo"
    os.mkfifo(path, 0o600)
    return str(path)


@pytest.fixture
def pipe() -> Iterator[str]:
    """Return the path of a pipe as the shell's ``<(...)`` gives it; its writer has ended."""
    reading, writing = os.pipe()
    os.write(writing, CONFIG)
    os.close(writing)
    yield f"/dev/fd/{reading}"
    os.close(reading)


def write_later(path: str, *parts: bytes) -> threading.Thread:
    """Write to a pipe in pieces, once it is being read."""

    def write() -> None:
        with open(path, "wb", buffering=0) as file:
            for part in parts:
                file.write(part)

    thread = threading.Thread(target=write)
    thread.start()
    return thread


def user_of(config: str) -> str:
    return params.resolve({"host": "web1", "config": config}).username


@pytest.mark.parametrize(
    "read",
    [user_of, lambda path: KnownHosts.load([path]), load_revoked],
    ids=["config", "known_hosts", "RevokedHostKeys"],
)
def test_a_pipe_without_a_writer_is_an_error_at_once(
    fifo: str, read: Callable[[str], Any]
) -> None:
    errors: List[str] = []

    def use_it() -> None:
        with pytest.raises(SshConfigError) as caught:
            read(fifo)
        errors.append(str(caught.value))

    thread = threading.Thread(target=use_it, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert len(errors) == 1 and "cannot be read: it is a pipe to which nobody" in errors[0]


def test_a_pipe_is_read_until_its_writer_closes_it(fifo: str) -> None:
    """As ssh does; a writer may come a moment later, and write in pieces."""
    writer = write_later(fifo, CONFIG[:12], CONFIG[12:])
    assert user_of(fifo) == "bob"
    writer.join(10)


def test_process_substitution_serves_each_call_of_each_thread(pipe: str) -> None:
    users: List[str] = []
    in_threads(8, lambda _: users.append(user_of(pipe)))
    assert [*users, user_of(pipe)] == ["bob"] * 9


def test_a_named_pipe_is_read_again_when_somebody_has_written_to_it_again(fifo: str) -> None:
    keeper = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)  # or the content would be lost
    try:
        for user in ("bob", "eve"):
            Path(fifo).write_bytes(CONFIG.replace(b"bob", user.encode()))
            assert user_of(fifo) == user
            time.sleep(0.02)  # the time of the next change is another one
    finally:
        os.close(keeper)


def test_a_silent_writer_is_not_awaited_for_ever(
    fifo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssh_service.user_files._SILENCE_TIMEOUT", 0.2)
    writing = os.open(fifo, os.O_RDWR)
    try:
        with pytest.raises(SshConfigError, match="whose writer wrote nothing for 0.2 s"):
            user_of(fifo)
    finally:
        os.close(writing)


def test_the_null_device_is_an_empty_file_and_others_are_refused() -> None:
    assert read_file(os.devnull) == b""
    with pytest.raises(SshConfigError, match="not a regular file, a pipe or /dev/null"):
        user_of("/dev/zero")
