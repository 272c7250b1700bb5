"""
Forwards beside ``ssh -L``, sshtunnel and asyncssh: each in a process of its own, as programs are.

``python -m benchmarks.forwards NAME`` reads where to forward as JSON from stdin, prints as JSON on
which port it listens and which process forwards, and ends when its stdin does; ``serve`` as the
name is the target.  sshtunnel needs paramiko 3: the environment variable SSHTUNNEL_PYTHON names a
Python that has both.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple

from benchmarks import cpu
from benchmarks.far import far
from benchmarks.measure import OURS, Measurement, interleave, seconds
from benchmarks.plan import MIB, Plan
from benchmarks.report import Report
from benchmarks.target import CIPHER, ROOT, Target

__all__ = ["NAMES", "measure"]

NAMES = (OURS, "OpenSSH", "sshtunnel", "asyncssh")
_DELAY = 0.03
_TRIPS = 200
_CHUNK = bytes(256 * 1024)
_QUESTION = b"?" * 1024
# Seconds that a forward must be idle to be stuck, in spite of this part of a core, and the most
# that is waited for it.  Before, the kernel's buffers fill up.
_IDLE = 2.0
_IDLE_PART = 0.05
_LIMIT = 60.0


class _Forward(NamedTuple):
    port: int
    pid: int
    version: str


_Forwards = Dict[str, _Forward]


def measure(report: Report, _: Any, target: Target, plan: Plan) -> None:
    """Measure bytes in both directions, round trips, many streams, and bytes from afar."""
    with _served() as served, _forwarding(target, served.port, report) as forwards:
        size = plan.big
        for way, ask in (("up", b"u"), ("down", b"d")):
            name = f"{size // MIB} MiB {way}, forwarded"
            report.add(_bytes(name, forwards, ask, size, plan))
        report.add(
            interleave(
                Measurement("round trip, forwarded", "ms"),
                {name: _trips(each.port) for name, each in forwards.items()},
                plan.big_rounds,
                budget=plan.patience,
            )
        )
        for measurement in _many_streams(forwards, plan):
            report.add(measurement)
    with _served() as served, far(target, _DELAY) as (distant,):
        with _forwarding(distant, served.port, report) as forwards:
            some = {name: each for name, each in forwards.items() if name != "sshtunnel"}
            report.add(_bytes("64 MiB down at 60 ms, forwarded", some, b"d", 64 * MIB, plan))
    with _served() as served, _forwarding(target, served.port, report) as forwards:
        report.add(_memory(forwards, plan))


def _bytes(name: str, forwards: _Forwards, ask: bytes, size: int, plan: Plan) -> Measurement:
    functions = {peer: _transfer(each.port, ask, size) for peer, each in forwards.items()}
    return interleave(Measurement(name, "ms"), functions, plan.big_rounds, budget=plan.patience)


def _many_streams(forwards: _Forwards, plan: Plan) -> Iterator[Measurement]:
    name = f"{plan.streams} streams at once"
    threads: Dict[str, List[float]] = {peer: [] for peer in forwards}
    functions = {
        peer: _streams(each, plan.streams, threads[peer]) for peer, each in forwards.items()
    }
    times = Measurement(f"{name}, forwarded", "ms")
    yield interleave(times, functions, plan.big_rounds, budget=plan.patience)
    more = Measurement(f"{name}, threads more, forwarded", "threads")
    more.load = times.load
    more.values = {peer: found for peer, found in threads.items() if found}
    yield more


def _streams(forward: _Forward, count: int, threads: List[float]) -> Callable[[], float]:
    def all_of_them() -> None:
        before = _status(forward.pid, "Threads")
        with contextlib.ExitStack() as stack:
            clients = [
                stack.enter_context(socket.create_connection(("127.0.0.1", forward.port), 60))
                for _ in range(count)
            ]
            for client in clients:
                client.sendall(b"e" + bytes(8) + _QUESTION)
            for client in clients:
                left = len(_QUESTION)
                while left:
                    data = client.recv(left)
                    if not data:
                        raise RuntimeError("a stream ended without its answer")
                    left -= len(data)
            threads.append(_status(forward.pid, "Threads") - before)

    return lambda: seconds(all_of_them)


def _memory(forwards: _Forwards, plan: Plan) -> Measurement:
    """Count what a forward keeps of streams that nobody reads."""
    functions = {peer: _stuck(each, plan.stuck) for peer, each in forwards.items()}
    name = f"memory for {plan.stuck} streams that nobody reads, forwarded"
    return interleave(Measurement(name, "MiB"), functions, 1)


def _stuck(forward: _Forward, count: int) -> Callable[[], float]:
    def grown() -> float:
        before = most = _status(forward.pid, "VmRSS")
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(_small_client(forward.port)) for _ in range(count)]
            for client in clients:
                client.sendall(b"d" + (64 * MIB).to_bytes(8, "big"))
            for client in clients:  # so that all of them have begun
                client.recv(1)
            deadline = time.monotonic() + _LIMIT
            while time.monotonic() < deadline:
                used = cpu.of(forward.pid)
                time.sleep(_IDLE)
                most = max(most, _status(forward.pid, "VmRSS"))
                if cpu.of(forward.pid) - used < _IDLE * _IDLE_PART:
                    break
        return (most - before) / 1024

    return grown


def _small_client(port: int) -> socket.socket:
    """Connect with a small buffer: what the kernel takes in would not be the forward's."""
    client = socket.socket()
    client.settimeout(60)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    client.connect(("127.0.0.1", port))
    return client


