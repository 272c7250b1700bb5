"""The pipeline: which tasks run, which are cancelled, and in which order."""

from __future__ import annotations

import errno
import time
from typing import Any, List

import pytest

from ssh_service.copying import pipeline as pipeline_module
from ssh_service.copying.parts import move_parts
from ssh_service.copying.pipeline import ABORTS, Pipeline
from ssh_service.copying.sftp import encode, protocol
from ssh_service.copying.sftp.client import SftpClient, negotiate
from ssh_service.copying.sftp.reply import Reply
from ssh_service.copying.sftp.session import SessionEnded, SftpSession
from ssh_service.copying.sftp.time_limits import Stalled
from ssh_service.copying.waiting import Budget, HandleBudget, TaskEvent
from ssh_service.errors import transfer_error
from tests.unit.sftp_harness import MadeUpServer, status


def answering(kind: int, request_id: int, rest: bytes) -> bytes:
    return status(request_id, protocol.OK)


def silent(kind: int, request_id: int, rest: bytes) -> bytes:
    return b""


@pytest.fixture(name="server")
def server_that_answers() -> MadeUpServer:
    server = MadeUpServer(answering)
    negotiate(server.session, 1)
    return server


def test_the_first_task_gives_the_result(server: MadeUpServer) -> None:
    async def main() -> str:
        return "result"

    with SftpClient(server.session) as client:
        assert Pipeline(client).run(main()) == "result"


def test_requests_of_many_tasks_leave_as_one_piece(server: MadeUpServer) -> None:
    pieces: List[int] = []
    send = server.send_some

    def counted(data: memoryview) -> int:
        pieces.append(len(data))
        return send(data)

    server.send_some = counted  # type: ignore[method-assign]

    with SftpClient(server.session) as client:
        pipeline = Pipeline(client)

        async def one(number: int) -> None:
            await client.ask(encode.stat, b"%d" % number)

        async def main() -> None:
            for number in range(100):
                pipeline.start(one(number))

        pipeline.run(main())
    assert len(server.requests) == 100
    assert len(pieces) == 1


def test_task_failure_lets_earlier_finish_and_cancels_later(server: MadeUpServer) -> None:
    ends: List[Any] = []
    with SftpClient(server.session) as client:
        pipeline = Pipeline(client)

        async def one(number: int) -> None:
            try:
                for _ in range(1 + (number == 2)):
                    await client.ask(encode.stat, b"x")
                if number == 2:
                    raise transfer_error(errno.EIO, "two")
                for _ in range(5):
                    await client.ask(encode.stat, b"x")
            except ABORTS:
                ends.append(("stopped", number))
                raise
            ends.append(("finished", number))

        async def main() -> None:
            for number in range(5):
                pipeline.start(one(number))

        with pytest.raises(OSError, match="two"):
            pipeline.run(main())
    assert sorted(ends) == [
        ("finished", 0),
        ("finished", 1),
        ("stopped", 2),
        ("stopped", 3),
        ("stopped", 4),
    ]


def test_of_two_failures_the_earlier_ones_is_raised(server: MadeUpServer) -> None:
    with SftpClient(server.session) as client:
        pipeline = Pipeline(client)

        async def one(number: int, steps: int) -> None:
            for _ in range(steps):
                await client.ask(encode.stat, b"x")
            raise transfer_error(errno.EIO, f"task {number}")

        async def main() -> None:
            pipeline.start(one(0, 10))
            pipeline.start(one(1, 1))

        with pytest.raises(OSError, match="task 0"):
            pipeline.run(main())


def test_after_a_failure_nothing_new_starts(server: MadeUpServer) -> None:
    started: List[int] = []
    with SftpClient(server.session) as client:
        pipeline = Pipeline(client)

        async def bad() -> None:
            started.append(0)
            raise transfer_error(errno.EIO, "bad")

        async def late() -> None:
            started.append(1)

        async def main() -> None:
            pipeline.start(bad())
            for _ in range(3):
                await client.ask(encode.stat, b"x")
            pipeline.start(late())

        with pytest.raises(OSError, match="bad"):
            pipeline.run(main())
    assert started == [0]


