"""Helpers for the tests of all folders: waiting, calls on threads, processes."""

from __future__ import annotations

import concurrent.futures
import functools
import grp
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, List, Optional, Union

import pytest

PATIENCE = 30.0
"""Seconds after which a test gives up what must come, on a machine with much to do."""

# What `ssh_service.paramiko.configure` sets back.
DROP_IN_DEFAULTS: Any = {"linger": 60.0, "share": None, "cache": None}

SUDO_AS_IT_IS = 'sudo() { [ "$1" = -n ] && shift && "$@"; }\n'
"""In front of a script that may ask for sudo: what a user may do with it here must not matter."""


class Outcome:
    """A call on a thread of its own: what it returned or raised, and how long it took."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.value: Any = None
        self.error: Optional[BaseException] = None
        self._call = call
        self._ended_at = 0.0
        self._thread = threading.Thread(target=self._run, name="outcome", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.value = self._call()
        except BaseException as error:
            self.error = error
        self._ended_at = time.monotonic()

    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def wait(self, timeout: float = PATIENCE) -> "Outcome":
        """Wait for its end, which must come."""
        self._thread.join(timeout)
        assert self.is_over(), f"still blocked after {timeout:g} s"
        return self

    def after(self, instant: float) -> float:
        """Say how many seconds after an instant it ended."""
        return self._ended_at - instant


def require_part(condition: object, reason: str) -> None:
    """
    Skip the test where a part of the machine is missing.

    CI installs every part, and sets ``SSH_SERVICE_REQUIRE_PARTS=1``: there a missing part is a
    failure, so that no test is passed over unseen.  What cannot be installed (a privilege, a
    kernel's feature) is a plain ``pytest.skip``.

    Parameters
    ----------
    condition : object
        True where the part is there.
    reason : str
        What the test needs, and how to get it.
    """
    __tracebackhide__ = True
    if condition:
        return
    if os.environ.get("SSH_SERVICE_REQUIRE_PARTS", "") not in ("", "0"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def refuse_threads(patch: pytest.MonkeyPatch, name: str = "") -> None:
    """Let no thread (whose name begins so) be started, as a system does that has no more."""
    refused: "concurrent.futures.Future[None]" = concurrent.futures.Future()
    # Raised in the standard library: from a function of the test's it would be an interruption.
    refused.set_exception(RuntimeError("can't start new thread"))
    start = threading.Thread.start

    def start_or_refuse(self: threading.Thread) -> None:
        if self.name.startswith(name):
            refused.result()
        start(self)

    patch.setattr(threading.Thread, "start", start_or_refuse)


def skip_without_terminals() -> None:
    """Skip the test where this user's own sshd cannot hand out terminals."""
    if os.geteuid() == 0:
        return
    ours, theirs = os.openpty()
    group = os.fstat(theirs).st_gid
    os.close(ours)
    os.close(theirs)
    try:
        wanted = grp.getgrnam("tty").gr_gid
    except KeyError:  # then sshd leaves them as they are
        return
    if group != wanted:  # sshd changes it, which takes root
        pytest.skip(
            "terminals do not belong to the group tty here: /dev/pts is mounted without gid"
        )


def find_program(name: str) -> Optional[str]:
    """Return the path of a program; servers are where an ordinary user's PATH does not lead."""
    path = os.environ.get("PATH", os.defpath)
    return shutil.which(
        name, path=os.pathsep.join([path, "/usr/local/sbin", "/usr/sbin", "/sbin"])
    )


def in_threads(count: int, work: Callable[[int], None], timeout: float = 120.0) -> None:
    """Do the same in many threads, and raise what the first of them raised."""
    outcomes = [Outcome(functools.partial(work, number)) for number in range(count)]
    for outcome in outcomes:
        outcome.wait(timeout)
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error


def within(bound: float, began: float) -> None:
    """Assert that no more time has passed than twice a promised bound and a second."""
    took = time.monotonic() - began
    assert took <= 2 * bound + 1, f"{took:.2f} s where {bound:g} s were promised"


def eventually(condition: Callable[[], Any], what: str = "it comes to pass") -> None:
    """Wait for something that has no event."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE:g} s"
        time.sleep(0.01)


def is_running(pid: Union[int, str]) -> bool:
    """Say whether a process is there, and is no zombie."""
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have commands that are ended wait for the script that ends them, however busy it is here."""
    from ssh_service.commands import command, termination

    monkeypatch.setattr(termination, "_TERM_TIMEOUT", PATIENCE)
    monkeypatch.setattr(command, "_HELPER_TIMEOUT", PATIENCE)


def resident() -> int:
    """Return the bytes of memory this process holds."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors() -> int:
    """Return how many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


def run_python(
    code: str, *args: Union[str, float], timeout: float = 60.0
) -> "subprocess.CompletedProcess[str]":
    """Run a program in an interpreter of its own, with this folder's parent importable."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *map(str, args)],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=timeout,
    )


def replace_in_place(path: Path, text: str) -> None:
    """Overwrite a file by text of its size, and set back the time of its last modification."""
    before = os.stat(path)
    assert len(text.encode()) == before.st_size

    def is_changed() -> bool:
        path.write_text(text)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        after = os.stat(path)
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
        return after.st_ctime_ns != before.st_ctime_ns  # it has steps of some milliseconds

    eventually(is_changed, "the file's time of change moves on")


def assert_no_frame_knows(error: BaseException, secret: str) -> None:
    """Search the locals of all frames but the tests' own, along the chain of errors."""
    queue: List[BaseException] = [error]
    frames = 0
    while queue:
        one = queue.pop()
        queue += [e for e in (one.__cause__, one.__context__) if e is not None]
        traceback = one.__traceback__
        while traceback is not None:
            frame = traceback.tb_frame
            if "/tests/" not in frame.f_code.co_filename:
                frames += 1
                for name, value in frame.f_locals.items():
                    assert secret not in repr(value), f"{name} in {frame.f_code}"
            traceback = traceback.tb_next
    assert frames, "a traceback without a frame of the package"
