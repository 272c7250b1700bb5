"""
A link with a delay, in a process of its own: what moves the bytes must not slow down who is timed.

``python -m benchmarks.far HOST PORT DELAY COUNT`` listens on COUNT loopback addresses, prints them
and their ports as JSON, and ends when its stdin does.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from typing import Iterator, List

from benchmarks.target import ROOT, Target
from ssh_service.testing.fault_proxy import FaultProxy

__all__ = ["far"]

_FIRST = (127, 0, 1)
"""The network of the addresses; the last number counts."""


@contextlib.contextmanager
def far(target: Target, delay: float, count: int = 1) -> Iterator[List[Target]]:
    """
    Put a server at the other end of a slow link.

    Parameters
    ----------
    target : Target
        The server.
    delay : float
        Seconds each way.
    count : int
        How many addresses it shall seem to have.

    Yields
    ------
    List[Target]
        One for each address.
    """
    command = [sys.executable, "-m", "benchmarks.far", target.host, str(target.port)]
    with subprocess.Popen(
        [*command, str(delay), str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        universal_newlines=True,
        cwd=ROOT,
    ) as process:
        try:
            assert process.stdout is not None and process.stdin is not None
            addresses = json.loads(process.stdout.readline())
            yield [target._replace(host=host, port=port) for host, port in addresses]
        finally:
            process.stdin.close()
            process.wait(30)


def _at(number: int) -> type:
    """Make a proxy class that listens on an address of its own."""
    host = ".".join(map(str, (*_FIRST, number)))
    return type("FaultProxyAt", (FaultProxy,), {"host": host})


def _main() -> None:
    host, port, delay, count = sys.argv[1:]
    with contextlib.ExitStack() as proxies:
        addresses = []
        for number in range(1, int(count) + 1):
            proxy = proxies.enter_context(_at(number)(host, int(port)))
            proxy.delay = float(delay)
            addresses.append((proxy.host, proxy.port))
        print(json.dumps(addresses), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    _main()
