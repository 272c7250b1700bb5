"""Many hosts at once, against a real server that listens on several loopback addresses."""

from __future__ import annotations

import multiprocessing
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest

from ssh_service import (
    SshAuthError,
    SshClientCache,
    SshCommandCancelled,
    SshCommandTimeout,
    SshConnectError,
    SshFileNotFoundError,
    fleet,
    run,
)
from ssh_service.fleet import SshWorkerLost, worker
from ssh_service.testing.local_sshd import Sshd
from tests.common import eventually, is_running

HOSTS = [f"127.0.0.{number}" for number in range(1, 9)]
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def server(sshd_factory: Callable[..., Sshd]) -> Sshd:
    return sshd_factory({"ListenAddress": HOSTS})


@pytest.fixture
def connect(server: Sshd) -> Dict[str, Any]:
    found = {**server.connect_params, "host_key_alias": f"[127.0.0.1]:{server.port}"}
    del found["host"]
    return found


@pytest.fixture
def processes() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, SPAWN) as executor:
        yield executor


def waits_at_the_first(gate: Path) -> str:
    """Return a script that waits for a file, at 127.0.0.1 alone."""
    wait = f"until [ -e {gate} ]; do sleep .05; done"
    return f'case "$SSH_CONNECTION" in *" 127.0.0.1 "*) {wait};; esac'


def test_every_host_has_its_result(connect: Dict[str, Any]) -> None:
    script = 'echo "$SSH_CONNECTION" | cut -d" " -f3; exit 3'
    results = list(fleet.run(HOSTS, script, connect=connect))
    assert sorted(result.host for result in results) == HOSTS
    for result in results:
        assert result.stdout == f"{result.host}\n"
        assert (result.status, result.exit_status, result.error) == ("FAILED", 3, None)


def test_every_host_gets_the_same_input_and_arguments_to_the_letter(
    connect: Dict[str, Any], processes: ProcessPoolExecutor
) -> None:
    """In this process and in the workers of a pool."""
    args = ["sh", "-c", 'printf "%s|" "$@"; cat', "sh", "a  b", "$HOME", "it's"]
    for executor in (None, processes):
        found = fleet.run(HOSTS, args=args, input="in\nput", connect=connect, executor=executor)
        assert [result.stdout for result in found] == ["a  b|$HOME|it's|in\nput"] * len(HOSTS)


def test_many_hosts_can_be_asked_in_a_callback(
    connect: Dict[str, Any], ssh_cache: SshClientCache
) -> None:
    statuses: List[str] = []

    def ask_all(piece: str) -> None:
        results = fleet.run(HOSTS, "true", connect=connect, parallel=2, timeout=20)
        statuses.extend(result.status for result in results)

    run({**connect, "host": HOSTS[0]}, "echo go", on_stdout=ask_all, cache=ssh_cache, timeout=30)
    assert statuses == ["SUCCEEDED"] * len(HOSTS)


def test_one_hosts_failure_is_never_anothers(connect: Dict[str, Any], tmp_path: Path) -> None:
    hosts = [*HOSTS[:3], "127.0.0.77", "no_such_user@127.0.0.4", "no such host", "host.invalid"]
    results = {r.host: r for r in fleet.run(hosts, "true", connect=connect, timeout=20)}
    assert [results[host].status for host in HOSTS[:3]] == ["SUCCEEDED"] * 3
    assert isinstance(results["127.0.0.77"].error, SshConnectError)
    assert isinstance(results["no_such_user@127.0.0.4"].error, SshAuthError)
    for host in hosts[3:]:
        text = results[host].as_dict()["error"]
        assert results[host].sent is False and "\n" not in text and len(text) < 300


