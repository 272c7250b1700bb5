"""A fleet's results, with the work done by a runner of the test's own."""

from __future__ import annotations

import functools
import gc
import itertools
import pickle
import threading
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any, Iterator, List

import pytest

from ssh_service import CompletedProcess, SshCommandTimeout, SshConfigError, errors, fleet
from ssh_service.fleet import HostResult, Results, SshWorkerLost, on_dask
from ssh_service.fleet.executor_runners import runner_for
from ssh_service.fleet.result import completed, failed
from ssh_service.fleet.results import Runner
from ssh_service.fleet.task import FleetTask
from tests.common import PATIENCE, Outcome, eventually

TASK = FleetTask(
    "run",
    {"text": "true", "env": {}, "shell": None, "stdin": b"", "max_output": None},
    {},
    None,
)


class ByHand(Runner):
    """Keeps what it is given until the test says that it is done."""

    def __init__(self) -> None:
        self.open: List[Any] = []
        self.cancelled = self.closed = 0

    def start(self, host: Any) -> None:
        self.open.append(host)

    def finish(self, host: Any) -> None:
        self.open.remove(host)
        self.deliver(completed(host, None, 0.0))

    def cancel(self) -> None:
        self.cancelled += 1
        for host in list(self.open):
            self.finish(host)

    def close(self) -> None:
        self.closed += 1


def test_results_come_in_the_order_in_which_hosts_are_done() -> None:
    runner = ByHand()
    with Results("abc", runner, 3) as results:
        for host in "cab":
            runner.finish(host)
        assert repr(results) == "<Results begun=3 under_way=3>"
        assert [result.host for result in results] == ["c", "a", "b"]
    assert repr(results) == "<Results begun=3 under_way=0 closed>"


def test_no_host_starts_while_no_results_are_taken() -> None:
    runner = ByHand()
    endless = itertools.count()
    with Results(endless, runner, 3) as results:
        for host in (0, 1, 2):
            runner.finish(host)
        assert runner.open == [] and results.begun == 3
        next(results)
        assert results.begun == 3  # the next host starts with the next call
        next(results)
        assert results.begun == 4


def test_hosts_are_taken_only_when_they_can_start() -> None:
    asked: List[int] = []

    def hosts() -> Iterator[int]:
        for number in itertools.count():
            asked.append(number)
            yield number

    runner = ByHand()
    with Results(hosts(), runner, 2):
        assert asked == [0, 1]


def test_cancel_starts_no_host_and_keeps_results_of_the_others() -> None:
    runner = ByHand()
    results = Results("abcdef", runner, 2)
    results.cancel()
    assert sorted(result.host for result in results) == ["a", "b"]
    assert results.begun == 2 and runner.closed == 1


def test_a_wait_for_a_result_can_be_bounded() -> None:
    runner = ByHand()
    with Results("a", runner, 1) as results:
        with pytest.raises(TimeoutError, match="no host was done within 0.01 s"):
            results.take(0.01)
        runner.finish("a")
        assert results.take(1).host == "a"


def test_leaving_the_context_cancels_and_closes_once() -> None:
    runner = ByHand()
    with Results("ab", runner, 2) as results:
        pass
    results.close()
    assert (runner.cancelled, runner.closed) == (1, 1)
    with pytest.raises(StopIteration):
        next(results)


def test_error_of_the_hosts_iterator_is_raised_after_results() -> None:
    """No result of a started host is lost."""

    def hosts() -> Iterator[str]:
        yield "a"
        raise LookupError("inventory")

    runner = ByHand()
    results = Results(hosts(), runner, 5)
    runner.finish("a")
    assert results.take(PATIENCE).host == "a"
    with pytest.raises(LookupError, match="inventory"):
        results.take(PATIENCE)
    with pytest.raises(StopIteration):
        next(results)
    assert runner.closed == 1


@pytest.mark.parametrize("parallel", [1, 2, 50])
def test_many_threads_take_each_result_once_and_all_finish(parallel: int) -> None:
    """Each host is taken once, and each thread finds the end."""
    runner = ByHand()
    results = Results([str(number) for number in range(40)], runner, parallel)
    taken: List[str] = []
    takers = [Outcome(lambda: taken.extend(result.host for result in results)) for _ in range(4)]
    for number in range(40):
        eventually(functools.partial(runner.open.__contains__, str(number)))
        runner.finish(str(number))
    for taker in takers:
        assert taker.wait().error is None
    assert sorted(taken, key=int) == [str(number) for number in range(40)]


def test_a_taker_whose_time_is_up_leaves_the_result_to_another() -> None:
    runner = ByHand()
    results = Results(["a"], runner, 1)
    with pytest.raises(TimeoutError):
        results.take(0.01)
    patient = Outcome(lambda: results.take(PATIENCE))
    runner.finish("a")
    assert patient.wait().value.host == "a"


