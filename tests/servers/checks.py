"""What a user expects of a server, one function per row of the table in docs/servers.md."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import socket
import threading
from pathlib import Path
from typing import Any, Callable, Dict, FrozenSet, Iterator, List, NamedTuple, Tuple, Type

import ssh_service
from ssh_service import SshClientCache, errors
from ssh_service.testing.fault_proxy import FaultProxy
from tests.common import eventually, in_threads, is_running
from tests.trees import describe

__all__ = ["CHECKS", "Bench", "Check"]

# Seconds that one command or copy may take on a machine with much to do.
_TIMEOUT = 120.0


class Bench:
    """
    A server behind a proxy, and what a check needs to use it.

    Attributes
    ----------
    destination : Dict[str, Any]
        Connect parameters, with the proxy's port.
    proxy : FaultProxy
        The proxy between us and the server.
    cache : SshClientCache
        A cache of the check's own.
    local, remote : Path
        Two empty folders of the check's own; `remote` is the one that the server is to use.
    restart : Callable[[], None]
        Starts the server anew.
    """

    def __init__(
        self,
        destination: Dict[str, Any],
        proxy: FaultProxy,
        folder: Path,
        restart: Callable[[], None],
    ) -> None:
        self.destination = {**destination, "host": proxy.host, "port": proxy.port}
        self.proxy = proxy
        self.cache = SshClientCache()
        self.local, self.remote = folder / "local", folder / "remote"
        for path in (folder, self.local, self.remote):
            path.mkdir(mode=0o755)
        self.restart = restart

    def run(self, script: Any = None, **options: Any) -> ssh_service.CompletedProcess:
        """Run a script with the check's cache."""
        options.setdefault("timeout", _TIMEOUT)
        return ssh_service.run(self.destination, script, cache=self.cache, **options)

    def upload(self, source: Path, name: str, **options: Any) -> Path:
        """Copy to the folder on the server; return where the copy is."""
        target = self.remote / name
        options.setdefault("timeout", _TIMEOUT)
        ssh_service.upload(self.destination, source, target, cache=self.cache, **options)
        return target

    def download(self, source: Path, name: str, **options: Any) -> Path:
        """Copy from the server; return where the copy is."""
        target = self.local / name
        options.setdefault("timeout", _TIMEOUT)
        ssh_service.download(self.destination, source, target, cache=self.cache, **options)
        return target


class Check(NamedTuple):
    """One row: a name for the table, what a server needs for it, and the function."""

    name: str
    needs: FrozenSet[str]
    function: Callable[[Bench], None]


CHECKS: List[Check] = []


def _check(name: str, *needs: str) -> Callable[[Callable[[Bench], None]], Callable[[Bench], None]]:
    def add(function: Callable[[Bench], None]) -> Callable[[Bench], None]:
        CHECKS.append(Check(name, frozenset(needs), function))
        return function

    return add


def _expect(is_so: object, what: object) -> None:
    if not is_so:
        raise AssertionError(what)


@contextlib.contextmanager
def _raises(*kinds: Type[BaseException]) -> Iterator[List[Any]]:
    caught: List[Any] = []
    try:
        yield caught
    except kinds as error:
        caught.append(error)
    else:
        raise AssertionError(f"no {' or '.join(kind.__name__ for kind in kinds)}")


# Commands.


@_check("a command", "commands")
def first_command(bench: Bench) -> None:
    process = bench.run("echo hello")
    _expect((process.exit_status, process.stdout) == (0, "hello\n"), process)


@_check("200 commands from 8 threads", "commands")
def many_commands(bench: Bench) -> None:
    def work(thread: int) -> None:
        for number in range(25):
            process = bench.run(f"echo {thread}-{number}")
            _expect(process.stdout == f"{thread}-{number}\n", process)

    in_threads(8, work, timeout=_TIMEOUT)