def test_a_quick_host_does_not_wait_for_a_slow_one(
    connect: Dict[str, Any], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    script = waits_at_the_first(gate)
    with fleet.run(HOSTS, script, connect=connect) as results:
        quick = [results.take(20).host for _ in HOSTS[1:]]
        gate.touch()
        assert sorted(quick) == HOSTS[1:]
        assert results.take(20).host == HOSTS[0]


def test_a_command_holds_no_thread(connect: Dict[str, Any], tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    hosts = [HOSTS[0]] * 40
    script = f"echo >> {tmp_path}/begun; until [ -e {gate} ]; do sleep .05; done"
    before = threading.active_count()
    with fleet.run(hosts, script, connect=connect, parallel=40) as results:
        eventually((tmp_path / "begun").exists)
        eventually(lambda: (tmp_path / "begun").read_text().count("\n") == 40)
        during = threading.active_count()
        gate.touch()
        assert all(result.ok for result in results)
    assert during - before <= 8  # some connections' readers, and the process's own


def test_connections_do_not_outlive_their_hosts(server: Sshd, connect: Dict[str, Any]) -> None:
    with fleet.run(HOSTS, "true", connect=connect, parallel=2) as results:
        for _ in range(len(HOSTS)):
            results.take(20)
            eventually(lambda: len(server.session_pids()) <= 2 * 2)


def test_a_cache_of_the_callers_keeps_its_connections(
    server: Sshd, connect: Dict[str, Any]
) -> None:
    cache = SshClientCache()
    try:
        for _ in range(3):
            assert all(r.ok for r in fleet.run(HOSTS, "true", connect=connect, cache=cache))
        assert len(cache) == len(HOSTS)
        assert server.logins() == len(HOSTS)
    finally:
        cache.cleanup()


def test_cancel_ends_the_remote_commands(
    server: Sshd, connect: Dict[str, Any], tmp_path: Path
) -> None:
    script = f'echo $$ > {tmp_path}/"${{SSH_CONNECTION##* }}-$$"; exec sleep 60'
    began = time.monotonic()
    with fleet.run(HOSTS, script, connect=connect) as results:
        eventually(lambda: len(list(tmp_path.iterdir())) == len(HOSTS))
        results.cancel()
        taken = list(results)
    assert time.monotonic() - began < 20
    assert len(taken) == len(HOSTS)
    assert all(isinstance(result.error, SshCommandCancelled) for result in taken)
    pids = [path.name.rpartition("-")[2] for path in tmp_path.iterdir()]
    eventually(lambda: not any(is_running(pid) for pid in pids))


def test_endless_command_times_out_with_its_output(connect: Dict[str, Any]) -> None:
    (result,) = fleet.run(HOSTS[:1], "echo so far; sleep 60", connect=connect, timeout=1)
    assert (result.status, result.stdout, result.sent) == ("TIMED_OUT", "so far\n", True)
    assert isinstance(result.error, SshCommandTimeout)


def test_on_output_is_called_as_output_arrives(connect: Dict[str, Any]) -> None:
    pieces: Dict[str, bytes] = {}

    def note(host: str, stream: str, piece: bytes) -> None:
        pieces[f"{host} {stream}"] = pieces.get(f"{host} {stream}", b"") + piece

    script = "echo out; echo err >&2"
    results = list(fleet.run(HOSTS[:3], script, connect=connect, on_output=note))
    assert all(result.ok and result.stdout == "" for result in results)
    assert pieces == {
        f"{host} {stream}": text
        for host in HOSTS[:3]
        for stream, text in (("stdout", b"out\n"), ("stderr", b"err\n"))
    }


def test_on_output_that_raises_ends_only_that_host(connect: Dict[str, Any]) -> None:
    def note(host: str, stream: str, piece: bytes) -> None:
        if host == HOSTS[0]:
            raise OSError(28, "No space left on device")

    script = "echo begun; sleep 0.5"
    results = {r.host: r for r in fleet.run(HOSTS[:2], script, connect=connect, on_output=note)}
    assert results[HOSTS[1]].ok
    assert isinstance(results[HOSTS[0]].error, OSError)


def test_on_output_that_exits_fails_that_host(connect: Dict[str, Any]) -> None:
    def note(host: str, stream: str, piece: bytes) -> None:
        raise SystemExit(3)

    (result,) = fleet.run(HOSTS[:1], "echo begun; sleep 60", connect=connect, on_output=note)
    assert result.status == "FAILED" and isinstance(result.error, SystemExit)


def test_too_much_output_ends_that_host(connect: Dict[str, Any]) -> None:
    (result,) = fleet.run(HOSTS[:1], "yes", connect=connect, max_output=1000)
    assert len(result.stdout) == 1000 and "wrote more than 1000 bytes" in str(result.error)


# --- copies -------------------------------------------------------------------------------------


def test_tree_is_copied_to_all_and_back_into_folders(
    connect: Dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    (tmp_path / "tree" / "sub" / "file").write_text("content")
    seen: List[str] = []
    up = list(
        fleet.upload(
            HOSTS[:1],
            tmp_path / "tree",
            tmp_path / "there",
            connect=connect,
            on_progress=lambda host, progress: seen.append(host),
        )
    )
    assert [result.status for result in up] == ["SUCCEEDED"] and set(seen) == {HOSTS[0]}
    down = list(fleet.download(HOSTS, tmp_path / "there", tmp_path / "here", connect=connect))
    assert [result.status for result in down] == ["SUCCEEDED"] * len(HOSTS)
    for host in HOSTS:
        assert (tmp_path / "here" / host / "there" / "sub" / "file").read_text() == "content"


def test_failed_copy_does_not_affect_the_others(connect: Dict[str, Any], tmp_path: Path) -> None:
    results = {
        result.host: result
        for result in fleet.upload(
            [HOSTS[0], "127.0.0.77"], "/etc/hostname", tmp_path / "there", connect=connect
        )
    }
    assert results[HOSTS[0]].ok and not results["127.0.0.77"].ok
    (missing,) = fleet.download(HOSTS[:1], "/no/such", tmp_path / "here", connect=connect)
    assert isinstance(missing.error, SshFileNotFoundError)


def test_cancel_ends_copies(connect: Dict[str, Any], tmp_path: Path) -> None:
    with open(tmp_path / "big", "wb") as file:  # not over before it is cancelled
        for _ in range(12):
            file.write(bytes(range(256)) * (1 << 16))
    begun, cancelled = threading.Event(), threading.Event()

    def on_progress(*_: Any) -> None:
        begun.set()
        cancelled.wait(20)

    with fleet.upload(
        HOSTS[:2],
        tmp_path / "big",
        tmp_path / "there",
        connect=connect,
        on_progress=on_progress,
    ) as results:
        assert begun.wait(20)
        began = time.monotonic()
        results.cancel()
        cancelled.set()
        taken = list(results)
    assert time.monotonic() - began < 10
    (tmp_path / "big").unlink()
    assert all(isinstance(result.error, SshCommandCancelled) for result in taken)
    assert not (tmp_path / "there").exists()


def test_copy_cancelled_before_its_connection_says_so(
    connect: Dict[str, Any], server: Sshd, tmp_path: Path
) -> None:
    """Nothing was sent, and the result says it."""
    (tmp_path / "file").write_text("text")
    server.freeze(listener=True)
    try:
        with fleet.upload(
            HOSTS[:1], tmp_path / "file", tmp_path / "there", connect=connect
        ) as results:
            results.cancel()
            (result,) = results
    finally:
        server.thaw()
    assert str(result.error) == "127.0.0.1: cancelled before anything was sent"
    assert result.sent is False


# --- executors ----------------------------------------------------------------------------------


@pytest.fixture
def soon_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have workers in this process keep no connection when the test is over."""
    monkeypatch.setattr(worker, "_IDLE_TIMEOUT", 0.05)


@pytest.mark.usefixtures("soon_gone")
def test_threads_of_the_callers_do_the_work(connect: Dict[str, Any]) -> None:
    with ThreadPoolExecutor(3) as executor:
        results = list(fleet.run(HOSTS, "echo $((6*7))", connect=connect, executor=executor))
    assert sorted(result.host for result in results) == HOSTS
    assert {result.stdout for result in results} == {"42\n"}


@pytest.mark.usefixtures("soon_gone")
def test_cancel_reaches_the_callers_threads(connect: Dict[str, Any], tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as executor:
        script = f"touch {tmp_path}/begun; sleep 60"
        with fleet.run(HOSTS, script, connect=connect, executor=executor) as results:
            eventually((tmp_path / "begun").exists)
            results.cancel()
            taken = list(results)
    assert len(taken) == len(HOSTS) and not any(result.ok for result in taken)


def test_a_process_pool_does_the_work_with_a_cache_in_each(
    server: Sshd, connect: Dict[str, Any], processes: ProcessPoolExecutor
) -> None:
    hosts = [*HOSTS, "127.0.0.77", "bad host"]
    results = {r.host: r for r in fleet.run(hosts, "echo hi", connect=connect, executor=processes)}
    assert sorted(results) == sorted(hosts)
    assert all(results[host].stdout == "hi\n" for host in HOSTS)
    assert not results["127.0.0.77"].ok and not results["bad host"].ok
    clients = {line.split()[-3] for line in server.log().splitlines() if " ssh2: " in line}
    assert clients  # it was reached from processes of the pool


def test_process_works_at_many_hosts_and_a_slow_one_delays_none(
    connect: Dict[str, Any], processes: ProcessPoolExecutor, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    script = waits_at_the_first(gate)
    with fleet.run(HOSTS * 3, script, connect=connect, executor=processes, parallel=8) as results:
        quick = [results.take(30).host for _ in range(3 * len(HOSTS) - 3)]
        gate.touch()
        slow = [results.take(30).host for _ in range(3)]
    assert HOSTS[0] not in quick and set(slow) == {HOSTS[0]}


def test_cancel_reaches_the_processes(
    connect: Dict[str, Any], processes: ProcessPoolExecutor, tmp_path: Path
) -> None:
    script = f'touch {tmp_path}/"$$"; exec sleep 60'
    with fleet.run(HOSTS, script, connect=connect, executor=processes, parallel=4) as results:
        eventually(lambda: len(list(tmp_path.iterdir())) == 4)
        results.cancel()
        taken = list(results)
    assert len(taken) == 4 and not any(result.ok for result in taken)
    pids = [path.name for path in tmp_path.iterdir()]
    eventually(lambda: not any(is_running(pid) for pid in pids))


def test_hosts_of_a_lost_process_are_not_run_twice(
    connect: Dict[str, Any], tmp_path: Path
) -> None:
    script = f'echo >> {tmp_path}/"$(echo $SSH_CONNECTION | cut -d" " -f3)"; sleep 3'
    executor = ProcessPoolExecutor(2, SPAWN)
    try:
        with fleet.run(HOSTS, script, connect=connect, executor=executor, parallel=6) as results:
            eventually(lambda: len(list(tmp_path.iterdir())) == 6)
            next(iter(executor._processes.values())).kill()
            taken = [results.take(30) for _ in HOSTS]
    finally:
        executor.shutdown()
    assert sorted(result.host for result in taken) == HOSTS
    assert all(isinstance(result.error, SshWorkerLost) for result in taken)
    begun = {path.name for path in tmp_path.iterdir()}
    for result in taken:
        assert (result.sent is None) == (result.host in begun)
    assert all(path.read_text() == "\n" for path in tmp_path.iterdir())
