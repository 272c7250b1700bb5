"""The neighbours: each does the same things in its own way."""

from __future__ import annotations

import importlib
from typing import Dict, Iterable, List, Tuple, Type

from benchmarks.peers.base import Peer

__all__ = ["NAMES", "Peer", "installed"]

# Module and the names of what it holds, ours first.
_MODULES = {
    "ours": ("ssh_service",),
    "mlos": ("mlos_bench",),
    "asyncssh_alone": ("asyncssh",),
    "c_client": ("ssh2 (C)",),
    "libssh_client": ("ssh-python",),
    "hussh_client": ("Hussh",),
    "openssh": ("OpenSSH", "sftp", "rsync -a"),
    "bare_paramiko": ("paramiko",),
    "pssh_client": ("parallel-ssh",),
    "fabric_client": ("Fabric",),
}
NAMES = tuple(name for names in _MODULES.values() for name in names)


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
    for module_name, holds in _MODULES.items():
        if names and names.isdisjoint(holds):
            continue
        try:
            peers: List[Type[Peer]] = importlib.import_module(
                f"benchmarks.peers.{module_name}"
            ).PEERS
        except (ImportError, OSError) as error:
            missing[", ".join(holds)] = str(error)
            continue
        for peer in peers:
            if not names or peer.name in names:
                found[peer.name] = peer
    return found, missing