@_check("one login for all of them", "commands")
def one_login(bench: Bench) -> None:
    for _ in range(20):
        bench.run("true")
    _expect(bench.proxy.accepted == 1, f"{bench.proxy.accepted} connections")


@_check("exit statuses", "commands")
def exit_statuses(bench: Bench) -> None:
    for status in (0, 1, 42, 255):
        process = bench.run(f"exit {status}")
        _expect(process.exit_status == status, process)


@_check("the signal that ended a command", "commands", "signals")
def ended_by_signal(bench: Bench) -> None:
    process = bench.run("kill -9 $$")
    # A server may say how a shell would have put it.
    signal = process.exit_signal and process.exit_signal[0]
    _expect(signal == "KILL" or process.exit_status == 137, process)


@_check("stdout and stderr apart", "commands")
def two_outputs(bench: Bench) -> None:
    process = bench.run("echo out; echo err >&2")
    _expect((process.stdout, process.stderr) == ("out\n", "err\n"), process)


@_check("input of 1 MiB", "commands")
def long_input(bench: Bench) -> None:
    data = os.urandom(1 << 20)
    process = bench.run("sha256sum", stdin=data)
    _expect(process.stdout.split()[0] == hashlib.sha256(data).hexdigest(), process.stdout)


@_check("output of 32 MiB, byte for byte", "commands")
def long_output(bench: Bench) -> None:
    path = bench.remote / "data"
    path.write_bytes(os.urandom(32 << 20))
    process = bench.run(f"cat {path}", max_output=64 << 20)
    _expect(process.stdout_bytes == path.read_bytes(), len(process.stdout_bytes))


@_check("variables, to the letter", "commands")
def variables(bench: Bench) -> None:
    values = {"A": "a b  c", "B": "'\"$(id)`id`\\", "C": "two\nlines", "D": "Grüße", "E": ""}
    process = bench.run('printf "%s|" "$A" "$B" "$C" "$D" "$E"', env=values, encoding="utf-8")
    _expect(process.stdout == "|".join(values.values()) + "|", process)


@_check("a script of 300 KiB", "commands")
def long_script(bench: Bench) -> None:
    process = bench.run("# comment\n" * 30_000 + "echo end")
    _expect(process.stdout == "end\n", process)


@_check("quotes, blanks and newlines in a script", "commands")
def quotes(bench: Bench) -> None:
    process = bench.run("echo 'a  \"b\"'\necho \"c'd\" # e\nprintf %s\\\\n '$HOME'")
    _expect(process.stdout == 'a  "b"\nc\'d\n$HOME\n', process)


@_check("arguments without a shell's meaning (`args`)", "commands")
def arguments(bench: Bench) -> None:
    words = ["a b", "$HOME", "*", "'", ""]
    process = bench.run(args=["printf", "%s|", *words])
    _expect(process.stdout == "|".join(words) + "|", process)


@_check("a terminal (`pty`)", "commands", "terminals")
def terminal(bench: Bench) -> None:
    process = bench.run("test -t 0 && test -t 1 && echo yes", pty=True)
    _expect(process.stdout.split() == ["yes"], process)


@_check("a background process does not delay the result", "commands")
def background(bench: Bench) -> None:
    process = bench.run("sleep 20 >/dev/null 2>&1 </dev/null & echo $!", timeout=15)
    bench.run(f"kill {int(process.stdout)}")


@_check("a timeout ends the processes", "commands")
def timeout(bench: Bench) -> None:
    path = bench.remote / "pid"
    with _raises(errors.SshCommandTimeout):
        bench.run(f"echo $$ >{path}; sleep 300; true", timeout=3)
    pid = path.read_text().strip()
    eventually(lambda: not is_running(pid), f"process {pid} ends")


