"""Interleaved measurements: every neighbour in every round, so that noise falls on all alike."""

from __future__ import annotations

import math
import os
import random
import statistics
import sys
import time
from typing import Any, Callable, Dict, List, Mapping, Optional, Set

__all__ = ["Measurement", "OURS", "interleave", "seconds"]

OURS = "ssh_service"

_COMPLAINT = 200
"""Characters of an error that are shown."""


class Measurement:
    """
    What was measured of each neighbour, round by round.

    Attributes
    ----------
    values : Dict[str, List[float]]
        By neighbour; NaN where a round failed.
    load : float
        The machine's load average when it was over.
    """

    def __init__(self, name: str, unit: str, *, more_is_better: bool = False) -> None:
        self.name = name
        self.unit = unit
        self.more_is_better = more_is_better
        self.values: Dict[str, List[float]] = {}
        self.failures: Dict[str, str] = {}
        self.load = 0.0

    def median(self, peer: str) -> float:
        """Give a neighbour's median, NaN if there is none."""
        good = [value for value in self.values.get(peer, ()) if not math.isnan(value)]
        return statistics.median(good) if good else math.nan

    def p99(self, peer: str) -> float:
        """Give the value that one in a hundred exceeds; NaN where too few were measured."""
        good = sorted(value for value in self.values.get(peer, ()) if not math.isnan(value))
        return good[int(len(good) * 0.99)] if len(good) >= 100 else math.nan

    def ratio(self, peer: str) -> float:
        """Give the median, over all rounds, of ours divided by the neighbour's."""
        pairs = zip(self.values.get(OURS, ()), self.values.get(peer, ()))
        ratios = [ours / theirs for ours, theirs in pairs if theirs > 0]
        ratios = [ratio for ratio in ratios if not math.isnan(ratio)]
        return statistics.median(ratios) if ratios else math.nan

    def as_json(self) -> Dict[str, Any]:
        """Give all of it in JSON's types."""
        return {
            "name": self.name,
            "unit": self.unit,
            "more_is_better": self.more_is_better,
            "load": self.load,
            "failures": self.failures,
            "peers": {
                peer: {
                    "median": _number(self.median(peer)),
                    "p99": _number(self.p99(peer)),
                    "ours_to_theirs": _number(self.ratio(peer)),
                    "values": [_number(value) for value in values],
                }
                for peer, values in self.values.items()
            },
        }


def _number(value: float) -> Optional[float]:
    return None if math.isnan(value) else float(f"{value:.6g}")


def seconds(function: Callable[[], Any]) -> float:
    """
    Time a call.

    Parameters
    ----------
    function : Callable[[], Any]
        What to call.

    Returns
    -------
    float
        Seconds.
    """
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def interleave(
    measurement: Measurement,
    functions: Mapping[str, Callable[[], float]],
    rounds: int,
    *,
    budget: float = math.inf,
) -> Measurement:
    """
    Measure every neighbour once a round, in another order each time.

    What one leaves behind (a channel being closed, a session being opened in advance) may hold up
    who comes next: it should not always be the same one.

    Parameters
    ----------
    measurement : Measurement
        Gets the values.
    functions : Mapping[str, Callable[[], float]]
        By neighbour; each measures once.  One that fails is not asked again.
    rounds : int
        How many rounds.
    budget : float
        Seconds after which no further round begins; who takes a quarter of that for itself is
        asked once, and not counted.

    Returns
    -------
    Measurement
        The same.
    """
    names = list(functions)
    order = random.Random(0)
    slow: Set[str] = set()
    began = time.monotonic()
    for name in names:
        measurement.values[name] = []
    for number in range(rounds):
        if number and time.monotonic() - began > budget:
            break
        for name in order.sample(names, len(names)):
            value = math.nan
            if name not in measurement.failures and name not in slow:
                started = time.monotonic()
                try:
                    value = functions[name]()
                except Exception as error:  # the others can be measured all the same
                    text = f"{type(error).__name__}: {error}"[:_COMPLAINT]
                    measurement.failures[name] = text
                    print(f"  {measurement.name}: {name} failed: {text}", file=sys.stderr)
                took = time.monotonic() - started
                if took > budget / 4:
                    slow.add(name)
                    began += took  # not at the others' expense
            measurement.values[name].append(value)
    measurement.load = os.getloadavg()[0]
    return measurement
