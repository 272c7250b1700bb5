"""
Use connections that are cut, reset, frozen and slowed at random, in every way, for long.

Commands, copies, forwards, jobs and clients written for paramiko share them.  Every script
appends its number to a file on the server; afterwards the history that the client was told is held
against that file: what is said to have run did so once, what is said never to have been sent never
did, and nothing ran twice.  Files that were copied are the old or the new ones, and what comes
through a forward is whole or reset.  At the end threads, descriptors and memory are what they
were, and nothing is left running on the server.

SSH_SERVICE_SOAK_SECONDS is the length (half an hour by default), SSH_SERVICE_SOAK_SEED the seed.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import functools
import gc
import os
import random
import socketserver
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Callable, Counter, Dict, Iterator, List

from ssh_service import Forward, forward_local, operations, paramiko
from ssh_service.connections.cache import SshClientCache
from ssh_service.errors import SshServiceError
from ssh_service.testing.pytest_plugin import FaultProxy, Sshd
from tests.common import DROP_IN_DEFAULTS, PATIENCE, descriptors, eventually, resident
from tests.faults.clients import entered, params_for
from tests.soak.faults import misbehave
from tests.soak.history import History
from tests.soak.users import USERS, Site


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


class _Echo(socketserver.BaseRequestHandler):
    """Sends back what comes."""

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                data = self.request.recv(65536)
                if not data:
                    return
                self.request.sendall(data)


class _EchoServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 100


@contextlib.contextmanager
def echo_server() -> Iterator[int]:
    """Serve whom the forwards connect; give the port."""
    with _EchoServer(("127.0.0.1", 0), _Echo) as server:
        thread = threading.Thread(target=server.serve_forever, name="echo")
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join(PATIENCE)


def options(folder: Path) -> Dict[str, str]:
    """Return the settings of the server: jobs have a folder of their own."""
    return {"LogLevel": "ERROR", "SetEnv": f"XDG_STATE_HOME={folder}/state"}


def phase(sshd: Sshd, seconds: float, seed: int, folder: Path) -> History:
    """Keep at it for some time, in a context of its own."""
    file = folder / f"ran-{seed}"
    file.touch()
    history = History()
    keepalive = {"keepalive_interval": 0.5, "keepalive_count_max": 3, "connect_timeout": 5}
    with contextlib.ExitStack() as stack:
        proxies = [stack.enter_context(FaultProxy(sshd.host, sshd.port)) for _ in range(2)]
        targets = [params_for(sshd, proxy, **keepalive) for proxy in proxies]
        port = stack.enter_context(echo_server())
        cache = stack.enter_context(entered())
        paramiko.configure(cache=cache)
        stack.callback(paramiko.configure, **DROP_IN_DEFAULTS)
        forwards: List[Forward] = []
        stack.callback(lambda: [forward.close() for forward in forwards])
        forwards += (forward_local(web, port, keep=True, cache=cache) for web in targets)
        site = Site(cache, targets, port, forwards, folder, file, history)
        keep_busy(site, sshd, proxies, seconds, seed)
        for web in targets:
            eventually(functools.partial(works, cache, web), "after all that, it works")
    eventually(lambda: not left_running(sshd, file), "nothing is left running")
    history.check(collections.Counter(map(int, file.read_text().split())))
    file.unlink()
    return history


def works(cache: SshClientCache, web: Dict[str, Any]) -> bool:
    """Run a command; a dial that began before the end of the faults may still fail."""
    try:
        return operations.submit(cache, web, "echo hello").result(PATIENCE).stdout == "hello\n"
    except SshServiceError:
        return False


def keep_busy(
    site: Site, sshd: Sshd, proxies: List[FaultProxy], seconds: float, seed: int
) -> None:
    """Have all users work, and all faults happen."""
    deadline = time.monotonic() + seconds

    def work(number: int, step: Callable[[Site, random.Random], None]) -> None:
        rng = random.Random(f"{seed}-{number}")
        while time.monotonic() < deadline:
            step(site, rng)

    threads = [
        threading.Thread(target=work, args=(number, step), name=f"{step.__name__}-{number}")
        for number, step in enumerate(USERS)
    ]
    for thread in threads:
        thread.start()
    rng = random.Random(f"{seed}-faults")
    while time.monotonic() < deadline:
        time.sleep(rng.random() * 0.6)
        misbehave(proxies, sshd, rng)
        if rng.random() < 0.02:
            site.cache.cleanup()
    for proxy in proxies:
        proxy.heal()
    for thread in threads:
        thread.join(3 * PATIENCE)
        if thread.is_alive():
            site.history.complain(f"{thread.name} is stuck")


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
    with tempfile.TemporaryDirectory() as name, Sshd(name, options(Path(name))) as sshd:
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