@_check("cancelling ends the processes", "commands")
def cancelling(bench: Bench) -> None:
    path = bench.remote / "pid"
    process = ssh_service.start(
        bench.destination, f"echo $$ >{path}; sleep 300; true", cache=bench.cache
    )
    eventually(lambda: path.exists() and path.read_text().endswith("\n"), "it has started")
    process.terminate()
    process.result(_TIMEOUT)
    pid = path.read_text().strip()
    eventually(lambda: not is_running(pid), f"process {pid} ends")


@_check("a limit on the output ends the command", "commands")
def output_limit(bench: Bench) -> None:
    with _raises(errors.SshOutputLimitError):
        bench.run("while :; do echo 0123456789; done", max_output=100_000)
    _expect(bench.run("echo on").stdout == "on\n", "the connection is usable")


@_check("40 commands at once", "commands")
def many_at_once(bench: Bench) -> None:
    in_threads(40, lambda _: _expect(bench.run("sleep 0.2; echo on").stdout == "on\n", "output"))


# Copies.


def _some_file(bench: Bench, size: int, name: str = "file") -> Path:
    path = bench.local / name
    path.write_bytes(os.urandom(size))
    return path


@_check("a file, up and down", "copies")
def one_file(bench: Bench) -> None:
    source = _some_file(bench, 100_000)
    there = bench.upload(source, "there")
    back = bench.download(there, "back")
    _expect(there.read_bytes() == source.read_bytes() == back.read_bytes(), "bytes")


@_check("an empty file", "copies")
def empty_file(bench: Bench) -> None:
    back = bench.download(bench.upload(_some_file(bench, 0), "there"), "back")
    _expect(back.stat().st_size == 0, back)


@_check("64 MiB with checksums (`verify`)", "copies", "checksums")
def big_file(bench: Bench) -> None:
    source = _some_file(bench, 64 << 20)
    back = bench.download(bench.upload(source, "there", verify=True), "back", verify=True)
    _expect(back.read_bytes() == source.read_bytes(), "bytes")


@_check("64 MiB", "copies")
def big_file_alone(bench: Bench) -> None:
    source = _some_file(bench, 64 << 20)
    back = bench.download(bench.upload(source, "there"), "back")
    _expect(back.read_bytes() == source.read_bytes(), "bytes")


@_check("a tree of 300 files", "copies")
def tree(bench: Bench) -> None:
    source = bench.local / "tree"
    for number in range(300):
        path = source / f"folder{number % 7}" / f"file{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * number)
    back = bench.download(bench.upload(source, "there"), "back")
    _expect(describe(back) == describe(source), "the trees are equal")


@_check("names with blanks, quotes, newlines and dashes", "copies")
def odd_names(bench: Bench) -> None:
    source = bench.local / "tree"
    source.mkdir()
    for name in ("a b", "'quoted'", 'double"', "new\nline", "-rf", "$HOME", "*", "Grüße", "\\"):
        (source / name).write_text(name)
    back = bench.download(bench.upload(source, "there"), "back")
    _expect(describe(back) == describe(source), "the trees are equal")


@_check("modes and times", "copies", "attributes")
def attributes(bench: Bench) -> None:
    source = _some_file(bench, 10)
    source.chmod(0o640)
    os.utime(source, (1_000_000_000, 1_000_000_001))
    there = bench.upload(source, "there", preserve=True)
    back = bench.download(there, "back", preserve=True)
    for path in (there, back):
        state = path.stat()
        _expect((state.st_mode & 0o777, state.st_mtime) == (0o640, 1_000_000_001), state)


@_check('symbolic links (`links="keep"`)', "copies")
def links(bench: Bench) -> None:
    source = bench.local / "tree"
    source.mkdir()
    (source / "file").write_text("text")
    (source / "link").symlink_to("file")
    there = bench.upload(source, "there", links="keep")
    _expect(os.readlink(there / "link") == "file", "the link that was uploaded")


