"""Commands on a real server: outputs, fates, limits, and many at once."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError, wait
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest

from ssh_service import SshClientCache, operations, run, start
from ssh_service.errors import (
    SshCommandCancelled,
    SshCommandTimeout,
    SshConnectionLost,
    SshConnectTimeout,
    SshOutputLimitError,
)
from ssh_service.testing.local_sshd import Sshd
from ssh_service.testing.pytest_plugin import FaultProxy
from tests.common import PATIENCE, eventually, in_threads, is_running, within
from tests.faults.clients import params_for


@pytest.fixture
def web(sshd: Sshd) -> Dict[str, Any]:
    return sshd.connect_params


def test_a_cache_that_is_given_is_used_even_while_it_is_empty(
    web: Dict[str, Any], cache: SshClientCache
) -> None:
    run(web, "true", cache=cache, timeout=PATIENCE)
    assert cache.stats()["dials"] == 1 and len(cache) == 1


# --- many at once ----------------------------------------------------------------------------


def test_sixteen_threads_put_a_thousand_commands_on_one_connection(
    sshd: Sshd, web: Dict[str, Any], cache: SshClientCache
) -> None:
    """Every output and exit status is right, and there is one login."""
    wrong: List[Any] = []

    def work(number: int) -> None:
        for turn in range(number, 1000, 16):
            process = run(web, f"echo {turn}; exit {turn % 7}", cache=cache, timeout=PATIENCE)
            if (process.stdout, process.exit_status) != (f"{turn}\n", turn % 7):
                wrong.append((turn, process))

    in_threads(16, work)
    assert wrong == []
    assert sshd.logins() == 1


@pytest.mark.long
def test_behind_max_sessions_10_none_is_refused(
    sshd_factory: Callable[..., Sshd], cache: SshClientCache
) -> None:
    """24 threads, 2,400 commands, at most four logins."""
    sshd = sshd_factory({"MaxSessions": 10})
    wrong: List[Any] = []

    def work(number: int) -> None:
        for turn in range(100):
            text = f"{number}-{turn}"
            process = run(sshd.connect_params, f"echo {text}; exit 3", cache=cache, timeout=60)
            if (process.stdout, process.exit_status) != (f"{text}\n", 3):
                wrong.append((text, process))

    in_threads(24, work)
    assert wrong == []
    assert sshd.logins() <= 4


@pytest.mark.parametrize("limit", [1, 2, 10])
def test_fifty_callers_are_served_with_any_max_sessions(
    limit: int, sshd_factory: Callable[..., Sshd], cache: SshClientCache
) -> None:
    sshd = sshd_factory({"MaxSessions": limit})
    futures = [
        operations.submit(cache, sshd.connect_params, f"sleep 0.05; echo {number}", timeout=60)
        for number in range(50)
    ]
    assert [future.result(60).stdout for future in futures] == [f"{n}\n" for n in range(50)]
    assert sshd.logins() <= 4


def test_submitting_is_quick_and_a_waiting_command_holds_no_thread(
    web: Dict[str, Any], cache: SshClientCache
) -> None:
    """400 sleeping commands on one host, behind 100 sessions."""
    run(web, "true", cache=cache, timeout=PATIENCE)
    began, before = time.monotonic(), threading.active_count()
    futures = [operations.submit(cache, web, "sleep 1") for _ in range(400)]
    assert time.monotonic() - began < 2 * 2 + 1
    assert threading.active_count() - before <= 40
    for future in futures:
        future.cancel()
    wait(futures, timeout=60)
    assert all(future.done() for future in futures)


# --- what comes back -------------------------------------------------------------------------


@pytest.mark.parametrize("status", [0, 1, 4, 5, 44, 127, 255])
def test_exit_status_is_reported(status: int, web: Any, cache: SshClientCache) -> None:
    assert run(web, f"exit {status}", cache=cache, timeout=PATIENCE).exit_status == status


@pytest.mark.parametrize("name, number", [("KILL", 9), ("TERM", 15), ("SEGV", 11)])
def test_ended_by_signal_is_reported_as_such(
    name: str, number: int, web: Any, cache: SshClientCache
) -> None:
    process = run(web, f"echo before; kill -s {name} $$", cache=cache, timeout=PATIENCE)
    assert process.exit_signal is not None and process.exit_signal[0] == name
    assert (process.exit_status, process.returncode) == (-1, -number)
    assert process.stdout == "before\n"


def test_both_streams_come_whole(web: Any, cache: SshClientCache) -> None:
    """Neither stream holds up the other."""
    size = 5_000_000
    script = f"head -c {size} /dev/zero & head -c {size} /dev/zero >&2; wait"
    process = run(web, script, cache=cache, timeout=60)
    assert (len(process.stdout_bytes), len(process.stderr_bytes)) == (size, size)
    assert set(process.stdout_bytes) == set(process.stderr_bytes) == {0}


def test_bytes_that_are_not_utf8_are_escaped_and_kept(web: Any, cache: SshClientCache) -> None:
    process = run(web, r"printf '\303\244\377\n'", cache=cache, timeout=PATIENCE)
    assert (process.stdout, process.stdout_bytes) == ("\u00e4\\xff\n", b"\xc3\xa4\xff\n")


def test_stdin_is_at_its_end_from_the_start(web: Any, cache: SshClientCache) -> None:
    assert run(web, "cat; echo done", cache=cache, timeout=PATIENCE).stdout == "done\n"


def test_values_reach_the_script_to_the_letter_and_no_process_list(
    web: Any, cache: SshClientCache
) -> None:
    value = 'it\'s $HOME `id` "q" \\n\n* \u00e4'
    script = ['printf %s "$VALUE"', "tr '\\0' '\\n' < /proc/$$/cmdline >&2"]
    process = run(web, script, env={"VALUE": value, "N": 1}, cache=cache, timeout=PATIENCE)
    assert process.stdout == value
    assert "it's" not in process.stderr


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("env", [{}, {"A": "b"}], ids=["exec", "stdin"])
def test_run_lines_of_a_file_as_the_file_itself(
    end: str, env: Dict[str, str], tmp_path: Path, web: Any, cache: SshClientCache
) -> None:
    """Heredocs, blank lines and continuations survive `open` and `readlines`."""
    text = "cat <<'EOF'\none\n\n  two\nEOF\necho con\\\ntinued\n[ $# = 0 ] && echo last\n"
    file = tmp_path / "script.sh"
    file.write_bytes(text.replace("\n", end).encode())
    expected = "one\n\n  two\ncontinued\nlast\n"
    with open(file, newline="") as lines:  # as it is, with its line ends
        assert run(web, lines, env=env, cache=cache, timeout=PATIENCE).stdout == expected
    with open(file, newline="") as lines:
        script = lines.readlines()
    assert script[0].endswith(end)
    for form in (script, "".join(script), "".join(script).split(end)):
        process = run(web, form, env=env, cache=cache, timeout=PATIENCE)
        assert (process.stdout, process.stderr) == (expected, "")


def test_a_script_of_a_megabyte_runs(web: Any, cache: SshClientCache) -> None:
    script = "\n".join([f": {'x' * 100}"] * 10_000) + "\necho done"
    assert run(web, script, cache=cache, timeout=60).stdout == "done\n"


def test_output_beyond_memory_can_be_streamed(web: Any, cache: SshClientCache) -> None:
    pieces: List[int] = []
    script = "head -c 20000000 /dev/zero"
    run(
        web,
        script,
        on_stdout=lambda piece: pieces.append(len(piece)),
        encoding=None,
        cache=cache,
        timeout=60,
    )
    assert sum(pieces) == 20_000_000


MEASURED = """
import json, resource, sys
from ssh_service import run