@pytest.mark.parametrize(
    "hosts, options, complaint",
    [
        ("web01", {}, "hosts: expected an iterable"),
        ({"host": "a"}, {}, "hosts: expected an iterable"),
        (None, {}, "hosts: expected an iterable"),
        ([], {"connect": ["username"]}, "connect: expected a mapping"),
        ([], {"cache": "x"}, "cache: expected an SshClientCache"),
        ([], {"executor": "threads"}, "executor must have the submit"),
        ([], {"parallel": 0}, "parallel"),
        ([], {"parallel": True}, "parallel"),
        ([], {"timeout": 0}, "timeout"),
        ([], {"timeout": "1"}, "timeout"),
        ([], {"env": {"A B": 1}}, "A B"),
        ([], {"pty": "yes"}, "pty: expected True or False, got 'yes'"),
        ([], {"env": {"A": None}}, "environment variable 'A': None is not a value"),
    ],
)
def test_invalid_arguments_for_all_hosts_raise_at_once(
    hosts: Any, options: Any, complaint: str
) -> None:
    with pytest.raises(SshConfigError, match=complaint):
        fleet.run(hosts, "true", **options)


def test_script_with_nul_raises_at_once() -> None:
    with pytest.raises(SshConfigError, match="NUL"):
        fleet.run(["a"], "a\0b")


def test_script_that_is_missing_or_given_twice_raises_at_once() -> None:
    """As for `run` at one destination."""
    with pytest.raises(SshConfigError, match="script: missing; expected a text, lines, or args="):
        fleet.run(["a"])
    with pytest.raises(SshConfigError, match="script, args: give script or args, not both"):
        fleet.run(["a"], "true", args=["true"])
    with pytest.raises(SshConfigError, match="stdin, input: give at most one"):
        fleet.run(["a"], "true", stdin="1", input="2")
    with pytest.raises(SshConfigError, match="stdin: a file could be read only once"), open(
        __file__, "rb"
    ) as file:
        fleet.run(["a"], "true", stdin=file)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["a\0b", b"a\0b"])
def test_path_with_nul_raises_at_once(path: Any) -> None:
    expected = "remote_path: expected a path without NUL characters, got b?'a.x00b'"
    with pytest.raises(SshConfigError, match=expected):
        fleet.upload(["a"], __file__, path)
    with pytest.raises(SshConfigError, match=expected):
        fleet.download(["a"], path, "here")


def test_callbacks_with_an_executor_are_an_error() -> None:
    with ThreadPoolExecutor(1) as executor:
        with pytest.raises(SshConfigError, match="cannot be combined with executor"):
            fleet.run(["a"], "true", executor=executor, on_output=print)


def test_no_hosts_are_no_results() -> None:
    assert list(fleet.run([], "true")) == []


def test_invalid_host_yields_a_failed_result() -> None:
    results = list(fleet.run(["bad host", {"host": "a", "prt": 1}], "true"))
    assert [result.status for result in results] == ["FAILED", "FAILED"]
    assert all(isinstance(result.error, SshConfigError) for result in results)
    assert all(result.sent is False for result in results)


# --- results ------------------------------------------------------------------------------------


def process(status: int = 0, signal: Any = None) -> CompletedProcess:
    return CompletedProcess("true", None, b"out\xff", b"err", status, signal)


def test_success_is_exit_status_zero() -> None:
    assert completed("a", process(0), 1.0).status == "SUCCEEDED"
    assert completed("a", process(3), 1.0).status == "FAILED"
    signalled = completed("a", process(-1, ("KILL", False, "", "")), 1.0)
    assert (signalled.status, signalled.signal) == ("FAILED", "KILL")


def test_as_dict_has_text_for_every_byte() -> None:
    told = completed("a", process(3), 1.23456).as_dict()
    assert told == {
        "host": "a",
        "status": "FAILED",
        "exit_status": 3,
        "signal": None,
        "seconds": 1.235,
        "stdout": "out\\xff",
        "stderr": "err",
        "error": None,
    }


@pytest.mark.parametrize(
    "error, status, sent",
    [
        (SshCommandTimeout("t", process=process(), phase="run"), "TIMED_OUT", True),
        (SshCommandTimeout("t", phase="queue"), "FAILED", False),
        (errors.SshConnectTimeout("t"), "FAILED", False),
        (errors.SshConnectionLost("l", sent=True), "FAILED", True),
        (errors.SshConnectionLost("l", sent=False), "FAILED", False),
        (SshWorkerLost("w"), "FAILED", None),
        (SshWorkerLost("w", sent=False), "FAILED", False),
        (errors.SshFileNotFoundError("f"), "FAILED", True),
    ],
)
def test_result_says_whether_anything_was_sent(error: Any, status: str, sent: Any) -> None:
    result = failed("a", error, 1.0)
    assert (result.status, result.sent) == (status, sent)


