"""Many commands from many threads over a few destinations."""

from __future__ import annotations

import contextlib
import functools
import math
import threading
import time
from typing import Dict, Iterator, List, Mapping, Type

from benchmarks.measure import OURS, Measurement, interleave
from benchmarks.peers import Peer
from benchmarks.plan import Plan
from benchmarks.target import ANY_LOOPBACK, Target, serve

__all__ = ["many"]

_THREADS = 64
_DESTINATIONS = 8
_COMMAND = "echo hi"
# Those that could be chosen for this; the others would take minutes.
_PEERS = (OURS, "mlos_bench", "asyncssh", "ssh2 (C)", "ssh-python", "Hussh")
# Seconds that threads wait for each other.
_PATIENCE = 600.0


def many(kinds: Mapping[str, Type[Peer]], username: str, plan: Plan) -> Iterator[Measurement]:
    """
    Run commands from 64 threads over eight destinations.

    Parameters
    ----------
    kinds : Mapping[str, Type[Peer]]
        The neighbours.
    username : str
        Who logs in.
    plan : Plan
        The run.

    Yields
    ------
    Measurement
        Commands per second; then the seconds that one command in a hundred exceeds.
    """
    name = f"{plan.many_commands} commands, {_THREADS} threads, {_DESTINATIONS} hosts"
    p99: Dict[str, List[float]] = {}
    with serve(username, ANY_LOOPBACK) as server:
        targets = [
            server._replace(host=f"127.0.2.{number}") for number in range(1, _DESTINATIONS + 1)
        ]
        functions = {
            key: functools.partial(_run, kinds[key], targets, plan.many_commands, p99)
            for key in _PEERS
            if key in kinds
        }
        rate = Measurement(name, "1/s", more_is_better=True)
        yield interleave(rate, functions, plan.many_rounds, budget=plan.patience * 8)
    slowest = Measurement(f"{name}, p99", "ms")
    slowest.load = rate.load
    slowest.values = {key: p99.get(key, [math.nan]) for key in functions}
    yield slowest


def _run(
    kind: Type[Peer], targets: List[Target], total: int, p99: Dict[str, List[float]]
) -> float:
    each = total // _THREADS
    took: List[float] = []
    errors: List[BaseException] = []
    barrier = threading.Barrier(_THREADS + 1)  # all begin together, and are waited for together

    def work(number: int) -> None:
        try:
            with (
                contextlib.nullcontext(shared[number % _DESTINATIONS])
                if kind.serves_threads
                else kind(targets[number % _DESTINATIONS])
            ) as peer:
                _timed(peer)
                barrier.wait(_PATIENCE)
                mine = [_timed(peer) for _ in range(each)]
                barrier.wait(_PATIENCE)
            took.extend(mine)
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    with contextlib.ExitStack() as stack:
        shared = [stack.enter_context(kind(target)) for target in targets if kind.serves_threads]
        threads = [threading.Thread(target=work, args=(number,)) for number in range(_THREADS)]
        for thread in threads:
            thread.start()
        seconds = math.nan
        with contextlib.suppress(threading.BrokenBarrierError):
            barrier.wait(_PATIENCE)
            began = time.perf_counter()
            barrier.wait(_PATIENCE)
            seconds = time.perf_counter() - began
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
    p99.setdefault(kind.name, []).append(sorted(took)[int(len(took) * 0.99)])
    return each * _THREADS / seconds


def _timed(peer: Peer) -> float:
    began = time.perf_counter()
    text = peer.run(_COMMAND)
    took = time.perf_counter() - began
    if text != "hi\n":
        raise RuntimeError(f"the command answered {text!r}")
    return took
