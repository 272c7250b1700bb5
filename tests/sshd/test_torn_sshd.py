"""Ctrl-C at a random moment of a call, on a real server."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Type

import pytest

from ssh_service import SshClientCache, download, run, start, upload
from ssh_service.testing.local_sshd import Sshd
from tests.common import PATIENCE, Outcome, eventually

pytestmark = [
    pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs pthread_kill"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@contextlib.contextmanager
def alarm(handler: Callable[..., None]) -> Iterator[None]:
    """Have SIGALRM handled so, for a while."""
    before = signal.signal(signal.SIGALRM, handler)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def torn_after(seconds: float, call: Callable[[], Any]) -> bool:
    """Make a call and press Ctrl-C after some seconds; tell whether it came before the end."""
    main = threading.main_thread()
    assert threading.current_thread() is main
    over, armed = threading.Event(), [True]

    def handler(number: int, frame: Any) -> None:
        if armed and not over.is_set():
            armed.clear()
            raise KeyboardInterrupt

    def press() -> None:
        pause = seconds
        while not over.wait(pause):
            signal.pthread_kill(main.ident, signal.SIGINT)  # type: ignore[arg-type]
            pause = 2.0
            if not over.wait(pause):
                armed.append(True)  # a destructor swallowed the first

    before = signal.signal(signal.SIGINT, handler)
    thread = threading.Thread(target=press, name="ctrl-c", daemon=True)
    try:
        thread.start()
        call()
    except KeyboardInterrupt:
        return True
    finally:
        over.set()
        thread.join(PATIENCE)
        signal.signal(signal.SIGINT, before)
    return False


def sleepers(tag: str) -> List[str]:
    """Return the processes that run ``sleep`` with such an argument."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        except (OSError, UnicodeDecodeError):
            continue
        if words[0] == "sleep" and len(words) > 1 and words[1].startswith(tag):
            found.append(pid)
    return found


def tear_runs(count: int, sshd: Sshd, cache: SshClientCache) -> None:
    web: Dict[str, Any] = sshd.connect_params
    rng = random.Random(11)
    tag = f"47{os.getpid()}."  # seconds that nobody else sleeps
    innocent = Outcome(lambda: run(web, "cat", stdin="safe", on_stdout=None, cache=cache))
    assert innocent.wait().value.stdout == "safe"
    with start(web, "read line; echo $line", cache=cache) as beside:
        for number in range(count):
            # Most end by themselves, as to end one takes a second.
            script = f"exec sleep {tag}{number:05}" if number % 8 < 2 else "sleep 0.05"
            if number % 2:
                torn_after(rng.uniform(0, 0.012), lambda: run(web, script, cache=cache))
            else:
                torn_after(rng.uniform(0, 0.012), lambda: start(web, script, cache=cache).result())
            if number % 8 == 2:
                assert run(web, "echo hello", cache=cache, timeout=PATIENCE).stdout == "hello\n"
                eventually(lambda: not sleepers(tag), "what was torn is ended over there")
        beside.write("still here\n")
        assert beside.result(PATIENCE).stdout == "still here\n"
    eventually(lambda: not sleepers(tag), "the commands of torn calls are ended over there")
    eventually(lambda: cache.stats()["leases"] == 0, "no lease is left")
    assert sshd.logins() == 1, "one that others used was ended"
    commands = [lambda: run(web, "sleep 0.2", cache=cache, timeout=PATIENCE) for _ in range(8)]
    for outcome in [Outcome(command) for command in commands]:  # and no session is missing
        assert outcome.wait().error is None
    assert sshd.logins() == 1


def test_a_run_torn_at_random_moments_harms_nobody_and_is_ended(
    sshd: Sshd, cache: SshClientCache
) -> None:
    """200 moments; another command and its connection are not affected."""
    tear_runs(200, sshd, cache)


def test_a_copy_torn_at_random_moments_leaves_the_destination_usable(
    sshd: Sshd, cache: SshClientCache, tmp_path: Path
) -> None:
    """Whatever becomes of its connection, what comes next is served."""
    web: Dict[str, Any] = sshd.connect_params
    source, there, back = tmp_path / "source", tmp_path / "there", tmp_path / "back"
    source.write_bytes(os.urandom(300_000))
    rng = random.Random(12)
    for number in range(20):
        way = (
            (lambda: upload(web, source, there, cache=cache))
            if number % 2
            else (lambda: download(web, source, back, cache=cache))
        )
        torn_after(rng.uniform(0, 0.04), way)
        if number % 5 == 0:
            assert run(web, "echo hello", cache=cache, timeout=PATIENCE).stdout == "hello\n"
    upload(web, source, there, cache=cache)
    assert there.read_bytes() == source.read_bytes()
    eventually(lambda: cache.stats()["leases"] == 0, "no lease is left")
    assert cache.stats()["waiting"] == 0


@pytest.mark.parametrize("kind", [RuntimeError, TimeoutError])
@pytest.mark.parametrize("on_error", ["stop", "continue"])
def test_time_limit_of_a_task_queue_ends_a_copy_as_it_is(
    sshd: Sshd, cache: SshClientCache, tmp_path: Path, kind: Type[Exception], on_error: str
) -> None:
    """The exception of the signal's handler comes through, and is not taken for a lost network."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("a", "b", "c"):
        (source / name).write_bytes(os.urandom(2_000_000))
    rng = random.Random(4)

    def handler(*_: object) -> None:
        raise kind("time is up")

    torn = 0
    with alarm(handler):
        for number in range(20):
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.005, 0.06))
                try:
                    upload(
                        sshd.connect_params,
                        source,
                        tmp_path / f"there{number % 4}",
                        contents=True,
                        on_error=on_error,
                        timeout=PATIENCE,
                        cache=cache,
                    )
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except kind as error:
                assert type(error) is kind, error
                torn += 1
    assert torn > 3
    upload(sshd.connect_params, source / "a", tmp_path / "after", cache=cache)
    assert (tmp_path / "after").read_bytes() == (source / "a").read_bytes()


PROGRAM = """
import json, signal, sys
from ssh_service import run

signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it may be ignored

web, script = json.loads(sys.argv[1]), sys.argv[2]
run(web, script, on_stdout=lambda text: print(text, end="", flush=True))
"""


@pytest.mark.parametrize("trap", ["", "trap '' TERM;"])
def test_ctrl_c_of_a_whole_program_ends_its_command(sshd: Sshd, trap: str) -> None:
    """Though the interpreter ends right after it, and to end one takes several round trips."""
    tag = f"48{os.getpid()}."
    script = f"{trap} echo begun; sleep {tag}; sleep {tag}"
    arguments = [sys.executable, "-c", PROGRAM, json.dumps(sshd.connect_params), script]
    pipe = subprocess.PIPE
    with subprocess.Popen(arguments, stdout=pipe, stderr=pipe) as program:
        try:
            assert program.stdout is not None
            assert program.stdout.readline() == b"begun\n"
            eventually(lambda: bool(sleepers(tag)), "the command runs")
            program.send_signal(signal.SIGINT)
            _, said = program.communicate(timeout=PATIENCE)
        finally:
            program.kill()
    assert b"KeyboardInterrupt" in said
    assert sleepers(tag) == []
