"""Functions that worker processes run; they have to be importable."""

from __future__ import annotations

from typing import Any, Dict, Tuple

from ssh_service import operations
from ssh_service.connections.cache import SshClientCache

_cache = SshClientCache()


def hello(work: Tuple[Dict[str, Any], int]) -> str:
    """Let the server say a number."""
    params, number = work
    return operations.submit(_cache, params, f"echo {number}").result(30).stdout.strip()