def test_error_in_as_dict_is_one_line() -> None:
    assert failed("a", errors.SshServiceError("two\n lines"), 0).as_dict()["error"] == "two lines"
    assert failed("a", OSError(28, "full"), 0).as_dict()["error"] == "OSError: [Errno 28] full"
    assert failed("a", KeyError(), 0).as_dict()["error"] == "KeyError"


def test_a_result_survives_pickling() -> None:
    result = failed("a", SshCommandTimeout("t", process=process(1)), 1.0)
    again = pickle.loads(pickle.dumps(result))
    assert again.as_dict() == result.as_dict()
    assert pickle.loads(pickle.dumps(SshWorkerLost("w", sent=False))).sent is False


# --- executors ----------------------------------------------------------------------------------


class Executor:
    """Answers calls as the test says."""

    def __init__(self) -> None:
        self.calls: List["Future[Any]"] = []

    def submit(self, function: Any, /, *arguments: Any, **_: Any) -> "Future[Any]":
        self.calls.append(Future())
        return self.calls[-1]


def test_lost_call_has_unknown_outcome() -> None:
    executor = Executor()
    results = Results(["a"], runner_for(TASK, 1, executor), 1)  # type: ignore[arg-type]
    executor.calls[0].set_exception(RuntimeError("the worker was killed"))
    (result,) = results
    assert isinstance(result.error, SshWorkerLost) and result.sent is None
    assert "its outcome is unknown" in str(result.error)


def test_cancel_cancels_calls_that_no_worker_started() -> None:
    executor = Executor()
    results = Results("ab", runner_for(TASK, 2, executor), 2)  # type: ignore[arg-type]
    executor.calls[1].set_running_or_notify_cancel()
    results.cancel()
    first = results.take(1)
    assert (first.host, first.sent) == ("a", False)
    executor.calls[1].set_result(completed("b", None, 0.0))
    assert results.take(1).ok
    results.close()


def test_executor_that_refuses_work_fails_each_host() -> None:
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    results = list(fleet.run(["a", "b"], "true", executor=executor))
    assert [result.sent for result in results] == [False, False]
    assert all("the executor refused the task" in str(result.error) for result in results)


def test_permit_is_granted_once_and_never_after_cancel() -> None:
    ledger = on_dask.PermitLedger()
    assert ledger.handle("permit", "run", 1) == "granted"
    assert ledger.handle("permit", "run", 1) == "refused"
    assert ledger.handle("permit", "run", 2) == "granted"
    assert ledger.handle("status", "run", 0) == "granted"
    ledger.handle("cancel", "run", 0)
    assert ledger.handle("status", "run", 0) == "cancelled"
    assert ledger.handle("permit", "run", 3) == "cancelled"
    ledger.handle("forget", "run", 0)
    assert ledger.handle("permit", "run", 1) == "granted"


def test_ledger_has_a_bounded_size() -> None:
    ledger = on_dask.PermitLedger()
    for number in range(3000):
        ledger.handle("permit", f"run{number}", 0)
        ledger.handle("cancel", f"run{number}", 0)
    assert len(ledger._granted) <= 1000 and len(ledger._cancelled) <= 1000


def test_results_may_be_cancelled_from_another_thread() -> None:
    runner = ByHand()
    results = Results(itertools.count(), runner, 2)
    canceller = threading.Thread(target=results.cancel)
    canceller.start()
    canceller.join(5)
    taken: List[HostResult] = list(results)
    assert len(taken) == 2


def test_results_that_are_dropped_end_the_work_with_a_warning() -> None:
    """Also where a Ctrl-C struck who waited for them."""
    runner = ByHand()
    results = Results("ab", runner, 2)
    with pytest.warns(ResourceWarning, match="results of a fleet were dropped"):
        del results
        gc.collect()
    eventually(lambda: (runner.cancelled, runner.closed) == (1, 1))
    assert runner.open == []


def test_a_callable_that_cannot_be_pickled_is_refused_at_the_call() -> None:
    """Not at every host: a process pool cannot be given a lambda."""
    with ProcessPoolExecutor(1) as executor:
        with pytest.raises(
            SshConfigError, match="password: expected an object that can be pickled"
        ):
            fleet.run(["web"], "true", connect={"password": lambda: "x"}, executor=executor)


def test_a_host_common_to_all_hosts_is_refused() -> None:
    with pytest.raises(SshConfigError, match="connect: .* got 'host'"):
        fleet.run(["web"], "true", connect={"host": "x"})


def test_a_host_without_a_name_is_reported_by_its_parameters() -> None:
    """A typing error, of which the result says more than None."""
    (result,) = fleet.run([{"hots": "web", "password": "secret"}], "true")
    assert result.host == "(hots, password: no host)"
    assert "did you mean 'host'" in str(result.error)
