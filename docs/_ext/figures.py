"""
The benchmarks' figures as Markdown, from ``docs/benchmarks.json``.

``benchmark-run`` is what was run; ``benchmark-commands``, ``-clients``, ``-copies``, ``-again``,
``-forwards`` and ``-costs`` are tables of measurements; ``benchmark-hosts`` is what many hosts
took, and ``benchmark-reckoning`` what more of them take.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional

from benchmarks.pictures import group_of, title_of

__all__ = ["FIGURES", "TABLES", "table"]

DOCS = Path(__file__).resolve().parents[1]
FIGURES = DOCS / "benchmarks.json"

_OURS = "ssh_service"
_SCALES = {"ms": 1000.0}
_NOT_MEASURED = "*Not measured in the run that this page shows.*"

_ONE, _POOL, _DASK = _WAYS = ("one process", "process pool", "dask")
_HOSTS = (1_000, 10_000, 100_000)
# What is assumed of the hosts and machines, beyond what was measured.
_AT_ONCE = 1_000
_SECONDS_EACH = 2.0
_CORES = 8
_MACHINES = 4

_Row = Mapping[str, Any]


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """Make a table of Markdown."""
    heads = list(heads)
    yield f"| {' | '.join(heads)} |"
    yield "|" + "---|" * len(heads)
    for row in rows:
        cells = (cell.replace("|", "\\|") for cell in row)
        yield f"| {' | '.join(cells)} |"


def _figures() -> Any:
    return json.loads(FIGURES.read_text("utf-8"))


def _run() -> Iterator[str]:
    figures = _figures()
    machine = figures["machine"]
    loads = [each["load"] for each in figures["measurements"]]
    yield (
        f"Measured {figures['began'][:10]} ({figures['mode']} run of `python -m benchmarks`):"
        f" {machine['cpus']} cores, Python {machine['python']}, paramiko {machine['paramiko']};"
        f" load of the machine {min(loads):.1f} to {max(loads):.1f}."
    )
    named = {
        name: version if name.split()[0] in version else f"{name} {version}"
        for name, version in figures["versions"].items()
        if version and name not in (_OURS, "paramiko", "sftp", "rsync -a")
    }
    yield f"Peers: {'; '.join(named.values())}."
    for name, why in figures["missing"].items():
        yield f"Not measured: {name} ({why})."


def _measurements(group: str) -> Iterator[str]:
    """Make the table of a group of measurements, with a column for each peer that took part."""
    rows = [one for one in _figures()["measurements"] if group_of(one["name"]) == group]
    if not rows:
        yield _NOT_MEASURED
        return
    peers = list(dict.fromkeys(peer for row in rows for peer in row["peers"]))
    heads = ("", *(f"**{peer}**" if peer == _OURS else peer for peer in peers))
    yield from table(heads, (_cells(row, peers) for row in rows))


def _forwards() -> Iterator[str]:
    yield from _measurements("forwards")
    if (DOCS / "pictures" / "forwards.png").exists():
        yield ""
        yield "![bytes, round trips and streams through a forward](pictures/forwards.png)"


def _cells(measurement: _Row, peers: Iterable[str]) -> Iterator[str]:
    scale = _SCALES.get(measurement["unit"], 1.0)
    yield title_of(measurement)
    for peer in peers:
        found = measurement["peers"].get(peer, {"median": None})
        if found["median"] is None:
            yield "-"
        elif peer == _OURS:
            yield f"**{_short(found['median'] * scale)}**"
        else:
            ratio = found["ours_to_theirs"]
            yield _short(found["median"] * scale) + (f" ({ratio:.2f})" if ratio else "")


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


# Many hosts.


def _hosts() -> Iterator[str]:
    hosts = _figures().get("hosts")
    if hosts is None:
        yield _NOT_MEASURED
        return
    count = max(row["hosts"] for row in hosts["rows"])
    yield f"Measured {hosts['began'][:10]}: {hosts['cpus']} cores; load {hosts['load']}."
    yield ""
    heads = ("hosts", "at once", "", "time", "CPU", "CPU per host", "memory", "first result")
    rows = (
        (
            f"{row['hosts']:,}",
            str(row["parallel"]),
            row["way"] + (f", {hosts['workers']} workers" if row["way"] != _ONE else ""),
            f"{row['seconds']:.1f} s",
            f"{row['cpu_s']:.1f} s",
            _milliseconds(row["cpu_s"] / row["hosts"]),
            f"{row['memory_mb']:.0f} MB",
            f"{row['first_s']:.1f} s",
        )
        for row in hosts["rows"]
        if row["hosts"] == count
    )
    yield from table(heads, rows)


def _reckoning() -> Iterator[str]:
    hosts = _figures().get("hosts")
    if hosts is None:
        yield _NOT_MEASURED
        return
    rows = hosts["rows"]
    heads = ("", "reckoned as", *(f"{count:,} hosts" for count in _HOSTS))
    yield from table(heads, [*_of_one(hosts), *_of_pool(rows), *_of_dask(rows)])


def _find(rows: List[_Row], way: str) -> Optional[_Row]:
    """Find the row of a way with the most hosts."""
    some = [row for row in rows if row["way"] == way]
    return max(some, key=lambda row: row["hosts"]) if some else None


def _reckoned(
    what: str, how: str, reckon: Callable[[int], float], show: Callable[[float], str]
) -> Iterator[str]:
    yield what
    yield how
    for count in _HOSTS:
        yield show(reckon(count))


def _of_one(hosts: Mapping[str, Any]) -> Iterator[Iterable[str]]:
    rows = hosts["rows"]
    row = _find(rows, _ONE)
    if row is None:
        return
    each = row["cpu_s"] / row["hosts"]
    yield _reckoned(
        "one process: CPU", f"N × {_milliseconds(each)}", lambda count: count * each, _duration
    )
    yield _reckoned(
        f"one process: time, if a host takes {_SECONDS_EACH:g} s and {_AT_ONCE:,} run at once",
        f"N / {_AT_ONCE:,} × {_SECONDS_EACH:g} s, but at least the CPU time",
        lambda count: max(count / _AT_ONCE * _SECONDS_EACH, count * each),
        _duration,
    )
    waiting = hosts.get("waiting")
    fewer = [one for one in rows if one["way"] == _ONE and one["hosts"] < row["hosts"]]
    if waiting is None or not fewer:
        return
    few = max(fewer, key=lambda one: one["hosts"])
    start = waiting["start_mb"]
    running = (waiting["memory_mb"] - start) / waiting["hosts"]
    done = (row["memory_mb"] - few["memory_mb"]) / (row["hosts"] - few["hosts"])
    yield _reckoned(
        f"one process: memory, {_AT_ONCE:,} at once",
        f"{start:.0f} MB + {_AT_ONCE:,} × {running * 1000:.0f} kB + N × {done * 1000:.1f} kB",
        lambda count: start + _AT_ONCE * running + count * done,
        _megabytes,
    )


def _of_pool(rows: List[_Row]) -> Iterator[Iterable[str]]:
    row = _find(rows, _POOL)
    if row is None:
        return
    each = row["cpu_s"] / row["hosts"]
    yield _reckoned(
        f"process pool: CPU time on {_CORES} free cores",
        f"N × {_milliseconds(each)} / {_CORES}",
        lambda count: count * each / _CORES,
        _duration,
    )


def _of_dask(rows: List[_Row]) -> Iterator[Iterable[str]]:
    row = _find(rows, _DASK)
    if row is None:
        return
    cores = _MACHINES * _CORES
    each, own = row["cpu_s"] / row["hosts"], row.get("own_cpu_s")
    if own is not None:
        one = own / row["hosts"]
        each -= one
        yield _reckoned(
            "dask: CPU of its scheduler and the client, the same with any number of machines",
            f"N × {_milliseconds(one)}",
            lambda count: count * one,
            _duration,
        )
    yield _reckoned(
        f"dask: CPU time of {'all' if own is None else 'the workers'} on {_MACHINES} machines of"
        f" {_CORES} cores",
        f"N × {_milliseconds(each)} / {cores}",
        lambda count: count * each / cores,
        _duration,
    )


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _megabytes(megabytes: float) -> str:
    return f"{megabytes:.0f} MB" if megabytes < 1000 else f"{megabytes / 1000:.1f} GB"


TABLES: Dict[str, Callable[[], Iterator[str]]] = {
    "benchmark-again": lambda: _measurements("again"),
    "benchmark-clients": lambda: _measurements("clients"),
    "benchmark-commands": lambda: _measurements("commands"),
    "benchmark-copies": lambda: _measurements("copies"),
    "benchmark-costs": lambda: _measurements("costs"),
    "benchmark-forwards": _forwards,
    "benchmark-hosts": _hosts,
    "benchmark-reckoning": _reckoning,
    "benchmark-run": _run,
}
