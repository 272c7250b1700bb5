"""
What a command and a connection cost: each neighbour in a process of its own.

``python -m benchmarks.costs PEER TARGETS PLAN`` (the latter two as JSON) prints them as JSON.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import resource
import subprocess
import sys
from typing import Any, Dict, Iterable, List

from benchmarks.far import far
from benchmarks.measure import Measurement
from benchmarks.peers import installed
from benchmarks.plan import Plan
from benchmarks.target import ROOT, Target

__all__ = ["costs"]

_LIMIT = 300.0
_COMMAND = "echo hi"
_WAYS = (
    ("command_cpu", "CPU per command", "ms"),
    ("connection_cpu", "CPU per connection", "ms"),
    ("connection_memory", "memory per connection", "KiB"),
    ("first_memory", "memory with one connection", "MiB"),
)


def costs(names: Iterable[str], target: Target, plan: Plan) -> List[Measurement]:
    """
    Count what each neighbour costs.

    Parameters
    ----------
    names : Iterable[str]
        The neighbours.
    target : Target
        The server.
    plan : Plan
        The run.

    Returns
    -------
    List[Measurement]
        CPU of a command, CPU and memory of a connection, memory of the whole.
    """
    found = [Measurement(title, unit) for _, title, unit in _WAYS]
    with far(target, 0.0, plan.cost_connections) as targets:
        for name in names:
            counted = _count_elsewhere(name, targets, plan)
            for measurement, (key, _, _) in zip(found, _WAYS):
                if key in counted:
                    measurement.values[name] = [counted[key]]
                measurement.load = os.getloadavg()[0]
    return found


def _count_elsewhere(name: str, targets: List[Target], plan: Plan) -> Dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.costs", name, json.dumps(targets)]
    try:
        done = subprocess.run(
            [*command, json.dumps(plan)],
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            check=True,
            timeout=_LIMIT,
            cwd=ROOT,
        )
    except subprocess.SubprocessError as error:
        print(f"  costs of {name}: {error}", file=sys.stderr)
        return {}
    counted: Dict[str, float] = json.loads(done.stdout.decode().strip().splitlines()[-1])
    return counted


def _cpu() -> float:
    """Give the CPU seconds of this process and of those it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _memory() -> float:
    """Give this process's own memory in KiB."""
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:
        _, resident, shared = file.read().split()[:3]
    return (int(resident) - int(shared)) * resource.getpagesize() / 1024


def _main() -> None:
    name, targets, plan = sys.argv[1], json.loads(sys.argv[2]), Plan(*json.loads(sys.argv[3]))
    logging.getLogger().setLevel(logging.CRITICAL)
    kind: Any = installed([name])[0][name]
    peers = [kind(Target(*target)) for target in targets]
    found: Dict[str, float] = {}
    first = peers[0]
    first.connect()
    for _ in range(20):
        first.run(_COMMAND)
    if os.path.exists("/proc/self/statm"):
        found["first_memory"] = _memory() / 1024
    began = _cpu()
    for _ in range(plan.cost_commands):
        first.run(_COMMAND)
    found["command_cpu"] = (_cpu() - began) / plan.cost_commands
    if name != "OpenSSH":  # what lives in a process of its own would not be counted
        before, began = _memory(), _cpu()
        for peer in peers[1:]:
            peer.connect()
        more = len(peers) - 1
        found["connection_cpu"] = (_cpu() - began) / more
        found["connection_memory"] = (_memory() - before) / more
    print(json.dumps(found), flush=True)
    os._exit(0)  # what the neighbours leave behind is not ours to tidy up


if __name__ == "__main__":
    _main()
