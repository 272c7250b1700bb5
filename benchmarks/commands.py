"""Commands: how soon, how many, how much."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import sys
import threading
import time
from typing import Callable, Dict, Iterator, List, Mapping, Type

from benchmarks import cpu
from benchmarks.far import far
from benchmarks.measure import Measurement, interleave, seconds
from benchmarks.peers import Peer
from benchmarks.peers.base import Unsupported
from benchmarks.plan import Plan
from benchmarks.target import Target
from ssh_service.testing import process_tree

__all__ = ["first", "hosts", "latency", "output", "rates"]

DELAY = 0.03
"""Seconds each way on the far link."""

_COMMAND = "echo hi"
_THREADS = (1, 8, 32)
# Seconds that the server has to end its sessions.
_SETTLING = 10.0
# Seconds that threads wait for each other.
_PATIENCE = 300.0


_OUTPUTS = {_COMMAND: "hi\n", "/bin/true": ""}


def _check(text: str, command: str = _COMMAND) -> None:
    if text != _OUTPUTS[command]:
        raise RuntimeError(f"the command answered {text!r}")


def _one(run: Callable[[str], str], command: str) -> float:
    began = time.perf_counter()
    text = run(command)
    took = time.perf_counter() - began
    _check(text, command)
    return took


def latency(
    peers: Mapping[str, Peer], name: str, count: int, plan: Plan, command: str = _COMMAND
) -> Measurement:
    """
    Time single commands over connections that are there.

    Parameters
    ----------
    peers : Mapping[str, Peer]
        Connected.
    name : str
        What to call it.
    count : int
        How many of each.
    plan : Plan
        The run.
    command : str
        What the shell runs: ``echo hi``, which is a part of it, or ``/bin/true``, a program.

    Returns
    -------
    Measurement
        Seconds.
    """
    for peer in peers.values():
        for _ in range(10):
            peer.run(command)
    functions = {key: functools.partial(_one, peer.run, command) for key, peer in peers.items()}
    return interleave(Measurement(name, "ms"), functions, count, budget=plan.patience * 4)


def rates(peers: Mapping[str, Peer], plan: Plan) -> Iterator[Measurement]:
    """
    Count commands per second from several threads.

    Parameters
    ----------
    peers : Mapping[str, Peer]
        Connected.
    plan : Plan
        The run.

    Yields
    ------
    Measurement
        Per second; one for each number of threads.
    """
    for threads in _THREADS:
        functions = {
            key: functools.partial(_rate, peer, threads, plan.rate_commands)
            for key, peer in peers.items()
        }
        plural = "s" if threads > 1 else ""
        measurement = Measurement(
            f"commands/s from {threads} thread{plural}", "1/s", more_is_better=True
        )
        yield interleave(measurement, functions, plan.rate_rounds, budget=plan.patience)


def _rate(peer: Peer, threads: int, total: int) -> float:
    each = max(1, total // threads)
    errors: List[BaseException] = []
    barrier = threading.Barrier(threads + 1)  # all begin together, and are waited for together

    def work() -> None:
        try:
            with (
                contextlib.nullcontext(peer) if peer.serves_threads else type(peer)(peer.target)
            ) as mine:
                _check(mine.run(_COMMAND))
                barrier.wait(_PATIENCE)
                for _ in range(each):
                    _check(mine.run(_COMMAND))
                barrier.wait(_PATIENCE)
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    took = math.nan
    with contextlib.suppress(threading.BrokenBarrierError):
        barrier.wait(_PATIENCE)
        took = seconds(lambda: barrier.wait(_PATIENCE))
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]
    return each * threads / took


def first(kinds: Mapping[str, Type[Peer]], target: Target, name: str, plan: Plan) -> Measurement:
    """
    Time a connection and its first command.

    Parameters
    ----------
    kinds : Mapping[str, Type[Peer]]
        The neighbours.
    target : Target
        The server.
    name : str
        What to call it.
    plan : Plan
        The run.

    Returns
    -------
    Measurement
        Seconds.
    """

    def one(kind: Type[Peer]) -> float:
        began = time.perf_counter()
        with kind(target) as peer:
            text = peer.run(_COMMAND)
            took = time.perf_counter() - began
        _check(text)
        return took

    functions = {key: functools.partial(one, kind) for key, kind in kinds.items()}
    for function in functions.values():
        function()
    return interleave(Measurement(name, "ms"), functions, plan.dials, budget=plan.patience * 2)


def hosts(kinds: Mapping[str, Type[Peer]], target: Target, plan: Plan) -> Iterator[Measurement]:
    """
    Dial many hosts at once over a slow link, and run a command on each.

    Parameters
    ----------
    kinds : Mapping[str, Type[Peer]]
        The neighbours.
    target : Target
        The server behind all of them.
    plan : Plan
        The run.

    Yields
    ------
    Measurement
        Seconds: for one host, for all, and how many times longer; and how much of all CPU is the
        client's.
    """
    with far(target, DELAY, plan.hosts) as targets:
        single: Dict[str, Callable[[], float]] = {}
        many: Dict[str, Callable[[], float]] = {}
        for key, kind in kinds.items():
            if _dials_side_by_side(key, kind, targets[:2], plan):
                many[key] = functools.partial(_dial, kind, targets)
            if key in many or key == "mlos_bench":
                single[key] = functools.partial(_dial, kind, targets[:1])
        names = f"{plan.hosts} hosts at 60 ms"
        one = interleave(Measurement("1 host at 60 ms", "ms"), single, max(3, plan.host_rounds))
        yield one
        all_of_them = interleave(
            Measurement(names, "ms"), many, plan.host_rounds, budget=plan.patience
        )
        yield all_of_them
        times = Measurement(f"{names}, times one", "x")
        times.load = all_of_them.load
        for key, values in all_of_them.values.items():
            times.values[key] = [value / one.median(key) for value in values]
        yield times
        # What lives in processes of its own cannot be told from the server.
        shares = {
            key: functools.partial(_share, dial) for key, dial in many.items() if key != "OpenSSH"
        }
        yield interleave(
            Measurement(f"{names}, client's part of the CPU", "x"), shares, 1, budget=plan.patience
        )


def _share(dial: Callable[[], object]) -> float:
    """Give the CPU of this process in a run, as a part of its, the servers' and the link's."""
    processes = len(process_tree.descendants(os.getpid()))
    below = cpu.below()
    own = time.process_time()
    dial()
    own = time.process_time() - own
    deadline = time.monotonic() + _SETTLING
    while len(process_tree.descendants(os.getpid())) > processes and time.monotonic() < deadline:
        time.sleep(0.05)
    return own / (own + cpu.below() - below)


def _dial(kind: Type[Peer], targets: List[Target]) -> float:
    answers: List[str] = []
    took = seconds(lambda: answers.extend(kind.dial_all(targets, _COMMAND)))
    for answer in answers:
        _check(answer)
    return took


def _dials_side_by_side(key: str, kind: Type[Peer], two: List[Target], plan: Plan) -> bool:
    """Tell whether two hosts take less than twice the time of one, or patience is asked for."""
    try:
        one = _dial(kind, two[:1])
        both = _dial(kind, two)
    except Unsupported:
        return False
    except Exception as error:
        print(f"  {key} cannot dial many hosts: {error!r}", file=sys.stderr)
        return False
    if plan.slow_ones or both < 1.6 * one:
        return True
    print(f"  {key} dials one host after the other: passed over in a quick run")
    return False


def output(peers: Mapping[str, Peer], path: str, plan: Plan) -> Measurement:
    """
    Take the output of a command that writes much.

    Parameters
    ----------
    peers : Mapping[str, Peer]
        Connected.
    path : str
        A large text file on the server.
    plan : Plan
        The run.

    Returns
    -------
    Measurement
        Seconds.
    """
    size = os.path.getsize(path)

    def one(peer: Peer) -> float:
        began = time.perf_counter()
        count = peer.read(f"cat {path}")
        took = time.perf_counter() - began
        if count not in (size, -1):
            raise RuntimeError(f"{count} bytes of {size} came")
        return took

    for key, peer in peers.items():
        if not peer.reads_much:
            print(f"  {key} takes large outputs in quadratic time: passed over")
    functions = {
        key: functools.partial(one, peer) for key, peer in peers.items() if peer.reads_much
    }
    return interleave(
        Measurement(f"{size >> 20} MiB of output", "ms"),
        functions,
        plan.big_rounds,
        budget=plan.patience * 2,
    )