def _status(pid: int, name: str) -> int:
    """Give a number of what Linux knows of a process: ``Threads``, or ``VmRSS`` in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text("ascii", "replace").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise RuntimeError(f"process {pid} has no {name}")


def _transfer(port: int, ask: bytes, size: int) -> Callable[[], float]:
    def once() -> None:
        with socket.create_connection(("127.0.0.1", port), 60) as client:
            client.sendall(ask + size.to_bytes(8, "big"))
            if ask == b"u":
                for _ in range(size // len(_CHUNK)):
                    client.sendall(_CHUNK)
                client.shutdown(socket.SHUT_WR)
                if client.recv(1) != b"!":
                    raise RuntimeError("it did not arrive whole")
                return
            received = 0
            while received < size:
                data = client.recv(len(_CHUNK))
                if not data:
                    raise RuntimeError(f"it ended after {received} bytes")
                received += len(data)

    return lambda: seconds(once)


def _trips(port: int) -> Callable[[], float]:
    def many() -> float:
        with socket.create_connection(("127.0.0.1", port), 60) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.sendall(b"e" + bytes(8))
            began = time.perf_counter()
            for _ in range(_TRIPS):
                client.sendall(b"x")
                client.recv(1)
            return (time.perf_counter() - began) / _TRIPS

    return many


@contextlib.contextmanager
def _process(name: str, text: str, python: str = sys.executable) -> Iterator[_Forward]:
    """Run this module in a process of its own; give what it prints."""
    with subprocess.Popen(
        [python, "-m", "benchmarks.forwards", name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        universal_newlines=True,
        cwd=ROOT,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(f"{text}\n")
            process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"{name} did not begin")
            yield _Forward(*json.loads(line))
        finally:
            process.stdin.close()
            process.wait(30)


@contextlib.contextmanager
def _served() -> Iterator[_Forward]:
    with _process("serve", "{}") as served:
        yield served


@contextlib.contextmanager
def _forwarding(target: Target, port: int, report: Report) -> Iterator[_Forwards]:
    """Begin all forwards; those that cannot are passed over, aloud."""
    text = json.dumps({**target._asdict(), "to": port})
    with contextlib.ExitStack() as stack:
        forwards: _Forwards = {}
        for name in NAMES:
            python = sys.executable
            if name == "sshtunnel":
                python = os.environ.get("SSHTUNNEL_PYTHON", python)
            try:
                forwards[name] = stack.enter_context(_process(name, text, python))
            except Exception as error:
                print(f"  {name} cannot forward: {error}", file=sys.stderr)
                report.missing.setdefault(name, f"cannot forward: {error}")
            else:
                report.versions.setdefault(name, forwards[name].version)
        yield forwards


# In processes of their own.


def _ready(port: int, version: str = "", pid: int = 0) -> None:
    print(json.dumps([port, pid or os.getpid(), version]), flush=True)


def _serve(_: Any) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=1000)
    _ready(listener.getsockname()[1])

    def handle(client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            head = b""
            while len(head) < 9:
                head += client.recv(9 - len(head))
            size = int.from_bytes(head[1:], "big")
            if head[:1] == b"u":
                received = 0
                while True:
                    data = client.recv(len(_CHUNK))
                    if not data:
                        break
                    received += len(data)
                client.sendall(b"!" if received == size else b"?")
            elif head[:1] == b"d":
                for _ in range(size // len(_CHUNK)):
                    client.sendall(_CHUNK)
            else:
                while True:
                    data = client.recv(65536)
                    if not data:
                        break
                    client.sendall(data)

    while True:
        client = listener.accept()[0]
        threading.Thread(target=handle, args=(client,), daemon=True).start()


def _ours(given: Any) -> None:
    from ssh_service import forward_local

    server = {"host": given["host"], "port": given["port"], "username": given["username"]}
    server.update(client_keys=[given["client_key"]], known_hosts=None, config=None)
    destination = {**server, "host_key_policy": "off"}
    with forward_local(destination, given["to"], max_streams=1000) as forward:
        _ready(forward.port)
        sys.stdin.read()


def _openssh(given: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["ssh", "-N", "-F", "none", "-i", given["client_key"], "-p", str(given["port"])]
    for option in ("BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=no",
                   "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", f"Ciphers={CIPHER}",
                   "ExitOnForwardFailure=yes"):  # fmt: skip
        command += ["-o", option]
    command += ["-L", f"{port}:localhost:{given['to']}", f"{given['username']}@{given['host']}"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if not probe.connect_ex(("127.0.0.1", port)):
                break
        time.sleep(0.05)
    _ready(port, pid=process.pid)
    sys.stdin.read()
    process.terminate()


def _sshtunnel(given: Any) -> None:
    import paramiko
    from sshtunnel import SSHTunnelForwarder, __version__

    server = SSHTunnelForwarder(
        (given["host"], given["port"]),
        ssh_username=given["username"],
        ssh_pkey=given["client_key"],
        remote_bind_address=("localhost", given["to"]),
        allow_agent=False,
        host_pkey_directories=[],
    )
    server.start()
    _ready(server.local_bind_port, f"{__version__}, paramiko {paramiko.__version__}")
    sys.stdin.read()
    os._exit(0)  # its `stop` may hang


def _asyncssh(given: Any) -> None:
    import asyncio

    import asyncssh

    async def forward() -> None:
        connection = await asyncssh.connect(
            given["host"],
            given["port"],
            username=given["username"],
            client_keys=[given["client_key"]],
            known_hosts=None,
            config=None,
            encryption_algs=[CIPHER],
        )
        listener = await connection.forward_local_port("127.0.0.1", 0, "localhost", given["to"])
        _ready(listener.get_port(), asyncssh.__version__)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

    asyncio.run(forward())


_KINDS = {
    "serve": _serve,
    OURS: _ours,
    "OpenSSH": _openssh,
    "sshtunnel": _sshtunnel,
    "asyncssh": _asyncssh,
}


def _main() -> None:
    given = json.loads(sys.stdin.readline())
    kind = _KINDS[sys.argv[1]]
    if sys.argv[1] == "serve":
        threading.Thread(target=kind, args=(given,), daemon=True).start()
        sys.stdin.read()
    else:
        kind(given)


if __name__ == "__main__":
    _main()