def test_pipeline_fail_lets_earlier_tasks_finish(server: MadeUpServer) -> None:
    finished: List[int] = []
    with SftpClient(server.session) as client:
        pipeline = Pipeline(client)

        async def one() -> None:
            for _ in range(3):
                await client.ask(encode.stat, b"x")
            finished.append(1)

        async def main() -> None:
            pipeline.start(one())
            pipeline.fail(OSError("here"))

        with pytest.raises(OSError, match="here"):
            pipeline.run(main())
    assert finished == [1]


def test_cancelled_task_may_await_its_cleanup(server: MadeUpServer) -> None:
    with SftpClient(server.session) as client:
        pipeline = Pipeline(client)

        async def careful() -> None:
            try:
                while True:
                    await client.ask(encode.stat, b"x")
            except ABORTS:
                await client.ask(encode.remove, b"litter")
                raise

        async def bad() -> None:
            await client.ask(encode.stat, b"x")
            raise transfer_error(errno.EIO, "bad")

        async def main() -> None:
            pipeline.start(bad())
            pipeline.start(careful())

        with pytest.raises(OSError, match="bad"):
            pipeline.run(main())
    assert server.requests[-1][0] == protocol.REMOVE


def test_an_interrupt_stops_all_and_lets_them_tidy_up(server: MadeUpServer) -> None:
    with SftpClient(server.session) as client:

        def interrupt() -> None:
            raise KeyboardInterrupt

        pipeline = Pipeline(client, on_step=interrupt)

        async def main() -> None:
            try:
                while True:
                    await client.ask(encode.stat, b"x")
            except ABORTS:
                await client.ask(encode.remove, b"litter")
                raise

        with pytest.raises(KeyboardInterrupt):
            pipeline.run(main())
    assert server.requests[-1][0] == protocol.REMOVE
    assert server.session.is_usable


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "while it waits to tidy up"])
def test_interrupt_is_raised_even_if_the_connection_ends(waits: bool) -> None:
    def answer(kind: int, request_id: int, rest: bytes) -> bytes:
        if kind == protocol.REMOVE:  # the end comes while the task tidies up
            server.session.mark_ended(OSError("broken pipe"))
            return b""
        return status(request_id, protocol.OK)

    server = MadeUpServer(answer)
    negotiate(server.session, 1)

    async def main() -> None:
        await client.ask(encode.stat, b"x")
        try:
            raise KeyboardInterrupt  # as in the middle of a write, which breaks the stream off
        except ABORTS as abort:
            pipeline.record_interrupt(abort)
            if not waits:
                server.session.mark_ended(OSError("broken pipe"))
                client.session.raise_if_ended()
            await client.ask(encode.remove, b"litter")
            raise

    with pytest.raises(KeyboardInterrupt), SftpClient(server.session) as client:
        pipeline = Pipeline(client, timeout=1)
        pipeline.run(main())


def test_silence_ends_the_run_and_retires_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline_module, "_CLEANUP_TIMEOUT", 0.05)
    server = MadeUpServer(silent)
    negotiate(server.session, 1)

    async def main(session: SftpSession) -> None:
        await client.ask(encode.stat, b"x")

    with pytest.raises(Stalled), SftpClient(server.session) as client:
        Pipeline(client, timeout=0.05).run(main(server.session))
    assert not server.session.is_usable
    assert server.closed


def test_the_end_of_the_session_ends_the_run() -> None:
    reason = ConnectionError("gone")

    def ending(kind: int, request_id: int, rest: bytes) -> bytes:
        server.session.mark_ended(reason)
        return b""

    server = MadeUpServer(ending)
    negotiate(server.session, 1)

    async def main() -> None:
        await client.ask(encode.stat, b"x")

    with SftpClient(server.session) as client, pytest.raises(SessionEnded) as caught:
        Pipeline(client).run(main())
    assert caught.value.reason is reason


