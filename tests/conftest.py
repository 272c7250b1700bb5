"""Checks for every test: it leaves nothing behind, and skips nothing that is required."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Dict, Iterator, List, Set, Tuple

import pytest

from tests.common import require_part
from tests.trees import unfinished_files

_PATIENCE = 10.0
"""Seconds that threads and sockets get to go away after a test, on a machine with much to do."""

_SFTP_SERVERS = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server")

_PROCESS_WIDE = (
    "ssh-service-reaper",
    "ssh-service-worker",
    "ssh-service-callbacks",
    "ssh-service-clock",
    "ssh-service-selector",
)
"""Names of threads that the library shares between all caches of the process."""


_OUR_LOGGERS = ("ssh_service", "paramiko")


def _threads() -> Set[threading.Thread]:
    return {
        thread for thread in threading.enumerate() if not thread.name.startswith(_PROCESS_WIDE)
    }


def _sockets() -> Set[str]:
    found: Set[str] = set()
    try:
        descriptors = os.listdir("/proc/self/fd")
    except FileNotFoundError:
        return found
    for descriptor in descriptors:
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            continue  # the one that listed the folder
        if target.startswith("socket:"):
            found.add(target)
    return found


def pytest_configure() -> None:
    """Let Ctrl-C raise, for tests that send it: where they run in the background it is ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Spare the garbage collector thousands of tests, at which it would look each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Fail a test that leaves a thread or a socket which was not there before."""
    threads, sockets = _threads(), _sockets()
    yield
    deadline = time.monotonic() + _PATIENCE
    while True:
        left: List[str] = sorted(repr(thread) for thread in _threads() - threads)
        left += sorted(_sockets() - sockets)
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.01)
    if left:
        pytest.fail(f"the test left behind: {', '.join(left)}", pytrace=False)


def _logging() -> Dict[str, Tuple[int, bool, bool]]:
    """Say of each logger that matters here what is not as it is made."""
    found: Dict[str, Tuple[int, bool, bool]] = {"": (logging.root.level, False, True)}
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and name.partition(".")[0] in _OUR_LOGGERS:
            state = (logger.level, logger.disabled, logger.propagate)
            if state != (logging.NOTSET, False, True):
                found[name] = state
    return found


@pytest.fixture(autouse=True)
def no_changed_logging() -> Iterator[None]:
    """Fail a test after which more is logged than before, or less: others count records."""
    before = _logging()
    yield
    after = _logging()
    if after != before:
        pytest.fail(f"the test changed what is logged: {before} to {after}", pytrace=False)


@pytest.fixture
def user_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the user's home, which has an empty folder .ssh; there is no agent."""
    folder = tmp_path / "home"
    (folder / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return folder


@pytest.fixture(name="target")
def target_in_a_folder_that_must_stay_as_it_is(tmp_path: Path) -> Iterator[Path]:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"precious")
    yield outside / "target"
    assert sorted(set(os.listdir(outside)) - {"target"}) == ["precious"]
    assert (outside / "precious").read_bytes() == b"precious"
    assert not unfinished_files(tmp_path)


@pytest.fixture
def openssh_client() -> None:
    """Skip a test, or fail it where that is required, without OpenSSH's programs for users."""
    for program in ("ssh", "ssh-add", "ssh-agent", "ssh-keygen"):
        reason = f"needs OpenSSH's {program} (Debian: apt install openssh-client)"
        require_part(shutil.which(program), reason)


@pytest.fixture
def sftp_server(request: pytest.FixtureRequest) -> str:
    """Return the path of OpenSSH's sftp-server; without it, skip or fail as without an sshd."""
    found = next(filter(os.path.exists, _SFTP_SERVERS), shutil.which("sftp-server"))
    if found is None:
        missing = "needs OpenSSH's sftp-server (Debian: apt install openssh-sftp-server)"
        (pytest.fail if request.config.getoption("--require-sshd") else pytest.skip)(missing)
    return found
