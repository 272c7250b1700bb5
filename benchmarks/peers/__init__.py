"""The neighbours: each does the same things in its own way."""

from __future__ import annotations

import importlib
from typing import Dict, Iterable, Tuple, Type

from benchmarks.peers.base import Peer

__all__ = ["Peer", "installed"]

# Ours first.  The second of two under one name stands in where the first is not installed.
_MODULES = (
    "ours",
    "mlos",
    "asyncssh_alone",
    "c_client",
    "openssh",
    "bare_paramiko",
    "pssh_client",
    "fabric_client",
)


def installed(wanted: Iterable[str] = ()) -> Tuple[Dict[str, Type[Peer]], Dict[str, str]]:
    """
    Find the neighbours that are here.

    Parameters
    ----------
    wanted : Iterable[str]
        Names; all if empty.

    Returns
    -------
    Tuple[Dict[str, Type[Peer]], Dict[str, str]]
        Those that are, by name; and why the others are not.
    """
    found: Dict[str, Type[Peer]] = {}
    missing: Dict[str, str] = {}
    names = set(wanted)
    for module_name in _MODULES:
        try:
            peer: Type[Peer] = importlib.import_module(f"benchmarks.peers.{module_name}").PEER
        except (ImportError, OSError) as error:
            missing[module_name] = str(error)
            continue
        if peer.stands_in_for in found or (names and peer.name not in names):
            continue
        found[peer.name] = peer
    return found, missing
