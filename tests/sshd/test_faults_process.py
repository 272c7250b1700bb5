"""Events of the process itself: forks, signals, its end, limits of the system."""

from __future__ import annotations

import json
import sys
import time
from typing import Any, Callable, Dict

import pytest

from ssh_service.testing.pytest_plugin import Sshd
from tests.common import run_python
from tests.faults.clients import params_for

Factory = Callable[..., Sshd]

HEAD = """
import faulthandler, json, os, signal, sys, threading, time
faulthandler.dump_traceback_later(50, exit=True)
from ssh_service import remote
from ssh_service.connections.cache import SshClientCache
from ssh_service.errors import *
from tests.common import *
from tests.faults.clients import *
params = json.loads(sys.argv[1])
cache = SshClientCache()
cache.enter()
def run(text, **options):
    return remote.submit(cache, params, text, **options).result(30).stdout
"""


def program(code: str, params: Dict[str, Any], *args: Any, timeout: float = 55.0) -> str:
    """Run a program that has to end well and silently; return what it printed."""
    result = run_python(HEAD + code, json.dumps(params), *args, timeout=timeout)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    return result.stdout


FORK = """
faulthandler.cancel_dump_traceback_later()  # the child would wait for its thread
assert run("echo parent") == "parent\\n"
transport, client = cache.get_client_connection(params)
kept = transport.open_session()
kept.exec_command("cat")
stop = threading.Event()
failures = []
def busy(number):
    count = 0
    while not stop.is_set():
        try:
            if number % 2:
                assert run("echo %d" % count) == "%d\\n" % count
            else:
                assert execute(transport, "echo %d" % count) == (0, b"%d\\n" % count)
        except BaseException as error:
            failures.append(error)
            return
        count += 1
threads = [threading.Thread(target=busy, args=(number,), daemon=True) for number in range(4)]
for thread in threads:
    thread.start()

def child():
    signal.alarm(20)  # whatever hangs
    began = time.monotonic()
    assert not transport.is_active()
    for use in (
        transport.open_session,
        lambda: execute(transport, "true"),
        lambda: kept.recv(1),
        lambda: kept.recv_exit_status(),
        lambda: kept.sendall(b"from the child"),
        lambda: kept.exec_command("true"),
        lambda: transport.global_request("anything"),
        transport.renegotiate_keys,
    ):
        try:
            use()
        except (OSError, paramiko.SSHException):
            pass
        else:
            raise AssertionError("the child could use its parent's connection")
    kept.close()
    transport.close()
    assert time.monotonic() - began < 1, time.monotonic() - began
    assert transport.loss.reason == "fork"
    assert len(cache) == 0
    assert run("echo child") == "child\\n"
    own, _ = cache.get_client_connection(params)
    assert own is not transport and own.is_active()
    gc.collect()

import gc, paramiko
for number in range(int(sys.argv[2])):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            child()
            status = 0
        finally:
            if number % 2:
                os._exit(status)  # without a word
            sys.exit(status)  # with all that an interpreter does at its end
    assert os.waitpid(pid, 0)[1] == 0
stop.set()
for thread in threads:
    thread.join(20)
assert not failures, failures
kept.sendall(b"still here")
kept.shutdown_write()
assert drain(kept) == (0, b"still here")
for number in range(100):
    assert run("echo %d" % number) == "%d\\n" % number
assert cache.stats()["losses"] == 0
cache.exit()
"""


def test_a_forked_child_has_a_connection_of_its_own_and_the_parents_is_unharmed(
    sshd: Sshd,
) -> None:
    """With paramiko, a child that collects a channel kills the parent's connection."""
    program(FORK, sshd.connect_params, 6)
    assert sshd.logins() == 7
    assert "Bad packet" not in sshd.log() and "Corrupted" not in sshd.log()


MULTIPROCESSING = """
faulthandler.cancel_dump_traceback_later()
import multiprocessing
from tests.sshd.processes import hello
assert run("echo parent") == "parent\\n"
for method in ("fork", "spawn"):
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(hello, [(params, n) for n in range(4)]) == ["0", "1", "2", "3"]
assert run("echo parent") == "parent\\n"
assert cache.stats()["dials"] == 1
cache.exit()
"""


def test_worker_processes_can_use_it_however_they_are_started(sshd: Sshd) -> None:
    program(MULTIPROCESSING, sshd.connect_params)


