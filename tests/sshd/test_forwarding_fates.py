"""Forwards whose process forks, ends, or is interrupted: nothing is left, and nobody is harmed."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import socket
from pathlib import Path
from typing import Any, Callable, List, Optional

import pytest

from ssh_service import Forward, SshClientCache, forward_local, forward_remote, forwarding
from ssh_service.errors import SshConnectError, SshServiceError
from ssh_service.forwarding import forwarder as forwarder_module
from ssh_service.forwarding.forwarder import Forwarder
from ssh_service.testing.local_sshd import Sshd
from tests.common import eventually, run_python
from tests.injection import HOWS, PLACES, tear
from tests.sshd.forward_targets import ask, connect, target
from tests.unit.engine_fakes import work_done

PROGRAM = """
import json, logging, os, socket, sys
import ssh_service

logging.basicConfig(format="%(levelname)s %(message)s")
params, to, path, what = json.loads(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
forward = ssh_service.forward_local(params, to, listen=path)
if what != "idle":
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    client.sendall(b"hello")
    assert client.recv(10) == b"hello"
if what == "error":
    raise ValueError("the program's own")
"""


@pytest.mark.parametrize("what", ["idle", "streams", "error"])
def test_the_end_of_the_interpreter_leaves_no_socket_and_says_what_was_open(
    sshd: Sshd, tmp_path: Path, what: str
) -> None:
    path = tmp_path / "socket"
    with target() as server:
        done = run_python(PROGRAM, json.dumps(sshd.connect_params), server.port, str(path), what)
        eventually(lambda: len(server.ended) == len(server.clients), "the target's ends")
    assert not path.exists()
    assert done.returncode == (1 if what == "error" else 0)
    lines = [line for line in done.stderr.splitlines() if "WARNING" in line]
    if what == "idle":
        assert done.stderr == ""
    else:
        assert len(lines) == 1 and "reset 1 stream of the forward of" in lines[0]
    assert ("Traceback" in done.stderr) == (what == "error")


def test_connections_wait_while_the_process_has_no_descriptor_left(sshd: Sshd) -> None:
    """Streams go on, what cannot begin says why, and who waits is served once there is one."""
    code = """
import json, logging, os, resource, socket, sys
import ssh_service
from ssh_service.forwarding import listener

listener._PAUSE = 0.01
logging.basicConfig(format="%(message)s")
params, to = json.loads(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (128, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
first, second = socket.socket(), socket.socket()  # whose descriptors are there from now on

def exchange(client, text):
    client.settimeout(30)
    client.sendall(text)
    assert client.recv(10) == text

with ssh_service.forward_local(params, to) as forward:
    first.connect(("127.0.0.1", forward.port))
    exchange(first, b"first")
    taken = []
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
    second.connect(("127.0.0.1", forward.port))
    for _ in range(100):
        exchange(first, b"goes on")
    for call in (ssh_service.forward_local, ssh_service.forward_remote):
        try:
            call(params, to).close()
        except ssh_service.SshServiceError as error:
            print(error)
    for descriptor in taken:
        os.close(descriptor)
    exchange(second, b"second")
"""
    with target() as server:
        done = run_python(code, json.dumps(sshd.connect_params), server.port)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "cannot listen on 127.0.0.1:0: Too many open files\n"
    assert len(done.stderr.splitlines()) == 1
    assert "cannot accept connections now: Too many open files" in done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_port_that_needs_a_privilege_is_named_as_the_reason() -> None:
    refused = {"host": "127.0.0.1", "port": 1}
    with pytest.raises(SshConnectError):  # loads what an ordinary user may not read
        forward_local(refused, 5432)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover (another process)
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            with contextlib.suppress(PermissionError), socket.socket() as sock:
                sock.bind(("127.0.0.1", 81))
                os.write(writer, b"anyone may")
                os._exit(0)
            forward_local(refused, 5432, listen=81)
        except BaseException as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with open(reader, encoding="utf-8") as pipe:
        text = pipe.read()
    if text == "anyone may":
        pytest.skip("this system has no privileged ports")
    assert text == (
        "SshForwardError: cannot listen on 127.0.0.1:81: Permission denied (ports below 1024 need"
        " a privilege; 0 is any free port)"
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_neither_harms_nor_keeps_the_parents_forward(
    sshd: Sshd, cache: SshClientCache, tmp_path: Path
) -> None:
    """Streams go on, and the parent's end is an end although the child lives on."""
    path = tmp_path / "socket"
    with target() as server:
        with forward_local(sshd.connect_params, server.port, cache=cache) as forward:
            local = forward_local(sshd.connect_params, server.port, listen=path, cache=cache)
            client = connect(forward.port)
            client.sendall(b"hello")
            assert client.recv(10) == b"hello"
            begin_reader, begin_writer = os.pipe()
            end_reader, end_writer = os.pipe()
            child = os.fork()
            if child == 0:  # pragma: no cover (another process)
                code = 1
                try:
                    assert forward.closed and local.closed
                    assert isinstance(forward.last_error, SshServiceError)
                    assert "parent process" in str(forward.last_error)
                    forward.close()
                    local.close()
                    os.write(begin_writer, b"x")
                    os.read(end_reader, 1)
                    code = 0
                finally:
                    os._exit(code)
            try:
                assert os.read(begin_reader, 1) == b"x"
                client.sendall(b"still here")
                assert client.recv(10) == b"still here"
                assert path.exists() and ask(str(path)) == b"hello"
                local.close()
                forward.close(drain=0)
                with pytest.raises(ConnectionRefusedError):
                    connect(forward.port)
                with pytest.raises(ConnectionResetError):
                    client.recv(10)
            finally:
                os.write(end_writer, b"x")
                status = os.waitpid(child, 0)[1]
                for descriptor in (begin_reader, begin_writer, end_reader, end_writer):
                    os.close(descriptor)
                client.close()
            assert status == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_forwards_on_its_own(sshd: Sshd) -> None:
    code = """
import json, os, socket, sys
import ssh_service

params, to = json.loads(sys.argv[1]), int(sys.argv[2])

def check():
    with ssh_service.forward_local(params, to) as forward:
        with socket.create_connection(("127.0.0.1", forward.port)) as client:
            client.sendall(b"hello")
            assert client.recv(10) == b"hello"

check()
child = os.fork()
check()
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print("good")
"""
    with target() as server:
        done = run_python(code, json.dumps(sshd.connect_params), server.port)
    assert (done.stdout, done.stderr) == ("good\n", "")


# Not where a call returns a forward: it is the caller's then, and goes on though he misses it.
PLACES_BEFORE_THE_RETURN = (
    *(str(each) for each in Path(PLACES[0]).rglob("*.py") if str(each) != forwarding.__file__),
    *PLACES[1:],
)


@pytest.mark.parametrize(
    "seconds", [1.0, pytest.param(None, marks=pytest.mark.long)], ids=["some", "each"]
)
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("call", ["local", "remote", "close"])
def test_an_interruption_at_any_moment_leaves_nothing(
    sshd: Sshd,
    cache: SshClientCache,
    call: str,
    how: str,
    seconds: Optional[float],
    tmp_path: Path,
) -> None:
    """Ctrl-C in the beginning, or in `close`: no listener, no lease, no live forward."""
    cache.get_client_connection(sshd.connect_params)
    path = tmp_path / "socket"
    opened: List[Forward] = []

    def open_one() -> Any:
        if call == "remote":
            opened.append(forward_remote(sshd.connect_params, 1, cache=cache))
        else:
            opened.append(forward_local(sshd.connect_params, 1, listen=path, cache=cache))

    def make() -> Callable[[], Any]:
        if call != "close":
            return open_one
        open_one()
        return lambda: opened[-1].close(drain=0)

    def close_all() -> None:
        while opened:  # the interruption came after the call, or at its very beginning
            opened.pop().close(drain=0)

    def check() -> None:
        if call == "close":
            eventually(
                lambda: opened[-1].closed or not opened[-1]._forwarder.is_closing, "it settles"
            )
        close_all()
        gc.collect()
        work_done()
        eventually(
            lambda: not (forwarder_module._live or cache.stats()["leases"] or path.exists()),
            "no forward, no lease and no socket is left",
        )

    torn = tear(make, how, check, seconds, places=PLACES_BEFORE_THE_RETURN)
    assert torn >= (10 if call == "close" else 20)  # `close` has hardly more than twenty
    close_all()


def test_an_exception_when_the_forward_is_open_leaves_nothing(
    sshd: Sshd, cache: SshClientCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has it then, so nobody could close it."""
    open_one = Forwarder.open

    def interrupted(forwarder: Forwarder) -> None:
        open_one(forwarder)
        raise KeyboardInterrupt

    monkeypatch.setattr(Forwarder, "open", interrupted)
    with pytest.raises(KeyboardInterrupt):
        forward_local(sshd.connect_params, 1, cache=cache)
    eventually(lambda: not forwarder_module._live, "no forward is left")


def test_a_block_whose_end_was_interrupted_leaves_nothing(
    sshd: Sshd, cache: SshClientCache
) -> None:
    """Ctrl-C may come before the first line of `__exit__`."""
    forward = forward_local(sshd.connect_params, 1, cache=cache)
    forward.__enter__()
    del forward
    gc.collect()
    eventually(lambda: not forwarder_module._live, "no forward is left")


def test_a_forward_that_nobody_refers_to_goes_on(sshd: Sshd, cache: SshClientCache) -> None:
    with target() as server:
        port = forward_local(sshd.connect_params, server.port, cache=cache).port
        gc.collect()
        assert ask(port) == b"hello"
    cache.cleanup()
    eventually(lambda: not forwarder_module._live, "it ends with its cache")


def test_ctrl_c_while_draining_resets_the_streams_at_once(sshd: Sshd, tmp_path: Path) -> None:
    code = """
import json, os, signal, socket, sys, threading, time
import ssh_service

signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it may be ignored
params, to = json.loads(sys.argv[1]), int(sys.argv[2])
forward = ssh_service.forward_local(params, to)
client = socket.create_connection(("127.0.0.1", forward.port))
client.sendall(b"hello")
assert client.recv(10) == b"hello"
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
began = time.monotonic()
try:
    forward.close(drain=60)
except KeyboardInterrupt:
    try:
        client.recv(10)
    except ConnectionResetError:
        assert time.monotonic() - began < 20
        print("good")
"""
    with target() as server:
        done = run_python(code, json.dumps(sshd.connect_params), server.port)
    assert (done.stdout, done.stderr) == ("good\n", "")
