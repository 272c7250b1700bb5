"""Run the benchmarks: ``python -m benchmarks --help``."""

from __future__ import annotations

import argparse
import contextlib
import getpass
import logging
import os
import sys
from typing import Dict, Iterator, Mapping, Optional, Sequence, Type

from benchmarks import clients, commands, copies, costs, forwards, hosts_1000, many, pictures
from benchmarks.far import far
from benchmarks.measure import OURS, Measurement
from benchmarks.peers import NAMES, Peer, installed
from benchmarks.plan import FULL, MIB, QUICK, Plan
from benchmarks.report import Report
from benchmarks.target import Target, make_user, serve, shell_seconds

_SLOW_SHELL = 0.01
_PARTS = (
    "latency",
    "rates",
    "first",
    "clients",
    "hosts",
    "many",
    "output",
    "big",
    "tree",
    "far",
    "again",
    "costs",
    "forwards",
    "fleet",
)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """
    Measure, print and write.

    Parameters
    ----------
    argv : Optional[Sequence[str]]
        The arguments; None takes the process's own.

    Returns
    -------
    int
        The exit status.
    """
    arguments = _parse(argv)
    plan = FULL if arguments.full else QUICK
    logging.getLogger().setLevel(logging.CRITICAL)  # the neighbours log what fails, too
    if arguments.make_user:
        make_user(arguments.make_user)
    user = arguments.user or arguments.make_user or getpass.getuser()
    kinds, missing = installed(arguments.peer)
    for name, why in missing.items():
        print(f"passed over: {name} ({why})")
    shell = shell_seconds(user)
    print(f"login user {user}; its shell takes {shell * 1000:.1f} ms to run nothing")
    if shell > _SLOW_SHELL:
        print(
            "  THAT IS SLOW: it hides what is measured of commands.  Name a user whose shell is"
            " quick (--user), or have one made, as root (--make-user NAME)."
        )
    runners = {name: kind for name, kind in kinds.items() if kind.runs_commands}
    versions = {name: kind.version() for name, kind in kinds.items()}
    report = Report(versions, missing)
    try:
        with serve(user) as target:
            for part in arguments.part or _PARTS:
                some = kinds if part in _COPIES else runners
                try:
                    _RUN[part](report, some, target, plan)
                except Exception as error:  # the other parts can be measured all the same
                    print(f"  the part {part} failed: {error!r}", file=sys.stderr)
                    report.missing[f"the rest of {part}"] = repr(error)
    finally:
        report.print_requirements()
        report.write(arguments.json, "full" if arguments.full else "quick", argv or sys.argv[1:])
    if arguments.pictures:
        pictures.publish(arguments.json)
    return 0