SIGNALS = """
class Interrupted(Exception):
    pass

def interrupt(*_):
    raise Interrupted

# paramiko asks `logging` for a logger with each channel, whose own lock, before Python 3.13, a
# handler can tear its thread from; that is not what is tested here.
paramiko.util.get_logger = functools.lru_cache(maxsize=None)(paramiko.util.get_logger)

def unraisable(lost):
    # Python notes, in a weak set of its own, which threads there are, and we, which connections.
    # An exception raised while one of them is collected, or in a destructor, cannot reach anybody.
    name = getattr(lost.object, "__qualname__", "")
    if lost.exc_type is not Interrupted or not ("WeakSet" in name or name.endswith("__del__")):
        sys.__unraisablehook__(lost)

sys.unraisablehook = unraisable
signal.signal(signal.SIGALRM, interrupt)
injected = whole = 0
began = time.monotonic()
while injected < int(sys.argv[2]) and time.monotonic() - began < 40:
    try:
        transport, _ = cache.get_client_connection(params)
    except (Interrupted, SshServiceError):
        continue
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001 * (1 + injected % 9))  # it raises once
        payload = b"%d " % injected * 20000
        for _ in range(50):
            status, out = execute(transport, "cat", payload)
            assert (status, out) == (0, payload)
            whole += 1
    except Interrupted:
        injected += 1
    except (OSError, EOFError, paramiko.SSHException):
        pass  # the connection was given up, as it has to be
    except RuntimeError as error:  # a Condition that a handler tore away from its lock says this
        assert "release unlocked lock" in str(error)
signal.setitimer(signal.ITIMER_REAL, 0)
assert run("echo after it") == "after it\\n"
cache.exit()
try:
    eventually(
        lambda: not [t for t in threading.enumerate() if "reader" in t.name], "no reader is left"
    )
except AssertionError:
    faulthandler.dump_traceback()
    raise
print(injected)
"""


def interrupt_sends(sshd: Sshd, count: int) -> None:
    printed = program("import functools, paramiko\n" + SIGNALS, sshd.connect_params, count)
    assert int(printed) >= count // 2
    assert "Bad packet length" not in sshd.log()
    assert "Corrupted MAC" not in sshd.log()
    assert "nonexistent channel" not in sshd.log()


def test_an_exception_of_a_signals_handler_in_a_send_never_garbles_the_stream(
    sshd: Sshd,
) -> None:
    """With paramiko, half a packet, and the server reads the next one as its rest."""
    interrupt_sends(sshd, 40)


@pytest.mark.long
def test_two_hundred_exceptions_of_a_signals_handler(sshd: Sshd) -> None:
    interrupt_sends(sshd, 200)


CAUGHT = """
import logging
from tests.faults.evil_ssh import EvilSsh
from tests.faults.evil_tcp import *
def caught(error, **more):
    try:
        cache.get_client_connection({**params, **more})
    except error:
        return
    raise AssertionError("no error")
caught(SshConnectError, port=1)
for behaviour in (garbage, close_at_once, huge_packet, half_kexinit):
    with EvilTcp(behaviour) as server:
        caught(SshConnectError, port=server.port, connect_timeout=0.3)
caught(SshConnectError, host="nowhere.invalid")
caught(SshAuthError, username="nobody-of-this-name")
caught(SshConfigError, client_keys=["/missing"])
with EvilSsh() as server:
    caught(SshHostKeyError, port=server.port)
transport, _ = cache.get_client_connection(params)
try:
    channel = transport.open_session()
    channel.invoke_subsystem("missing")
except SshSessionRefused:
    pass
sink = Collector(b"sleep 60")
transport.start_session(sink)
assert sink.started.wait(20)
transport.sock.close()
assert sink.ended.wait(20) and sink.error is not None
cache.exit()
assert not logging.getLogger().handlers
"""


def test_a_program_that_catches_its_errors_prints_nothing(sshd: Sshd) -> None:
    """Paramiko prints 22 lines for one connection that could not be made."""
    program(CAUGHT, sshd.connect_params)


END = """
how = sys.argv[2]
def start():
    future = remote.submit(cache, params, "echo begun; sleep 60")
    # The end of this process is no news of the connection.
    future.add_done_callback(lambda _: os.write(2, b"the command is said to have ended"))
    transport, _ = cache.get_client_connection(params)
    eventually(lambda: transport.open_channel_count, "it runs")
    blocked = threading.Thread(target=lambda: execute(transport, "sleep 60"), daemon=True)
    blocked.start()
    return future
if how == "unused":
    pass
elif how == "live":
    run("echo hello")
    forgotten = cache.get_client_connection(params)[0].open_session()
elif how == "exited":
    run("echo hello")
    cache.exit()
else:
    server = int(run("echo $PPID"))
    future = start()
    if how == "frozen":
        os.kill(server, signal.SIGSTOP)  # the sshd of this test, thawed after it
print("done", flush=True)
print(time.time(), flush=True)
sys.exit(7)
"""


