"""How much of everything: a quick look, or the numbers to be believed."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["FULL", "QUICK", "Plan"]

MIB = 1024 * 1024


class Plan(NamedTuple):
    """
    The sizes of one run.

    Attributes
    ----------
    near_commands, far_commands : int
        Commands timed of each neighbour, on loopback and at 60 ms.
    rate_commands, rate_rounds : int
        Commands of all threads together, and how often.
    dials : int
        Connections made for the time to the first command.
    hosts, host_rounds : int
        Hosts dialled at once, and how often.
    big, big_rounds : int
        Bytes of the large output and the large file, and how often.
    files, tree_rounds : int
        Small files, and how often their tree is copied.
    far_files, far_rounds : int
        The same at 60 ms.
    cost_commands, cost_connections : int
        Commands and connections whose costs are counted.
    patience : float
        Seconds after which a measurement begins no further round.
    slow_ones : bool
        Whether neighbours are waited for that dial many hosts one after the other.
    """

    near_commands: int
    far_commands: int
    rate_commands: int
    rate_rounds: int
    dials: int
    hosts: int
    host_rounds: int
    big: int
    big_rounds: int
    files: int
    tree_rounds: int
    far_files: int
    far_rounds: int
    cost_commands: int
    cost_connections: int
    patience: float
    slow_ones: bool


QUICK = Plan(100, 10, 400, 2, 5, 100, 1, 64 * MIB, 2, 500, 2, 400, 1, 200, 20, 15.0, False)
FULL = Plan(400, 30, 800, 5, 15, 100, 5, 256 * MIB, 7, 2000, 7, 400, 5, 500, 50, 60.0, True)
