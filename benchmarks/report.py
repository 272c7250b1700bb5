"""What is printed, what is written, and whether it is enough."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import sys
import time
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import paramiko

from benchmarks.measure import OURS, Measurement

__all__ = ["MUST_REACH", "Report", "Requirement"]

_SCALES = {"ms": 1000.0}


class Requirement(NamedTuple):
    """
    What has to be reached.

    Attributes
    ----------
    measurement : str
        The measurement's name; in a quick run one with smaller numbers stands for it.
    peer : str
        Beside whom; empty where our own value counts.
    limit : float
        The most that ours divided by theirs may be, or our own value in the measurement's unit;
        for what should be large, the least.
    """

    measurement: str
    peer: str
    limit: float


# How many round trips a login takes is a test's business: tests/sshd/test_login_round_trips.py.
MUST_REACH = (
    Requirement("command, near", "mlos_bench", 0.75),
    Requirement("command, near", "ssh2 (C)", 1.15),
    Requirement("/bin/true, near", "mlos_bench", 0.75),
    Requirement("/bin/true, near", "ssh2 (C)", 1.15),
    Requirement("commands/s from 8 threads", "mlos_bench", 1.0),
    Requirement("commands/s from 8 threads", "ssh2 (C)", 0.95),
    Requirement("commands/s from 32 threads", "mlos_bench", 1.0),
    Requirement("20 clients, near", "paramiko", 0.25),
    Requirement("20 clients at 40 ms", "paramiko", 0.5),
    Requirement("100 hosts at 60 ms, times one", "", 2.0),
    Requirement("100 hosts at 60 ms, client's part of the CPU", "", 1 / 3),
    Requirement("1000 hosts in one process, CPU per host", "", 4.0),
    Requirement("256 MiB of output", "OpenSSH", 1.0),
    Requirement("256 MiB up", "OpenSSH", 0.95),
    Requirement("256 MiB down", "OpenSSH", 0.85),
    Requirement("256 MiB up", "mlos_bench", 1 / 1.5),
    Requirement("256 MiB down", "mlos_bench", 1 / 1.5),
    Requirement("2000 x 4 KiB up", "rsync -a", 1.0),
    Requirement("2000 x 4 KiB down", "rsync -a", 1.0),
    Requirement("2000 x 4 KiB up", "mlos_bench", 1 / 5),
    Requirement("2000 x 4 KiB down", "mlos_bench", 1 / 5),
    Requirement("400 x 3 KB at 60 ms up", "", 2500.0),
    Requirement("400 x 3 KB at 60 ms down", "", 2500.0),
    Requirement("2000 x 4 KiB up again, unchanged", "rsync -a", 1.0),
    Requirement("2000 x 4 KiB down again, unchanged", "rsync -a", 1.0),
    Requirement("2000 x 4 KiB up again, everything, times new", "", 2.0),
    Requirement("2000 x 4 KiB down again, everything, times new", "", 2.0),
    Requirement("1000 x 3 KB at 300 ms up again, unchanged", "", 3000.0),
    Requirement("1000 x 3 KB at 300 ms up again, everything, times new", "", 2.0),
    Requirement("CPU per command", "mlos_bench", 0.4),
    Requirement("CPU per connection", "", 2.0),
    Requirement("memory per connection", "", 55.0),
    Requirement("256 MiB up, forwarded", "OpenSSH", 1 / 0.9),
    Requirement("256 MiB down, forwarded", "OpenSSH", 1 / 0.9),
    Requirement("256 MiB up, forwarded", "sshtunnel", 1 / 4),
    Requirement("256 MiB down, forwarded", "sshtunnel", 1 / 4),
    Requirement("round trip, forwarded", "OpenSSH", 1.5),
    Requirement("64 MiB down at 60 ms, forwarded", "OpenSSH", 1 / 0.8),
    Requirement("500 streams at once, threads more, forwarded", "", 3.0),
    Requirement("memory for 100 streams that nobody reads, forwarded", "", 64.0),
)


class Report:
    """
    The measurements of one run.

    Parameters
    ----------
    versions : Dict[str, str]
        What took part, by name.
    missing : Dict[str, str]
        What did not, and why.

    Attributes
    ----------
    versions, missing : Dict[str, str]
        The same; parts of a run add to them.
    hosts : Optional[Dict[str, Any]]
        What `benchmarks.hosts_1000` found.
    """

    def __init__(self, versions: Dict[str, str], missing: Dict[str, str]) -> None:
        self.versions = versions
        self.missing = missing
        self.hosts: Optional[Dict[str, Any]] = None
        self._measurements: List[Measurement] = []
        self._began = time.time()

    def add(self, measurement: Measurement) -> None:
        """Take a measurement in, and print it."""
        self._measurements.append(measurement)
        scale = _SCALES.get(measurement.unit, 1.0)
        cells = []
        for peer in measurement.values:
            median, ratio = measurement.median(peer) * scale, measurement.ratio(peer)
            if math.isnan(median):
                cells.append(f"{peer} failed")
                continue
            text = f"{peer} {_short(median)}"
            if not math.isnan(measurement.p99(peer)):
                text += f" (p99 {_short(measurement.p99(peer) * scale)})"
            if peer != OURS and not math.isnan(ratio):
                text += f" [{ratio:.2f}]"
            cells.append(text)
        title = f"{measurement.name}, {measurement.unit}"
        print(f"{title:<38} " + " | ".join(cells), flush=True)

    def print_requirements(self) -> None:
        """Print what has to be reached, and whether it is."""
        print("\nto be reached (ours : theirs, medians of rounds side by side, or our own value)")
        for row in self._requirements():
            promise = f"{row['promise']} : {row['peer']}" if row["peer"] else row["promise"]
            value = "      -" if row["value"] is None else f"{row['value']:7.2f}"
            verdict = {True: "reached", False: "FALLS SHORT", None: "not measured"}[row["reached"]]
            stand_in = row["measurement"] not in (None, row["promise"])
            sign = "at least" if row["at_least"] else "at most "
            print(
                f"  {promise:<53} {value}  ({sign} {row['limit']:.2f})  {verdict}"
                + (f" by {row['measurement']}" if stand_in else "")
            )

    def _requirements(self) -> List[Dict[str, Any]]:
        rows = []
        for requirement in MUST_REACH:
            measurement, peer = self._find(requirement.measurement), requirement.peer
            value = math.nan
            if measurement is not None:
                scale = _SCALES.get(measurement.unit, 1.0)
                value = measurement.ratio(peer) if peer else measurement.median(OURS) * scale
            more = requirement.measurement.startswith("commands/s")
            reached = value >= requirement.limit if more else value <= requirement.limit
            rows.append(
                {
                    "promise": requirement.measurement,
                    "measurement": None if measurement is None else measurement.name,
                    "peer": peer,
                    "value": None if math.isnan(value) else round(value, 4),
                    "limit": round(requirement.limit, 4),
                    "at_least": more,
                    "reached": None if math.isnan(value) else reached,
                }
            )
        return rows

    def _find(self, name: str) -> Optional[Measurement]:
        """Find a measurement; one that differs in its numbers alone may stand for it."""
        found = [each for each in self._measurements if each.name == name]
        kind = re.sub(r"\d+", "", name)
        alike = [each for each in self._measurements if re.sub(r"\d+", "", each.name) == kind]
        return (found or alike or [None])[0]

    def write(self, path: str, mode: str, arguments: Sequence[str]) -> None:
        """
        Write all of it as JSON.

        Parameters
        ----------
        path : str
            Where.
        mode : str
            ``quick`` or ``full``.
        arguments : Sequence[str]
            What the run was asked for.
        """
        content = {
            "mode": mode,
            "arguments": list(arguments),
            "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._began)),
            "seconds": round(time.time() - self._began, 1),
            "machine": {
                "cpus": os.cpu_count(),
                "system": platform.platform(),
                "python": sys.version.split()[0],
                "paramiko": str(paramiko.__version__),
            },
            "versions": self.versions,
            "missing": self.missing,
            "must_reach": self._requirements(),
            "measurements": [measurement.as_json() for measurement in self._measurements],
        }
        if self.hosts is not None:
            content["hosts"] = self.hosts
        with open(path, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
            file.write("\n")
        print(f"written to {path}")


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
