"""
Run random commands over connections that are cut, reset, frozen and slowed at random, for long.

Every command appends its number to a file on the server; afterwards the history that the client
was told is held against that file: what is said to have run did so once, what is said never to
have been sent never did, and nothing ran twice.  At the end threads, descriptors and memory are
what they were, and nothing is left running on the server.

SSH_SERVICE_SOAK_SECONDS is the length (half an hour by default), SSH_SERVICE_SOAK_SEED the seed.
"""

from __future__ import annotations

import collections
import ctypes
import gc
import os
import random
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Callable, Counter, Dict, List

from ssh_service import operations
from ssh_service.connections.cache import SshClientCache
from ssh_service.errors import (
    SshCacheClosed,
    SshCommandCancelled,
    SshCommandError,
    SshConnectError,
    SshConnectionLost,
    SshServiceError,
)
from ssh_service.testing.pytest_plugin import FaultProxy, Sshd
from tests.common import PATIENCE, descriptors, eventually, resident
from tests.faults.clients import params_for

WORKERS = 6


class History:
    """The outcome of each command, as the client saw it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.told: Dict[int, str] = {}  # guarded by _lock
        self.counts: Counter[str] = collections.Counter()  # guarded by _lock
        self.complaints: List[str] = []  # guarded by _lock

    def begin(self) -> int:
        with self._lock:
            number = len(self.told)
            self.told[number] = "begun"
            return number

    def end(self, number: int, fate: str) -> None:
        with self._lock:
            self.told[number] = fate
            self.counts[fate] += 1

    def complain(self, text: str) -> None:
        with self._lock:
            self.complaints.append(text)

    def check(self, ran: Counter[int]) -> None:
        """Hold it against what happened on the server."""
        for number, fate in self.told.items():
            times = ran[number]
            if times > 1:
                self.complain(f"command {number} ({fate}) ran {times} times")
            if fate == "done" and times != 1:
                self.complain(f"command {number} is said to be done, and never ran")
            if fate == "never sent" and times:
                self.complain(f"command {number} is said never to have been sent, and ran")
            if fate == "begun":
                self.complain(f"of command {number} nothing was told")


def run_one(
    cache: SshClientCache, rng: random.Random, history: History, targets: List[dict], file: Path
) -> None:
    """Run a command, and note its outcome."""
    number = history.begin()
    size = rng.choice([0, 10, 1000, 100000])
    rest = rng.choice(["", "", "", f"sleep {rng.random() * 0.3:.2f}; ", "exec sleep 20; "])
    text = f"echo {number} >>{file}; {rest}head -c {size} /dev/zero; echo end-{number}"
    limit = rng.choice([None, None, 0.2, 1.0]) if "exec" not in rest else 0.3
    future = operations.submit(cache, rng.choice(targets), text, timeout=limit)
    if rng.random() < 0.05:
        time.sleep(rng.random() * 0.05)
        future.cancel()
    try:
        result = future.result(PATIENCE)
    except SshConnectionLost as error:
        history.end(number, "unknown" if error.sent else "never sent")
    except SshCommandCancelled as error:
        history.end(number, "unknown" if error.process is not None else "never sent")
    except SshCommandError as error:
        history.end(number, "never sent" if error.phase == "queue" else "unknown")
    except (SshConnectError, SshCacheClosed):
        history.end(number, "never sent")
    except SshServiceError as error:
        history.end(number, "unknown")
        history.complain(f"command {number}: unexpected {error!r}")
    except BaseException as error:  # a future that never ends is one of these
        history.end(number, "unknown")
        history.complain(f"command {number}: {error!r}")
    else:
        expected = bytes(size) + b"end-%d\n" % number
        if result.exit_status == 0 and result.stdout_bytes == expected:
            history.end(number, "done")
        else:
            history.end(number, "unknown")
            history.complain(f"command {number}: wrong outcome {result!r}")


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


def left_running(sshd: Sshd, file: Path) -> List[str]:
    """List the commands that still run on the server."""
    needle = str(file).encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if needle in line and int(folder.name) != os.getpid():
            found.append(line.decode("utf-8", "replace").replace("\0", " ")[:100])
    return found


def phase(sshd: Sshd, seconds: float, seed: int, folder: Path) -> History:
    """Keep at it for some time, in a context of its own."""
    file = folder / f"ran-{seed}"
    file.touch()
    history = History()
    proxies = [FaultProxy(sshd.host, sshd.port) for _ in range(2)]
    keepalive = {"keepalive_interval": 0.5, "keepalive_count_max": 3, "connect_timeout": 5}
    targets = [params_for(sshd, proxy, **keepalive) for proxy in proxies]
    cache = SshClientCache()
    cache.enter()
    deadline = time.monotonic() + seconds

    def work(number: int) -> None:
        rng = random.Random(f"{seed}-{number}")
        while time.monotonic() < deadline:
            run_one(cache, rng, history, targets, file)

    threads = [threading.Thread(target=work, args=(n,), name=f"soak-{n}") for n in range(WORKERS)]
    for thread in threads:
        thread.start()
    rng = random.Random(f"{seed}-faults")
    while time.monotonic() < deadline:
        time.sleep(rng.random() * 0.6)
        misbehave(proxies, sshd, rng)
        if rng.random() < 0.02:
            cache.cleanup()
    for thread in threads:
        thread.join(2 * PATIENCE)
        if thread.is_alive():
            history.complain(f"{thread.name} is stuck")
    for proxy in proxies:
        proxy.heal()
    for params in targets:  # and after all that, it works
        if operations.submit(cache, params, "echo hello").result(PATIENCE).stdout != "hello\n":
            history.complain("it does not work any more")
    cache.exit()
    for proxy in proxies:
        proxy.close()
    eventually(lambda: not left_running(sshd, file), "nothing is left running")
    history.check(collections.Counter(map(int, file.read_text().split())))
    file.unlink()
    return history


def held() -> int:
    """Return the bytes this process holds, without what its allocator keeps for later."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # where it is glibc's
    if trim is not None:
        trim(0)
    return resident()


