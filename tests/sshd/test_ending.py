"""Commands that are given up are ended over there, however many there are."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest

from ssh_service import SshClientCache, operations, run, start
from ssh_service.errors import SshCommandCancelled, SshCommandTimeout
from ssh_service.testing.pytest_plugin import Sshd
from tests.common import PATIENCE, Outcome, eventually, skip_without_terminals, wait_for_proof


class Sleepers:
    """Commands of a test's own, which sleep for a number of seconds that nobody else does."""

    def __init__(self) -> None:
        self.tag = f"49{os.getpid()}."

    def script(self, number: int) -> str:
        return f"exec sleep {self.tag}{number:05}"

    def left(self) -> List[int]:
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[0] == b"sleep" and words[1].startswith(self.tag.encode()):
                found.append(int(pid))
        return found


@pytest.fixture
def sleepers() -> Iterator[Sleepers]:
    """Give them; what is left of them does not outlive the test."""
    sleepers = Sleepers()
    yield sleepers
    for pid in sleepers.left():
        os.kill(pid, 9)


def test_commands_that_time_out_among_many_others_are_all_ended(
    sshd: Sshd, cache: SshClientCache, sleepers: Sleepers
) -> None:
    """As root their processes are found by a list, while others begin and end all the time."""
    web: Dict[str, Any] = sshd.connect_params
    rng = random.Random(7)
    futures = []
    for number in range(80):
        timeout = rng.uniform(0.3, 1.3)
        futures.append(operations.submit(cache, web, sleepers.script(number), timeout=timeout))
        operations.submit(cache, web, f"sleep {rng.uniform(0, 0.1)}").add_done_callback(id)
        time.sleep(0.01)
    errors = [future.exception(PATIENCE) for future in futures]
    assert {type(error) for error in errors} == {SshCommandTimeout}
    eventually(lambda: not sleepers.left(), "they end, also those whose outcome did not wait")


def test_signal_right_after_the_start_is_not_lost(
    sshd: Sshd, cache: SshClientCache, sleepers: Sleepers
) -> None:
    """The server loses it until the new process leads a process group."""
    web: Dict[str, Any] = sshd.connect_params
    run(web, "true", cache=cache)
    for name in ("TERM", "KILL"):
        begun = [start(web, sleepers.script(number), cache=cache) for number in range(8)]
        for process in begun:
            process.signal(name)
        signals = [process.result(PATIENCE).exit_signal for process in begun]
        assert [signal and signal[0] for signal in signals] == [name] * 8


@pytest.mark.parametrize("limit", [1, 2])
def test_commands_on_a_full_connection_in_hand_are_ended(
    limit: int,
    sshd_factory: Callable[..., Sshd],
    cache: SshClientCache,
    sleepers: Sleepers,
) -> None:
    """Ending them needs a session, and they hold all of them."""
    sshd = sshd_factory({"MaxSessions": limit})
    with cache.lease(sshd.connect_params) as (transport, _):
        assert run(sshd.connect_params, "echo spare", cache=cache, timeout=PATIENCE).stdout
        for number in range(10):
            with pytest.raises(SshCommandTimeout):
                run(transport, sleepers.script(number), timeout=0.02 + 0.002 * number)
        eventually(lambda: not sleepers.left(), "they end")
        calls = [
            Outcome(lambda: run(transport, sleepers.script(99), timeout=1.0)) for _ in range(limit)
        ]
        for call in calls:
            assert isinstance(call.wait().error, SshCommandTimeout)
        eventually(lambda: not sleepers.left(), "they end")
        assert run(transport, "echo next", timeout=PATIENCE).stdout == "next\n"


def test_what_ignores_the_hangup_of_a_terminal_has_ended_when_the_error_says_so(
    sshd: Sshd, cache: SshClientCache, sleepers: Sleepers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server closes the session as soon as the shell, which heeds signals, has ended."""
    skip_without_terminals()
    script = f"(trap '' TERM HUP; {sleepers.script(1)}); :"

    wait_for_proof(monkeypatch)
    process = start(sshd.connect_params, script, pty=True, cache=cache)
    eventually(sleepers.left, "it runs")
    process.future.cancel()
    error = process.future.exception(PATIENCE)
    assert isinstance(error, SshCommandCancelled)
    assert error.ended is True and not sleepers.left()


@pytest.mark.parametrize("where", ["function", "module"])
def test_a_dropped_command_warns_of_what_happens_to_it(
    sshd: Sshd, sleepers: Sleepers, where: str
) -> None:
    """In a function it is ended; a handle that outlives the program leaves it running."""
    begin = f"h = start({sshd.connect_params!r}, 'echo begun; {sleepers.script(1)}')"
    take = "next(iter(h.lines()))"
    code = f"from ssh_service import start\ndef main():\n    {begin}\n    {take}\nmain()\n"
    if where == "module":
        code = f"from ssh_service import start\n{begin}\n{take}\n"
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code],
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=PATIENCE,
    )
    if where == "module":
        assert "which may still run on the host" in done.stderr
        assert "is ended" not in done.stderr
        assert sleepers.left()
    else:
        assert "a running command was dropped, and is ended" in done.stderr
        eventually(lambda: not sleepers.left(), "it is ended")