@pytest.mark.parametrize("how", ["unused", "live", "exited", "busy", "frozen"])
def test_the_interpreter_ends_quickly_silently_and_with_its_own_status(
    sshd: Sshd, how: str
) -> None:
    result = run_python(HEAD + END, json.dumps(sshd.connect_params), how)
    ended = time.time()
    assert (result.returncode, result.stderr) == (7, "")
    assert ended - float(result.stdout.split()[-1]) <= 2 * 3 + 1


LAST = """
import atexit, types
from ssh_service import run
if sys.argv[2] == "warm":
    assert run(params, "echo before", cache=cache).stdout == "before\\n"
class Last:
    def __del__(self, run=run, params=params, cache=cache, error=SshServiceError, os=os):
        for call in (
            lambda: run(params, "echo last", cache=cache),
            lambda: cache.get_client_connection(params),
            self.transport.open_session,
        ):
            try:
                call()
            except error as exc:
                os.write(1, b"finalizer: %s\\n" % str(exc).encode())
def at_exit():
    os.write(1, b"atexit: " + run(params, "echo hello", cache=cache).stdout_bytes)
    Last.transport, _ = cache.get_client_connection(params)
atexit.register(at_exit)
sys.modules["last"] = types.ModuleType("last")  # its names outlive those of the main program
sys.modules["last"].last = Last()
"""


@pytest.mark.parametrize("how", ["cold", "warm"])
def test_when_the_interpreter_ends_it_works_until_threads_end_and_then_says_so_at_once(
    sshd: Sshd, how: str
) -> None:
    told = program(LAST, sshd.connect_params, how)
    refusal = "finalizer: the interpreter is shutting down: nothing new can be started"
    no_channel = f"finalizer: {sshd.username}@{sshd.host}:{sshd.port}: the connection has ended"
    assert told.splitlines() == ["atexit: hello", refusal, refusal, no_channel]


LIMITED = """
import resource, socket
run("echo warm")
cache.exit()
cache.enter()
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
hoard = []
try:
    while True:
        hoard.append(socket.socket())
except OSError:
    pass
for _ in range(3):
    began = time.monotonic()
    try:
        run("echo hello")
    except Exception as error:
        assert isinstance(error, SshServiceError), repr(error)
        assert isinstance(error, SshConnectError) and not isinstance(error, TimeoutError), error
    else:
        raise AssertionError("it had a descriptor left")
    assert time.monotonic() - began < 5
for sock in hoard:
    sock.close()
assert run("echo again") == "again\\n"
transport, _ = cache.get_client_connection(params)
hoard = []
try:
    while True:
        hoard.append(socket.socket())
except OSError:
    pass
assert run("echo over the one there is") == "over the one there is\\n"
for sock in hoard:
    sock.close()
cache.exit()
"""


def test_without_descriptors_it_fails_with_a_typed_error_and_recovers(sshd: Sshd) -> None:
    program(LIMITED, sshd.connect_params)


IDLE = """
import resource
count = int(sys.argv[2])
from ssh_service.connect import dial
from ssh_service.params import resolve
import gc
target = resolve(params)
dial(target, time.monotonic() + 20).close()
gc.collect()
threads, files, memory = threading.active_count(), descriptors(), resident()
transports = []
for _ in range(count):
    transports.append(dial(target, time.monotonic() + 20))
gc.collect()
grown = (resident() - memory) / count
# A thread that waits and goes on: what it costs then depends on how busy the machine is.
before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
time.sleep(float(sys.argv[3]))
wakes = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before
print(json.dumps({
    "kib": grown / 1024,
    "threads": threading.active_count() - threads,
    "files": descriptors() - files,
    "wakes": wakes / count / float(sys.argv[3]),
    "alive": sum(t.is_active() for t in transports),
}))
for transport in transports:
    transport.close_nowait()
for transport in transports:
    transport.close()
assert threading.active_count() == threads
"""


def idle(factory: Factory, count: int, seconds: float) -> None:
    sshd = factory({"LogLevel": "INFO"})
    params = params_for(sshd, keepalive_interval=15, keepalive_count_max=3)
    result = run_python(
        HEAD.replace("later(50", "later(280") + IDLE,
        json.dumps(params),
        count,
        seconds,
        timeout=290,
    )
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    found = json.loads(result.stdout)
    assert found["alive"] == count
    assert found["threads"] == count
    assert found["files"] == count
    # Without the GIL, each thread has a heap of its own.
    has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    assert found["kib"] < (100 if has_gil else 1000), found
    # A second, for each: a keepalive and its answer in 15 seconds.
    assert found["wakes"] < 0.5, found


def test_idle_connections_cost_next_to_nothing(sshd_factory: Factory) -> None:
    """Paramiko wakes ten times a second for each."""
    idle(sshd_factory, 30, 2.0)


@pytest.mark.long
def test_three_hundred_idle_connections(sshd_factory: Factory) -> None:
    idle(sshd_factory, 300, 10.0)
