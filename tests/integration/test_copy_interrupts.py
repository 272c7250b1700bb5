"""Ctrl-C at every moment of a download: no descriptor and no unfinished file is left."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import Any, Iterator, List, Optional, Set

import pytest

from ssh_service.copying import temporary
from ssh_service.copying.sftp.server_facts import ServerFacts
from ssh_service.copying.sftp.session import SftpSession
from tests.integration.sftp_processes import real_session
from tests.trees import unfinished_files
from tests.unit.sftp_harness import download

# Where local files are opened, written, renamed and closed.
_MODULES = (
    "target_file.py",
    "target_folder.py",
    "target_tree.py",
    "descriptors.py",
    "resume_marker.py",
)


class Interrupter:
    """Raises KeyboardInterrupt at the n-th line of these modules, as a signal handler may."""

    def __init__(self, at: Optional[int]) -> None:
        self.lines = 0
        self.where: Any = None
        self._at = at

    def __enter__(self) -> Interrupter:
        sys.settrace(self._enter)
        return self

    def __exit__(self, *exc: Any) -> None:
        sys.settrace(None)

    def _enter(self, frame: Any, event: str, arg: Any) -> Any:
        if not frame.f_code.co_filename.endswith(_MODULES):
            return None
        # What is raised while something is collected, Python itself passes over.
        names = {frame.f_code.co_name, frame.f_back.f_code.co_name}
        return None if names & {"__del__", "current_umask"} else self._step

    def _step(self, frame: Any, event: str, arg: Any) -> Any:
        if event == "line":
            self.lines += 1
            if self.lines == self._at:
                self.where = (frame.f_code.co_filename, frame.f_lineno)
                raise KeyboardInterrupt
        return self._step


@pytest.fixture(name="session")
def session_of_a_real_server(sftp_server: str, tmp_path: Path) -> Iterator[SftpSession]:
    with real_session(sftp_server, tmp_path) as session:
        yield session


@pytest.fixture(name="source")
def small_tree(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    (source / "folder").mkdir(parents=True)
    for name in ("a", "folder/b"):
        (source / name).write_bytes(os.urandom(1000))
    (source / "large").write_bytes(os.urandom(300_000))
    return source


def open_files() -> Set[str]:
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add(fd + " " + os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            pass  # that of the listing
    return found


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
@pytest.mark.parametrize("resume", [False, True], ids=["plain", "resume"])
@pytest.mark.parametrize(
    "every", [40, pytest.param(10, marks=pytest.mark.long)], ids=["some", "many"]
)
def test_an_interrupt_at_any_line_leaves_nothing(
    sftp_server: str, tmp_path: Path, source: Path, every: int, resume: bool
) -> None:
    """No descriptor, and no unfinished file but one to be resumed, which nobody claims to use."""
    leaks: List[Any] = []
    at, interrupted = 0, 0
    with real_session(sftp_server, tmp_path) as session:
        download(session, source, tmp_path / "warm")
    while True:
        at += every - 1 if at % 2 else every
        target = tmp_path / f"target{at}"
        with real_session(sftp_server, tmp_path) as session:
            before = open_files()
            try:
                with Interrupter(at) as interrupter:
                    download(session, source, target, resume=resume)
                break
            except KeyboardInterrupt:
                interrupted += 1
            if open_files() - before:
                gc.collect()  # what only a cycle of the traceback's still holds
            after = open_files() - before
        left = {os.path.basename(path) for path in unfinished_files(tmp_path)}
        if after or left & temporary.names._in_use or (left and not resume):
            leaks.append((at, interrupter.where, after, left))
            break
    assert not leaks
    assert interrupted > 200 / every


def test_the_same_process_removes_what_an_interrupt_left(
    session: SftpSession, source: Path, tmp_path: Path
) -> None:
    """A file that was kept for resuming is removed by the next copy that does not resume."""
    at = 0
    while not unfinished_files(tmp_path):
        at += 20
        try:
            with Interrupter(at):
                download(session, source / "large", tmp_path / "copy", resume=True)
        except KeyboardInterrupt:
            session.facts = ServerFacts()
            continue
        pytest.fail("nothing was ever left")
    download(session, source / "a", tmp_path / "other")
    assert not unfinished_files(tmp_path)
