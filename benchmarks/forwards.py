"""
Forwards beside ``ssh -L``, sshtunnel and asyncssh: each in a process of its own, as programs are.

``python -m benchmarks.forwards NAME`` reads where to forward as JSON from stdin, prints the port
that it listens on, and ends when its stdin does; ``serve`` as the name is the target.  sshtunnel
needs an older paramiko: the environment variable SSHTUNNEL_PYTHON names a Python that has both.
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
from typing import Any, Callable, Dict, Iterator

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


def measure(report: Report, _: Any, target: Target, plan: Plan) -> None:
    """Measure bytes in both directions, round trips, and bytes from afar."""
    with _served() as port, _forwarding(target, port) as ports:
        size = plan.big
        for way, ask in (("up", b"u"), ("down", b"d")):
            name = f"{size // MIB} MiB {way}, forwarded"
            report.add(_bytes(name, ports, ask, size, plan))
        report.add(
            interleave(
                Measurement("round trip, forwarded", "ms"),
                {name: _trips(each) for name, each in ports.items()},
                plan.big_rounds,
                budget=plan.patience,
            )
        )
    with _served() as port, far(target, _DELAY) as (distant,):
        with _forwarding(distant, port) as ports:
            some = {name: each for name, each in ports.items() if name != "sshtunnel"}
            report.add(_bytes("64 MiB down at 60 ms, forwarded", some, b"d", 64 * MIB, plan))


def _bytes(name: str, ports: Dict[str, int], ask: bytes, size: int, plan: Plan) -> Measurement:
    functions = {peer: _transfer(port, ask, size) for peer, port in ports.items()}
    return interleave(Measurement(name, "ms"), functions, plan.big_rounds, budget=plan.patience)


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
def _process(name: str, text: str, python: str = sys.executable) -> Iterator[int]:
    """Run this module in a process of its own; give the port that it prints."""
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
            yield int(line)
        finally:
            process.stdin.close()
            process.wait(30)


@contextlib.contextmanager
def _served() -> Iterator[int]:
    with _process("serve", "{}") as port:
        yield port


@contextlib.contextmanager
def _forwarding(target: Target, port: int) -> Iterator[Dict[str, int]]:
    """Begin all forwards; those that cannot are passed over, aloud."""
    text = json.dumps({**target._asdict(), "to": port})
    with contextlib.ExitStack() as stack:
        ports = {}
        for name in NAMES:
            python = sys.executable
            if name == "sshtunnel":
                python = os.environ.get("SSHTUNNEL_PYTHON", python)
            try:
                ports[name] = stack.enter_context(_process(name, text, python))
            except Exception as error:
                print(f"  {name} cannot forward: {error}", file=sys.stderr)
        yield ports


# In processes of their own.


def _serve(_: Any) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=100)
    print(listener.getsockname()[1], flush=True)

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
    with forward_local({**server, "host_key_policy": "off"}, given["to"]) as forward:
        print(forward.port, flush=True)
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
    print(port, flush=True)
    sys.stdin.read()
    process.terminate()


def _sshtunnel(given: Any) -> None:
    from sshtunnel import SSHTunnelForwarder

    server = SSHTunnelForwarder(
        (given["host"], given["port"]),
        ssh_username=given["username"],
        ssh_pkey=given["client_key"],
        remote_bind_address=("localhost", given["to"]),
        allow_agent=False,
        host_pkey_directories=[],
    )
    server.start()
    print(server.local_bind_port, flush=True)
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
        print(listener.get_port(), flush=True)
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