def main() -> int:
    """Run it; return the exit status."""
    seconds = float(os.environ.get("SSH_SERVICE_SOAK_SECONDS", "1800"))
    seed = int(os.environ.get("SSH_SERVICE_SOAK_SEED", str(random.randrange(10**6))))
    print(f"{seconds:g} seconds, seed {seed}", flush=True)
    counts: Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as name, Sshd(name, {"LogLevel": "ERROR"}) as sshd:
        folder = Path(name)
        counts.update(phase(sshd, min(60.0, seconds / 3), seed, folder).counts)  # warms up
        before = threading.active_count(), descriptors(), held()
        deadline = time.monotonic() + seconds
        grown = 0
        while time.monotonic() < deadline:
            seed += 1
            history = phase(sshd, min(60.0, max(5.0, deadline - time.monotonic())), seed, folder)
            counts.update(history.counts)
            eventually(lambda: threading.active_count() <= before[0], "no thread is left")
            eventually(lambda: descriptors() <= before[1], "no descriptor is left")
            grown = held() - before[2]
            print(f"{dict(counts)}, {grown / 1024:+.0f} KiB", flush=True)
            if history.complaints:
                print(f"seed {seed}:", *history.complaints[:20], sep="\n  ")
                return 1
    if grown > 5 * 1024 * 1024:
        print(f"the process has grown by {grown / 1024:.0f} KiB")
        return 1
    return 0


if __name__ == "__main__":
    # glibc gives threads heaps of their own, which keep what is freed: with thousands of threads
    # that come and go they grow, though what is in use does not.
    if "MALLOC_ARENA_MAX" not in os.environ:
        os.environ["MALLOC_ARENA_MAX"] = "1"
        os.execv(sys.executable, [sys.executable, "-m", "tests.soak.soak"])
    sys.exit(main())
