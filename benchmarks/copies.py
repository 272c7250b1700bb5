"""Copies: a large file, many small ones, near and far; what arrives is compared each time."""

from __future__ import annotations

import filecmp
import functools
import math
import os
import shutil
import stat
import time
from typing import Callable, Dict, Iterator, List, Mapping, Sequence

from benchmarks.measure import Measurement, interleave
from benchmarks.peers import Peer
from benchmarks.plan import Plan

__all__ = ["FAR_DELAY", "FAR_SIZE", "SMALL_SIZE", "again", "copies", "make_file", "make_tree"]

SMALL_SIZE = 4096
FAR_SIZE = 3000
FAR_DELAY = 0.15
"""Seconds each way on the link over which a tree is copied again."""

_LINE = 64


def make_file(path: str, size: int) -> None:
    """
    Write a file of random text.

    Parameters
    ----------
    path : str
        Where.
    size : int
        Bytes, a multiple of 64.
    """
    with open(path, "wb") as file:
        for _ in range(size // _LINE // 16384 or 1):
            block = os.urandom(min(size, _LINE * 16384) // 2).hex().encode()
            lines = [block[at : at + _LINE - 1] for at in range(0, len(block), _LINE)]
            file.write(b"\n".join(lines) + b"\n")
    os.chmod(path, 0o644)
    os.utime(path, (1_500_000_000, 1_500_000_000))


def make_tree(path: str, count: int, size: int) -> None:
    """
    Write a folder of small files.

    Parameters
    ----------
    path : str
        Where; must not exist.
    count : int
        How many files.
    size : int
        Bytes of each.
    """
    os.mkdir(path)
    for number in range(count):
        name = os.path.join(path, f"file{number:05d}")
        with open(name, "wb") as file:
            file.write(os.urandom(size))
        os.chmod(name, 0o644 if number % 2 else 0o755)
        os.utime(name, (1_500_000_000 + number, 1_500_000_000 + number))
    os.chmod(path, 0o755)


def copies(
    peers: Mapping[str, Peer],
    name: str,
    source: str,
    there: str,
    rounds: int,
    plan: Plan,
) -> Iterator[Measurement]:
    """
    Copy something to the server, and back from it.

    Parameters
    ----------
    peers : Mapping[str, Peer]
        Connected.
    name : str
        What to call it.
    source : str
        What to copy; readable by the server's user too, for the way back.
    there : str
        A folder on the server, which is this machine, where the user may write.
    rounds : int
        How often.
    plan : Plan
        The run.

    Yields
    ------
    Measurement
        Seconds; up, then down.
    """
    here = os.path.join(os.path.dirname(there), "here")
    os.makedirs(here, exist_ok=True)
    for way, folder in (("up", there), ("down", here)):
        functions: Dict[str, Callable[[], float]] = {}
        for key, peer in peers.items():
            if peer.copies and (peer.copies_trees or os.path.isfile(source)):
                functions[key] = functools.partial(_copy, peer, way, source, folder)
        yield interleave(
            Measurement(f"{name} {way}", "ms"), functions, rounds, budget=plan.patience
        )


def again(
    peers: Mapping[str, Peer],
    name: str,
    source: str,
    there: str,
    ways: Sequence[str],
    rounds: int,
    plan: Plan,
) -> Iterator[Measurement]:
    """
    Copy a folder's content again to where it is already.

    Parameters
    ----------
    peers : Mapping[str, Peer]
        Connected.
    name : str
        What to call it.
    source : str
        The folder.
    there : str
        A folder on the server, which is this machine, where the user may write.
    ways : Sequence[str]
        ``up``, ``down`` or both.
    rounds : int
        How often.
    plan : Plan
        The run.

    Yields
    ------
    Measurement
        Seconds for what differs, which is nothing; seconds for everything; and how many times
        longer that takes than into a new folder.
    """
    here = os.path.join(os.path.dirname(there), "here")
    os.makedirs(here, exist_ok=True)
    peers = {key: peer for key, peer in peers.items() if peer.copies_again}
    for way in ways:
        folder = there if way == "up" else here
        for everything, what in ((False, "unchanged"), (True, "everything")):
            times: Dict[str, List[float]] = {}
            functions = {
                key: functools.partial(_again, peer, way, source, folder, everything, times)
                for key, peer in peers.items()
            }
            measurement = Measurement(f"{name} {way} again, {what}", "ms")
            yield interleave(measurement, functions, rounds, budget=plan.patience)
        longer = Measurement(f"{name} {way} again, everything, times new", "x")
        longer.load = measurement.load
        longer.values = {key: times.get(key, [math.nan]) for key in peers}
        yield longer


def _again(
    peer: Peer,
    way: str,
    source: str,
    folder: str,
    everything: bool,
    times: Dict[str, List[float]],
) -> float:
    target = os.path.join(folder, "copy")
    copy_again = peer.upload_again if way == "up" else peer.download_again
    try:
        new = _timed(peer, way, source, target)
        began = time.perf_counter()
        copy_again(source, target, everything)
        took = time.perf_counter() - began
        _compare(source, target, peer.keeps_times, is_new=False)
        times.setdefault(peer.name, []).append(took / new)
        return took
    finally:
        _remove(target)


def _copy(peer: Peer, way: str, source: str, folder: str) -> float:
    target = os.path.join(folder, "copy")
    try:
        return _timed(peer, way, source, target)
    finally:
        _remove(target)


def _timed(peer: Peer, way: str, source: str, target: str) -> float:
    copy = peer.upload if way == "up" else peer.download
    began = time.perf_counter()
    copy(source, target)
    took = time.perf_counter() - began
    _compare(source, target, peer.keeps_times)
    return took


def _remove(target: str) -> None:
    if os.path.isdir(target):
        shutil.rmtree(target)
    elif os.path.exists(target):
        os.unlink(target)


def _compare(source: str, target: str, times: bool, is_new: bool = True) -> None:
    """Compare content, modes and times; a folder that was there may keep those of its own."""
    names = [""] if is_new else []
    if os.path.isdir(source):
        inside = os.listdir(source)
        if sorted(os.listdir(target)) != sorted(inside):
            raise RuntimeError("other files arrived than were sent")
        names += inside
    for name in names:
        one, other = (os.path.join(path, name).rstrip("/") for path in (source, target))
        sent, arrived = os.stat(one), os.stat(other)
        if stat.S_ISREG(sent.st_mode) and not filecmp.cmp(one, other, shallow=False):
            raise RuntimeError(f"{name or target} arrived with another content")
        if not times:
            continue
        if (sent.st_mode, int(sent.st_mtime)) != (arrived.st_mode, int(arrived.st_mtime)):
            raise RuntimeError(f"{name or target} arrived with another mode or time")