def _parse(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--quick", action="store_true", help="five minutes or so (the default)")
    how.add_argument(
        "--full", action="store_true", help="the numbers to be believed: most of an hour"
    )
    parser.add_argument("--user", help="who logs in (another than you: as root)")
    parser.add_argument("--make-user", metavar="NAME", help="make that user first, as root")
    parser.add_argument("--json", default="benchmarks.json", help="where to write (%(default)s)")
    parser.add_argument("--pictures", action="store_true", help="draw those of docs/ afterwards")
    parser.add_argument("--part", action="append", choices=_PARTS, help="only this; repeatable")
    parser.add_argument(
        "--peer", action="append", choices=NAMES, default=[], help="only this; repeatable"
    )
    return parser.parse_args(argv)


@contextlib.contextmanager
def _connected(kinds: Mapping[str, Type[Peer]], target: Target) -> Iterator[Dict[str, Peer]]:
    """Connect all neighbours; those that cannot are passed over, aloud."""
    with contextlib.ExitStack() as stack:
        peers = {}
        for name, kind in kinds.items():
            try:
                peers[name] = stack.enter_context(kind(target))
            except Exception as error:
                print(f"  {name} cannot connect: {error!r}", file=sys.stderr)
        yield peers


def _latency(report: Report, kinds: Mapping[str, Type[Peer]], target: Target, plan: Plan) -> None:
    with _connected(kinds, target) as peers:
        report.add(commands.latency(peers, "command, near", plan.near_commands, plan))
        name = "/bin/true, near"
        report.add(commands.latency(peers, name, plan.near_commands, plan, "/bin/true"))
    with far(target, commands.DELAY) as (distant,), _connected(kinds, distant) as peers:
        report.add(commands.latency(peers, "command, at 60 ms", plan.far_commands, plan))


def _rates(report: Report, kinds: Mapping[str, Type[Peer]], target: Target, plan: Plan) -> None:
    with _connected(kinds, target) as peers:
        for measurement in commands.rates(peers, plan):
            report.add(measurement)


def _first(report: Report, kinds: Mapping[str, Type[Peer]], target: Target, plan: Plan) -> None:
    report.add(commands.first(kinds, target, "first command, dial included", plan))
    with far(target, commands.DELAY) as (distant,):
        report.add(commands.first(kinds, distant, "first command at 60 ms, dial included", plan))


def _clients(report: Report, kinds: Mapping[str, Type[Peer]], target: Target, plan: Plan) -> None:
    report.add(clients.clients(target, "20 clients, near", plan))
    with far(target, clients.DELAY) as (distant,):
        report.add(clients.clients(distant, "20 clients at 40 ms", plan))


def _hosts(report: Report, kinds: Mapping[str, Type[Peer]], target: Target, plan: Plan) -> None:
    for measurement in commands.hosts(kinds, target, plan):
        report.add(measurement)


def _many(report: Report, kinds: Mapping[str, Type[Peer]], target: Target, plan: Plan) -> None:
    for measurement in many.many(kinds, target.username, plan):
        report.add(measurement)


def _big_file(target: Target, plan: Plan) -> str:
    path = os.path.join(target.folder, "big")
    if not os.path.exists(path):
        copies.make_file(path, plan.big)
    return path


def _output(report: Report, kinds: Mapping[str, Type[Peer]], target: Target, plan: Plan) -> None:
    with _connected(kinds, target) as peers:
        report.add(commands.output(peers, _big_file(target, plan), plan))


def _big(report: Report, kinds: Mapping[str, Type[Peer]], target: Target, plan: Plan) -> None:
    path = _big_file(target, plan)
    _copies(report, kinds, target, f"{plan.big // MIB} MiB", path, plan.big_rounds, plan)


def _tree(report: Report, kinds: Mapping[str, Type[Peer]], target: Target, plan: Plan) -> None:
    path = os.path.join(target.folder, "tree")
    copies.make_tree(path, plan.files, copies.SMALL_SIZE)
    name = f"{plan.files} x {copies.SMALL_SIZE >> 10} KiB"
    _copies(report, kinds, target, name, path, plan.tree_rounds, plan)


def _far(report: Report, kinds: Mapping[str, Type[Peer]], target: Target, plan: Plan) -> None:
    path = os.path.join(target.folder, "far-tree")
    copies.make_tree(path, plan.far_files, copies.FAR_SIZE)
    name = f"{plan.far_files} x {copies.FAR_SIZE // 1000} KB at 60 ms"
    with far(target, commands.DELAY) as (distant,):
        _copies(report, kinds, distant, name, path, plan.far_rounds, plan, is_far=True)


def _copies(
    report: Report,
    kinds: Mapping[str, Type[Peer]],
    target: Target,
    name: str,
    source: str,
    rounds: int,
    plan: Plan,
    is_far: bool = False,
) -> None:
    kinds = {key: kind for key, kind in kinds.items() if kind.copies}
    if is_far:  # those that ask for one file after the other need minutes here
        quick = ("ssh_service", "rsync -a")
        kinds = {key: kind for key, kind in kinds.items() if key in quick}
    with _connected(kinds, target) as peers:
        there = os.path.join(target.folder, "there")
        for measurement in copies.copies(peers, name, source, there, rounds, plan):
            report.add(measurement)


def _again(report: Report, kinds: Mapping[str, Type[Peer]], target: Target, plan: Plan) -> None:
    there = os.path.join(target.folder, "there")
    path = os.path.join(target.folder, "again-tree")
    copies.make_tree(path, plan.files, copies.SMALL_SIZE)
    name = f"{plan.files} x {copies.SMALL_SIZE >> 10} KiB"
    kinds = {key: kind for key, kind in kinds.items() if kind.copies_again}
    with _connected(kinds, target) as peers:
        ways, rounds = ("up", "down"), plan.tree_rounds
        for measurement in copies.again(peers, name, path, there, ways, rounds, plan):
            report.add(measurement)
    path = os.path.join(target.folder, "again-far-tree")
    copies.make_tree(path, plan.again_files, copies.FAR_SIZE)
    name = f"{plan.again_files} x {copies.FAR_SIZE // 1000} KB at 300 ms"
    with far(target, copies.FAR_DELAY) as (distant,), _connected(kinds, distant) as peers:
        for measurement in copies.again(
            peers, name, path, there, ("up",), plan.again_rounds, plan
        ):
            report.add(measurement)


def _fleet(report: Report, _: Mapping[str, Type[Peer]], target: Target, plan: Plan) -> None:
    report.hosts = hosts_1000.compare(plan.fleet, "hostname", target.username)
    count = max(plan.fleet)
    row = next(
        row
        for row in report.hosts["rows"]
        if (row["way"], row["hosts"]) == (hosts_1000.WAYS[0], count)
    )
    measurement = Measurement(f"{count} hosts in one process, CPU per host", "ms")
    measurement.values[OURS] = [row["cpu_s"] / row["hosts"]]
    measurement.load = report.hosts["load"]
    report.add(measurement)


def _costs(report: Report, kinds: Mapping[str, Type[Peer]], target: Target, plan: Plan) -> None:
    for measurement in costs.costs(kinds, target, plan):
        report.add(measurement)


_COPIES = ("big", "tree", "far", "again")
_RUN = {
    "latency": _latency,
    "rates": _rates,
    "first": _first,
    "clients": _clients,
    "hosts": _hosts,
    "many": _many,
    "output": _output,
    "big": _big,
    "tree": _tree,
    "far": _far,
    "again": _again,
    "costs": _costs,
    "forwards": forwards.measure,
    "fleet": _fleet,
}

if __name__ == "__main__":
    sys.exit(main())
