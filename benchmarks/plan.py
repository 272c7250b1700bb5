"""How much of everything: a quick look, or the numbers to be believed."""

from __future__ import annotations

from typing import NamedTuple, Tuple

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
    many_commands, many_rounds : int
        Commands of 64 threads over eight hosts, and how often.
    fleet : Tuple[int, ...]
        Numbers of hosts that one process, a pool and dask are given.
    big, big_rounds : int
        Bytes of the large output and the large file, and how often.
    files, tree_rounds : int
        Small files, and how often their tree is copied.
    far_files, far_rounds : int
        The same at 60 ms.
    again_files, again_rounds : int
        Small files at 300 ms, and how often they are copied where they are already.
    streams, stuck : int
        Streams at once through a forward, and those that nobody reads.
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
    many_commands: int
    many_rounds: int
    fleet: Tuple[int, ...]
    big: int
    big_rounds: int
    files: int
    tree_rounds: int
    far_files: int
    far_rounds: int
    again_files: int
    again_rounds: int
    streams: int
    stuck: int
    cost_commands: int
    cost_connections: int
    patience: float
    slow_ones: bool


QUICK = Plan(
    near_commands=100,
    far_commands=10,
    rate_commands=400,
    rate_rounds=2,
    dials=5,
    hosts=100,
    host_rounds=1,
    many_commands=1280,
    many_rounds=1,
    fleet=(30, 100),
    big=64 * MIB,
    big_rounds=2,
    files=500,
    tree_rounds=2,
    far_files=400,
    far_rounds=1,
    again_files=200,
    again_rounds=1,
    streams=100,
    stuck=20,
    cost_commands=200,
    cost_connections=20,
    patience=15.0,
    slow_ones=False,
)
FULL = Plan(
    near_commands=400,
    far_commands=30,
    rate_commands=800,
    rate_rounds=5,
    dials=15,
    hosts=100,
    host_rounds=5,
    many_commands=20_000,
    many_rounds=3,
    fleet=(100, 300, 1000),
    big=256 * MIB,
    big_rounds=7,
    files=2000,
    tree_rounds=7,
    far_files=400,
    far_rounds=5,
    again_files=1000,
    again_rounds=3,
    streams=500,
    stuck=100,
    cost_commands=500,
    cost_connections=50,
    patience=60.0,
    slow_ones=True,
)