params, size = json.loads(sys.argv[1]), int(sys.argv[2])

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def take(size):
    return run(params, f"yes 0123456789abcdef | head -c {size}", timeout=240).stdout

take(1 << 20)
before = peak()
text = take(size)
assert len(text) == size and text.startswith("0123456789abcdef\\n")
print((peak() - before) / size)
"""


def memory_for_output(web: Dict[str, Any], size: int) -> float:
    """Tell how many times its size an output takes, as bytes and as text, at the worst moment."""
    arguments = [sys.executable, "-c", MEASURED, json.dumps(web), str(size)]
    done = subprocess.run(arguments, stdout=subprocess.PIPE, check=True, timeout=300)
    return float(done.stdout)


def test_collected_output_takes_little_more_than_its_bytes_and_its_text(web: Any) -> None:
    assert memory_for_output(web, 48 << 20) <= 2.2 + 0.2  # the interpreter's own needs, too


@pytest.mark.long
def test_a_gibibyte_of_output_takes_at_most_2_2_times_its_size(web: Any) -> None:
    assert memory_for_output(web, 1 << 30) <= 2.2


def test_a_command_answers_line_by_line_while_it_runs(web: Any, cache: SshClientCache) -> None:
    with start(web, "while read line; do echo got $line; done", cache=cache) as process:
        lines = process.lines()
        for word in ("one", "two"):
            process.write(f"{word}\n", timeout=PATIENCE)
            assert next(lines) == f"got {word}\n"
        process.close_stdin()
        assert list(lines) == []
        assert process.result(PATIENCE).exit_status == 0


def test_the_outcome_has_what_was_not_taken_line_by_line(web: Any, cache: SshClientCache) -> None:
    process = start(web, "printf '1\\n2\\n3\\n'; echo 4 >&2", cache=cache)
    assert next(process.lines()) == "1\n"
    outcome = process.result(PATIENCE)
    assert (outcome.stdout, outcome.stderr) == ("2\n3\n", "4\n")
    process = start(web, "printf '1\\n2\\n'; echo 3 >&2; sleep 100", cache=cache)
    assert (next(process.lines()), next(process.stderr_lines())) == ("1\n", "3\n")
    process.future.cancel()
    error = process.future.exception(PATIENCE)
    assert isinstance(error, SshCommandCancelled) and error.process is not None
    assert (error.process.stdout, error.process.stderr) == ("2\n", "")


# --- fates -----------------------------------------------------------------------------------


def test_timeout_ends_the_process_and_returns_its_output(web: Any, cache: SshClientCache) -> None:
    """As root the process is ended over a second session."""
    began = time.monotonic()
    with pytest.raises(SshCommandTimeout) as caught:
        run(web, "echo $$; sleep 100 & wait", timeout=1, cache=cache)
    assert time.monotonic() - began < 2 * 3 + 1
    assert caught.value.ended is True and caught.value.process is not None
    pid = int(caught.value.process.stdout)
    eventually(lambda: not is_running(pid), "the remote process ends")
    assert run(web, "echo next", cache=cache, timeout=PATIENCE).stdout == "next\n"


def test_a_process_that_ignores_term_is_killed(web: Any, cache: SshClientCache) -> None:
    """It is always killed; a busy machine may take longer than the outcome waits for the news."""
    script = "trap '' TERM HUP; echo $$; while :; do sleep 0.1; done"

    def is_told() -> bool:
        began = time.monotonic()
        with pytest.raises(SshCommandTimeout) as caught:
            run(web, script, timeout=1, cache=cache)
        within(1 + 2, began)
        assert caught.value.process is not None
        pid = int(caught.value.process.stdout)
        eventually(lambda: not is_running(pid), "the remote process ends")
        return caught.value.ended is True

    assert any(is_told() for _ in range(4)), "four were killed, and none was told in time"


def test_time_outs_cost_the_server_no_session(
    sshd_factory: Callable[..., Sshd], cache: SshClientCache
) -> None:
    sshd = sshd_factory({"MaxSessions": 2})
    futures = [
        operations.submit(cache, sshd.connect_params, "sleep 100", timeout=0.5, max_connections=1)
        for _ in range(2)
    ]
    assert [type(future.exception(PATIENCE)) for future in futures] == [SshCommandTimeout] * 2
    for _ in range(4):
        assert run(
            sshd.connect_params, "echo ok", cache=cache, timeout=PATIENCE, max_connections=1
        ).stdout


def test_the_clock_covers_the_queue(
    sshd_factory: Callable[..., Sshd], cache: SshClientCache
) -> None:
    sshd = sshd_factory({"MaxSessions": 1})
    holder = operations.submit(cache, sshd.connect_params, "sleep 3", max_connections=1)
    run_one = operations.submit(
        cache, sshd.connect_params, "echo never", timeout=0.5, max_connections=1
    )
    error = run_one.exception(PATIENCE)
    assert isinstance(error, (SshCommandTimeout, SshConnectTimeout))
    assert error.phase != "run" and getattr(error, "process", None) is None
    assert holder.result(PATIENCE).exit_status == 0


def test_cancelling_ends_the_remote_process(web: Any, cache: SshClientCache) -> None:
    process = start(web, "echo $$; sleep 100 & wait", cache=cache)
    pid = int(next(process.lines()))
    assert process.future.cancel() is True
    with pytest.raises(CancelledError) as caught:
        process.future.result(PATIENCE)
    assert isinstance(caught.value, SshCommandCancelled) and caught.value.ended is True
    assert isinstance(process.future.exception(), SshCommandCancelled)
    assert process.future.cancelled() and not process.future.cancel()
    eventually(lambda: not is_running(pid), "the remote process ends")


def test_endless_output_is_cut_at_its_limit(web: Any, cache: SshClientCache) -> None:
    with pytest.raises(SshOutputLimitError) as caught:
        run(web, "yes", max_output=100_000, cache=cache, timeout=PATIENCE)
    assert caught.value.process is not None
    assert len(caught.value.process.stdout_bytes) == 100_000
    assert caught.value.ended is True
    assert run(web, "echo next", cache=cache, timeout=PATIENCE).stdout == "next\n"


def test_cut_fails_all_thirty_commands_with_their_output(
    sshd: Sshd, fault_proxy: Callable[..., FaultProxy], cache: SshClientCache
) -> None:
    proxy = fault_proxy(sshd.host, sshd.port)
    web = params_for(sshd, proxy)
    processes = [start(web, f"echo {number}; sleep 20", cache=cache) for number in range(30)]
    assert [next(process.lines()) for process in processes] == [f"{n}\n" for n in range(30)]
    began = time.monotonic()
    proxy.cut()
    errors = [process.future.exception(PATIENCE) for process in processes]
    assert time.monotonic() - began < 2 * 0.5 + 1
    assert {type(error) for error in errors} == {SshConnectionLost}
    assert all(error.sent and error.phase == "run" for error in errors)  # type: ignore[union-attr]
    assert len({id(error) for error in errors}) == 30  # each its own, not one shared object
    assert run(web, "echo back", cache=cache, timeout=PATIENCE).stdout == "back\n"


def test_the_output_so_far_comes_with_the_loss(
    sshd: Sshd, fault_proxy: Callable[..., FaultProxy], cache: SshClientCache, tmp_path: Any
) -> None:
    proxy = fault_proxy(sshd.host, sshd.port)
    flag = tmp_path / "written"
    script = f"echo so far; echo and so far >&2; touch {flag}; sleep 20"
    future = operations.submit(cache, params_for(sshd, proxy), script)
    eventually(flag.exists, "the command has written")
    # What it wrote left the server before this answer does.
    run(params_for(sshd, proxy), "sleep 0.2", cache=cache, timeout=PATIENCE)
    proxy.cut()
    error = future.exception(PATIENCE)
    assert isinstance(error, SshConnectionLost) and error.process is not None
    assert (error.process.stdout, error.process.stderr) == ("so far\n", "and so far\n")
    assert error.process.exit_status is None and error.process.returncode is None


def test_a_connection_found_dead_is_replaced_silently(
    sshd: Sshd, web: Any, cache: SshClientCache
) -> None:
    """Nothing was sent on it yet."""
    for turn in range(20):
        assert run(web, f"echo {turn}", cache=cache, timeout=PATIENCE).stdout == f"{turn}\n"
        sshd.cut()
    assert sshd.logins() <= 21


def test_a_restarted_server_is_found_again(
    sshd_factory: Callable[..., Sshd], cache: SshClientCache
) -> None:
    sshd = sshd_factory()
    assert run(sshd.connect_params, "echo one", cache=cache, timeout=PATIENCE).stdout
    sshd.restart()
    assert run(sshd.connect_params, "echo two", cache=cache, timeout=PATIENCE).stdout == "two\n"


def test_a_warm_command_costs_one_round_trip(
    sshd: Sshd, fault_proxy: Callable[..., FaultProxy], cache: SshClientCache
) -> None:
    """One, not two, as a session is open already: a round trip of 200 ms, with slack."""
    proxy = fault_proxy(sshd.host, sshd.port)
    web = params_for(sshd, proxy)
    run(web, "true", cache=cache, timeout=PATIENCE)
    proxy.delay = 0.1
    run(web, "true", cache=cache, timeout=PATIENCE)
    took = []
    for _ in range(5):
        began = time.monotonic()
        run(web, "true", cache=cache, timeout=PATIENCE)
        took.append(time.monotonic() - began)
    assert min(took) < 2 * 0.2 - 0.01


def test_done_callbacks_may_wait_and_call_us_again(web: Any, cache: SshClientCache) -> None:
    inner: List[str] = []
    called = threading.Event()

    def call_again(future: Any) -> None:
        inner.append(run(web, "echo inner", cache=cache, timeout=PATIENCE).stdout)
        inner.append(threading.current_thread().name)
        called.set()

    future = operations.submit(cache, web, "sleep 0.2; echo outer", timeout=PATIENCE)
    future.add_done_callback(call_again)
    assert future.result(PATIENCE).stdout == "outer\n"
    assert called.wait(PATIENCE)
    assert inner == ["inner\n", "ssh-service-callbacks"]


def test_a_callback_may_run_a_command_with_callbacks_of_its_own(
    web: Any, cache: SshClientCache
) -> None:
    heard: List[str] = []
    done = threading.Event()

    def run_another(piece: str) -> None:
        if not heard:  # nor does a done-callback of what it begins wait for it
            process = start(web, "true", cache=cache, timeout=PATIENCE)
            process.future.add_done_callback(lambda _: done.set())
            assert done.wait(PATIENCE)
        heard.append(piece)
        if len(heard) < 4:  # also in a callback of that one
            command = f"echo {len(heard)}"
            run(web, command, on_stdout=run_another, cache=cache, timeout=PATIENCE)

    run(web, "echo 0", on_stdout=run_another, cache=cache, timeout=PATIENCE)
    assert heard == ["0\n", "1\n", "2\n", "3\n"]