@_check("resuming an upload that was cut", "copies", "commands")
def resuming(bench: Bench) -> None:
    source = _some_file(bench, 8 << 20)
    bench.run("true")
    bench.proxy.limit_after(4 << 20, "to_server")
    with _raises(errors.SshServiceError):
        bench.upload(source, "there", resume=True)
    bench.proxy.heal()
    there = bench.upload(source, "there", resume=True)
    _expect(there.read_bytes() == source.read_bytes(), "bytes")


@_check("a copy that was cut leaves the old file", "copies")
def cut_copy(bench: Bench) -> None:
    old = bench.upload(_some_file(bench, 1000, "old"), "there")
    before = old.read_bytes()
    bench.proxy.limit_after(1 << 20, "to_server")
    with _raises(errors.SshServiceError):
        bench.upload(_some_file(bench, 8 << 20), "there")
    bench.proxy.heal()
    _expect(old.read_bytes() == before, "the old bytes")


def _version(path: Path) -> Tuple[int, int]:
    # The number of a file may be given again.
    return path.stat().st_ino, path.stat().st_ctime_ns


@_check("`update` skips what is there", "copies", "attributes")
def updating(bench: Bench) -> None:
    source = bench.local / "tree"
    source.mkdir()
    for number in range(20):
        (source / str(number)).write_text(str(number))
    there = bench.upload(source, "there", contents=True, update=True)
    before = {path.name: _version(path) for path in there.iterdir()}
    (source / "7").write_text("seven")
    bench.upload(source, "there", contents=True, update=True)
    changed = [path.name for path in there.iterdir() if _version(path) != before[path.name]]
    _expect(changed == ["7"], changed)


@_check("a missing file is a `FileNotFoundError`", "copies")
def missing_file(bench: Bench) -> None:
    with _raises(FileNotFoundError):
        bench.download(bench.remote / "missing", "back")
    with _raises(FileNotFoundError):
        bench.upload(bench.local / "missing", "there")


@_check('`on_error="continue"` copies the rest', "copies")
def continuing(bench: Bench) -> None:
    source = bench.remote / "tree"
    source.mkdir()
    for name in ("first", "last"):
        (source / name).write_text(name)
    (source / "middle").symlink_to("nowhere")
    with _raises(errors.SshTreeError) as caught:
        bench.download(source, "back", on_error="continue")
    copied = sorted(path.name for path in (bench.local / "back").iterdir())
    _expect(copied == ["first", "last"] and len(caught[0].failures) == 1, copied)


@_check("8 copies at once", "copies")
def copies_at_once(bench: Bench) -> None:
    def work(number: int) -> None:
        source = _some_file(bench, 1 << 20, f"file{number}")
        back = bench.download(bench.upload(source, f"there{number}"), f"back{number}")
        _expect(back.read_bytes() == source.read_bytes(), "bytes")

    in_threads(8, work, timeout=_TIMEOUT)


# The connection.


def _use(bench: Bench) -> None:
    """Use the server in the way that it offers."""
    path = bench.remote / "used"
    path.write_text("used")
    target = bench.local / "used"
    ssh_service.download(bench.destination, path, target, cache=bench.cache, timeout=_TIMEOUT)
    _expect(target.read_text() == "used", "the file")


@_check("a frozen server is noticed", "copies")
def frozen(bench: Bench) -> None:
    bench.destination.update(keepalive_interval=0.5, keepalive_count_max=3, connect_timeout=10)
    _use(bench)
    bench.proxy.freeze()
    with _raises(errors.SshConnectionLost, errors.SshConnectTimeout):
        _use(bench)
    bench.proxy.heal()
    bench.proxy.cut()
    _use(bench)


@_check("keepalives keep an idle connection", "copies")
def idle(bench: Bench) -> None:
    bench.destination.update(keepalive_interval=0.2, keepalive_count_max=3)
    _use(bench)
    threading.Event().wait(3)
    _use(bench)
    _expect(bench.proxy.accepted == 1, f"{bench.proxy.accepted} connections")


