"""Code written for paramiko: clients in threads that connect, run a command and close."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict

import paramiko

from benchmarks.measure import OURS, Measurement, interleave, seconds
from benchmarks.plan import Plan
from benchmarks.target import Target
from ssh_service import paramiko as shared

__all__ = ["DELAY", "clients"]

DELAY = 0.02
"""Seconds each way on the link of these measurements."""

_CLIENTS = 20
_THREADS = 8
_COMMAND = "echo hi"


def clients(target: Target, name: str, plan: Plan) -> Measurement:
    """
    Time twenty clients from eight threads, with paramiko and with what takes its place.

    Parameters
    ----------
    target : Target
        The server.
    name : str
        What to call it.
    plan : Plan
        The run.

    Returns
    -------
    Measurement
        Seconds.  Ours begins without a connection each time: its login counts.
    """
    functions: Dict[str, Callable[[], float]] = {
        OURS: functools.partial(_burst, shared, target),
        "paramiko": functools.partial(_burst, paramiko, target),
    }
    for function in functions.values():
        function()
    return interleave(Measurement(name, "ms"), functions, plan.dials, budget=plan.patience)


def _burst(module: Any, target: Target) -> float:
    if module is shared:
        shared.fresh(target.host)

    def all_of_them() -> None:
        with ThreadPoolExecutor(_THREADS) as pool:
            for answer in pool.map(lambda _: _one(module, target), range(_CLIENTS)):
                if answer != b"hi\n":
                    raise RuntimeError(f"the command answered {answer!r}")

    return seconds(all_of_them)


def _one(module: Any, target: Target) -> bytes:
    client = module.SSHClient()
    client.set_missing_host_key_policy(module.AutoAddPolicy())
    client.connect(
        target.host,
        target.port,
        target.username,
        key_filename=target.client_key,
        allow_agent=False,
        look_for_keys=False,
    )
    try:
        _, stdout, _ = client.exec_command(_COMMAND)
        answer: bytes = stdout.read()
        stdout.channel.recv_exit_status()
        return answer
    finally:
        client.close()
