"""What goes wrong with the connections of the soak."""

from __future__ import annotations

import random
import time
from typing import Callable, List

from ssh_service.testing.pytest_plugin import FaultProxy, Sshd


def misbehave(proxies: List[FaultProxy], sshd: Sshd, rng: random.Random) -> None:
    """Do something to the connections."""
    proxy = rng.choice(proxies)

    def freeze() -> None:
        proxy.freeze(rng.choice(["both", "to_client", "to_server"]))
        time.sleep(rng.choice([0.2, 2.5]))
        proxy.thaw()

    def slice_up() -> None:
        proxy.slice_size = rng.choice([1, 100])
        time.sleep(0.3)
        proxy.slice_size = None

    def limit() -> None:
        proxy.limit_after(rng.randrange(200000), "both", then=rng.choice(["cut", "reset"]))
        time.sleep(0.5)
        proxy.heal()

    def refuse() -> None:
        proxy.refuse()
        proxy.reset()
        time.sleep(0.2)
        proxy.admit()

    def corrupt() -> None:
        proxy.corrupt_at(rng.randrange(5000), rng.choice(["to_client", "to_server"]))
        time.sleep(0.3)
        proxy.heal()

    faults: List[Callable[[], None]] = [
        proxy.cut,
        proxy.reset,
        sshd.cut,
        freeze,
        slice_up,
        limit,
        refuse,
        corrupt,
    ]
    rng.choice(faults)()