@_check("a lost connection is replaced", "copies")
def replaced(bench: Bench) -> None:
    for _ in range(5):
        _use(bench)
        bench.proxy.cut()


@_check("a restart of the server", "copies")
def restarted(bench: Bench) -> None:
    _use(bench)
    bench.restart()
    _use(bench)


@_check("an unknown host key is refused", "copies")
def unknown_key(bench: Bench) -> None:
    empty = bench.local / "known_hosts"
    empty.touch()
    bench.destination.update(known_hosts=str(empty), host_key_policy="strict")
    with _raises(errors.SshHostKeyError):
        _use(bench)


@_check("a wrong login is refused", "copies")
def wrong_login(bench: Bench) -> None:
    bench.destination.update(client_keys=None, agent_path=None, password="wrong")
    with _raises(errors.SshAuthError):
        _use(bench)


@_check("compression", "copies")
def compression(bench: Bench) -> None:
    bench.destination.update(compression_algs="zlib@openssh.com,zlib,none")
    source = bench.local / "file"
    source.write_bytes(b"word " * 400_000)
    back = bench.download(bench.upload(source, "there"), "back")
    _expect(back.read_bytes() == source.read_bytes(), "bytes")


# Forwards and jobs.


@contextlib.contextmanager
def _echo_server() -> Iterator[int]:
    """Serve a port that sends back in capitals what it gets, once a connection."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # it was shut down
                return
            with connection:
                connection.sendall(connection.recv(1000).upper())

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        thread = threading.Thread(target=serve, name="echo", daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def _ask(port: Any, data: bytes = b"hello") -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        sock.sendall(data)
        return sock.recv(1000)


@_check("a forward of a local port", "forwards")
def local_forward(bench: Bench) -> None:
    with _echo_server() as port:
        with ssh_service.forward_local(bench.destination, port, cache=bench.cache) as forward:
            _expect(_ask(forward.port) == b"HELLO", "the answer")


@_check("a forward of a remote port", "remote forwards")
def remote_forward(bench: Bench) -> None:
    with _echo_server() as port:
        with ssh_service.forward_remote(bench.destination, port, cache=bench.cache) as forward:
            _expect(_ask(forward.port) == b"HELLO", "the answer")


@_check("a SOCKS proxy", "forwards")
def socks(bench: Bench) -> None:
    with _echo_server() as port:
        with ssh_service.forward_socks(bench.destination, cache=bench.cache) as forward:
            with socket.create_connection(
                ("127.0.0.1", int(forward.port or 0)), timeout=30
            ) as sock:
                sock.sendall(b"\x04\x01" + port.to_bytes(2, "big") + b"\x7f\0\0\1me\0")
                _expect(sock.recv(8)[1] == 90, "SOCKS 4 grants it")
                sock.sendall(b"hello")
                _expect(sock.recv(1000) == b"HELLO", "the answer")


@_check("a forward outlives its connection", "forwards")
def lasting_forward(bench: Bench) -> None:
    with _echo_server() as port:
        with ssh_service.forward_local(
            bench.destination, port, keep=True, cache=bench.cache
        ) as forward:
            _expect(_ask(forward.port) == b"HELLO", "the answer")
            bench.proxy.cut()
            eventually(functools.partial(_answers, forward.port), "an answer again")


def _answers(port: Any) -> bool:
    try:
        return _ask(port) == b"HELLO"
    except OSError:
        return False


@_check("a job outlives its connection", "commands", "jobs")
def job(bench: Bench) -> None:
    release = bench.remote / "release"
    script = f"echo began; until [ -e {release} ]; do sleep 0.1; done; echo ended; exit 3"
    started = ssh_service.start_job(bench.destination, script, cache=bench.cache)
    bench.proxy.cut()
    release.touch()
    process = started.result(timeout=_TIMEOUT)
    started.remove()
    _expect((process.exit_status, process.stdout) == (3, "began\nended\n"), process)
