"""A fleet's results, with the work done by a runner of the test's own."""

from __future__ import annotations

import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection
from typing import Any, List

import pytest

from ssh_service import SshConfigError, SshConnectError, fleet
from ssh_service.fleet import Results, SshWorkerLost, pool_worker
from ssh_service.fleet.executor_runners import runner_for
from ssh_service.fleet.result import completed
from tests.unit.test_fleet import TASK, Executor

DONE = pickle.dumps(completed("a", None, 0.0))


class Inline(Executor, ProcessPoolExecutor):
    """A pool whose workers are this process."""

    def __init__(self) -> None:
        self.calls = []
        self.tasks: List[Any] = []

    def submit(self, function: Any, /, *arguments: Any, **_: Any) -> Any:
        self.tasks.append(arguments)
        return super().submit(function, *arguments)


def messages_by_hand(pool: Inline, *messages: Any) -> Connection:
    """Speak to the caller as a worker would."""
    _, address, authkey, _ = pool.tasks[0]
    pipe = Client(address, authkey=authkey)
    for message in messages:
        pipe.send(message)
    return pipe


def test_worker_process_reports_through_its_pipe() -> None:
    pool = Inline()
    with Results(["bad host"], runner_for(TASK, 1, pool), 1) as results:
        assert pool_worker.start(*pool.tasks[0]) == pool_worker.STARTED
        pool.calls[0].set_result(pool_worker.STARTED)
        result = results.take(5)
    assert isinstance(result.error, SshConfigError) and result.sent is False


@pytest.mark.parametrize("messages, sent", [([], False), ([("sending", 0, b"")], None)])
def test_lost_process_was_sent_only_if_it_reported_so(messages: Any, sent: Any) -> None:
    pool = Inline()
    with Results(["a"], runner_for(TASK, 1, pool), 1) as results:
        messages_by_hand(pool, ("accepted", 0, b""), *messages).close()
        result = results.take(5)
    assert isinstance(result.error, SshWorkerLost) and result.sent is sent


def test_a_result_that_cannot_be_read_is_that_hosts_alone() -> None:
    pool = Inline()
    with Results(["a", "b"], runner_for(TASK, 2, pool), 2) as results:
        good = pickle.dumps(completed("b", None, 0.0))
        pipe = messages_by_hand(
            pool,
            ("accepted", 0, b""),
            ("done", 0, b"garbage"),
            ("accepted", 1, b""),
            ("done", 1, good),
        )
        first, second = results.take(5), results.take(5)
        pipe.close()
    assert "a: cannot read its result" in str(first.error)
    assert second.ok


def test_full_process_leaves_the_host_to_another() -> None:
    pool = Inline()
    with Results(["a"], runner_for(TASK, 1, pool), 1) as results:
        pool.calls[0].set_result(pool_worker.FULL)
        assert len(pool.calls) == 2
        results.cancel()
        assert results.take(5).sent is False


def test_broken_pool_settles_after_all_messages_are_read() -> None:
    pool = Inline()
    with Results(["a", "b"], runner_for(TASK, 2, pool), 2) as results:
        pipe = messages_by_hand(pool, ("accepted", 0, b""), ("sending", 0, b""))
        for call in pool.calls:
            call.set_exception(BrokenProcessPool("a child process terminated abruptly"))
        pipe.close()
        found = {result.host: result.sent for result in (results.take(5), results.take(5))}
    assert found == {"a": None, "b": False}


def test_failed_call_does_not_hide_messages_of_a_lost_worker() -> None:
    pool = Inline()
    with Results(["a", "b"], runner_for(TASK, 2, pool), 2) as results:
        pipe = messages_by_hand(pool)
        pool.calls[0].set_exception(BrokenProcessPool("a child process terminated abruptly"))
        pool.calls[1].set_exception(RuntimeError("it cannot be pickled"))
        first = results.take(5)
        pipe.send(("accepted", 0, b""))
        pipe.send(("sending", 0, b""))
        pipe.close()
        second = results.take(5)
    assert (first.host, first.sent, second.host, second.sent) == ("b", False, "a", None)


def test_a_parameter_of_one_host_that_cannot_be_pickled_is_named() -> None:
    """Only that host fails, and not with "Can't pickle local object"."""
    hosts: List[Any] = [
        {"host": "127.0.0.1", "port": 1, "password": lambda: "x"},
        "user@127.0.0.1:1",
    ]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        results = fleet.run(hosts, "true", connect={"config": None}, executor=executor)
        first, second = sorted(results, key=lambda result: str(result.host))
    assert isinstance(first.error, SshConfigError) and first.sent is False
    assert str(first.error).startswith(
        "127.0.0.1: password: expected an object that can be pickled"
    )
    assert isinstance(second.error, SshConnectError)


def test_pipe_with_a_wrong_key_is_refused() -> None:
    pool = Inline()
    with Results(["a"], runner_for(TASK, 1, pool), 1) as results:
        _, address, _, _ = pool.tasks[0]
        with pytest.raises(AuthenticationError):
            Client(address, authkey=b"guessed")
        pipe = messages_by_hand(pool, ("accepted", 0, b""), ("done", 0, DONE))
        assert results.take(5).ok
        pipe.close()