def test_session_end_does_not_wait_for_cleanup() -> None:
    server = MadeUpServer(silent)
    negotiate(server.session, 1)

    async def main() -> None:
        for _ in range(3):
            client.ask(encode.stat, b"x")
        server.session.mark_ended(None)
        await client.ask(encode.stat, b"x")

    began = time.monotonic()
    with pytest.raises(SessionEnded), SftpClient(server.session) as client:
        Pipeline(client).run(main())
    assert time.monotonic() - began < 1.0


def test_a_budget_is_never_exceeded_and_serves_in_order(server: MadeUpServer) -> None:
    served: List[int] = []
    with SftpClient(server.session) as client:
        pipeline = Pipeline(client)
        budget = Budget(pipeline, 10)

        async def one(number: int, amount: int) -> None:
            await budget.acquire(amount)
            served.append(number)
            assert budget.used <= 10
            await client.ask(encode.stat, b"x")
            budget.release(amount)

        async def main() -> None:
            for number, amount in enumerate((4, 4, 4, 1, 9, 1)):
                pipeline.start(one(number, amount))

        pipeline.run(main())
    assert served == [0, 1, 2, 3, 4, 5]
    assert budget.used == 0


def test_parts_in_tiny_replies_stay_within_the_budget(server: MadeUpServer) -> None:
    taken: List[Any] = []
    with SftpClient(server.session) as client:
        pipeline = Pipeline(client)
        flow = Budget(pipeline, 20)

        def ask(offset: int, size: int) -> Reply:
            assert 0 < flow.used <= 20
            return client.ask(encode.read, b"h", offset, size)

        def take(reply: Reply, offset: int, size: int) -> int:
            taken.append((offset, min(size, 4)))
            return min(size, 4)

        parts = [(offset, 10) for offset in range(0, 50, 10)]
        pipeline.run(move_parts(flow, parts, ask, take))
        assert flow.used == 0
        assert sorted(taken) == [(at + n, min(4, 10 - n)) for at, _ in parts for n in (0, 4, 8)]
        taken.clear()
        pipeline.run(move_parts(flow, parts, ask, take, in_order=True))
        assert taken == sorted(taken)


def test_request_above_the_budget_runs_alone(server: MadeUpServer) -> None:
    with SftpClient(server.session) as client:
        pipeline = Pipeline(client)
        budget = Budget(pipeline, 10)

        async def one(amount: int) -> None:
            await budget.acquire(amount)
            assert budget.used in (5, 100)
            await client.ask(encode.stat, b"x")
            budget.release(amount)

        async def main() -> None:
            for amount in (5, 100, 5):
                pipeline.start(one(amount))

        pipeline.run(main())


def test_handle_budget_is_shared_and_each_client_gets_one(
    server: MadeUpServer,
) -> None:
    server.session.limits = protocol.ServerLimits(handles=8)  # of which copies take half
    with SftpClient(server.session) as one, SftpClient(server.session) as other:
        first = HandleBudget(Pipeline(one), server.session, 100)
        second = HandleBudget(Pipeline(other), server.session, 100)
        assert [first.try_acquire() for _ in range(6)] == [True] * 4 + [False] * 2
        assert [second.try_acquire() for _ in range(2)] == [True, False]
        first.release(2)
        assert second.try_acquire()
        first.release_all()
        second.release_all()


def test_a_signal_wakes_all_who_wait_for_it(server: MadeUpServer) -> None:
    woken: List[int] = []
    with SftpClient(server.session) as client:
        pipeline = Pipeline(client)
        signal = TaskEvent(pipeline)

        async def one(number: int) -> None:
            await signal.wait()
            woken.append(number)

        async def main() -> None:
            for number in range(3):
                pipeline.start(one(number))
            await client.ask(encode.stat, b"x")
            signal.set()
            await pipeline.join_others()
            assert woken == [0, 1, 2]
            await signal.wait()

        pipeline.run(main())
