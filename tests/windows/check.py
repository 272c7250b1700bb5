"""
What the library does as a client on Windows: a program for a Windows Python, run by ``run.sh``.

It prints a line for each check, and a summary; its exit status is 1 if a check failed.  The
arguments are parts of the names of the checks to run; without any, all run.
"""

from __future__ import annotations

import compileall
import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Callable, Dict, Iterator, List, Tuple, Type

import ssh_service
from ssh_service import (
    SshClientCache,
    SshCommandTimeout,
    SshFileShareService,
    SshHostService,
    SshServiceError,
    Status,
    download,
    fleet,
    forward_local,
    run,
    start,
    start_job,
    upload,
)

_here = os.path.dirname(sys.executable)
_PYTHON = [sys.executable, "-X", "utf8", "-X", f"pycache_prefix={_here}\\byte_code"]
# Seconds for one check, with a slow emulation on a busy machine.
_TIMEOUT = 180.0

CHECKS: List[Tuple[str, Callable[[pathlib.Path], None]]] = []
_facts: Dict[str, Any] = json.loads(os.environ.pop("SSH_SERVICE_FACTS", "{}"))


def check(function: Callable[[pathlib.Path], None]) -> Callable[[pathlib.Path], None]:
    """Add a check; it is called with an empty folder of its own."""
    CHECKS.append((function.__name__, function))
    return function


def server(**more: Any) -> Dict[str, Any]:
    """Return the connect parameters of the server, with some added."""
    names = ("host", "port", "username", "known_hosts")
    return {
        **{name: _facts[name] for name in names},
        "client_keys": [_facts["client_key"]],
        "config": None,
        "agent_path": None,
        **more,
    }


@contextlib.contextmanager
def new_cache() -> Iterator[SshClientCache]:
    """Return a cache of the check's own, which is closed at its end."""
    cache = SshClientCache()
    try:
        yield cache
    finally:
        cache.cleanup()


def remote(name: str) -> str:
    """Return a path on the server."""
    return f"{_facts['folder']}/{name}"


def expect(is_so: object, what: object) -> None:
    """Fail the check unless something is so."""
    if not is_so:
        raise AssertionError(repr(what))


@contextlib.contextmanager
def raises(kind: Type[BaseException], text: str = "") -> Iterator[None]:
    """Fail the check unless an error is raised, with a text."""
    try:
        yield
    except kind as error:
        expect(text in str(error), error)
        print(f"      {type(error).__name__}: {error}")
    else:
        raise AssertionError(f"no {kind.__name__}")


def make_tree(folder: pathlib.Path) -> None:
    """Create a tree with odd names, and files of many sizes."""
    (folder / "inner" / "deep" / "empty").mkdir(parents=True)
    for name, size in (("a", 0), ("b c", 1), ("grün.txt", 100), ("日本", 40_000)):
        (folder / name).write_bytes(os.urandom(size))
    (folder / "inner" / "lines.txt").write_bytes(b"one\r\ntwo\n\x1athree\n")
    (folder / "inner" / "deep" / "big").write_bytes(os.urandom(3_000_000))
    for number in range(60):
        (folder / "inner" / f"f{number}").write_bytes(b"%d" % number)


def content(folder: pathlib.Path) -> Dict[str, str]:
    """Return the entries of a tree, with their digests."""
    return {
        path.relative_to(folder).as_posix(): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        )
        for path in folder.rglob("*")
    }


# Commands.


@check
def run_a_command(_: pathlib.Path) -> None:
    process = run(server(), "echo out; echo err >&2; exit 3")
    expect((process.exit_status, process.stdout, process.stderr) == (3, "out\n", "err\n"), process)


@check
def run_with_env_cwd_input_and_check(_: pathlib.Path) -> None:
    process = run(
        server(), 'echo "$A"; pwd; cat', env={"A": "it's 'ü'"}, cwd="/usr/bin", input="line\n"
    )
    expect(process.stdout == "it's 'ü'\n/usr/bin\nline\n", process)
    expect(run(server(), args=["printf", "%s|", "a b", "'"]).stdout == "a b|'|", "args")
    with raises(SshServiceError, "4"):
        run(server(), "exit 4", check=True)


@check
def run_large_input_and_output(_: pathlib.Path) -> None:
    data = os.urandom(5_000_000)
    process = run(server(), "cat", input=data)
    expect(process.stdout_bytes == data, (process.exit_status, len(process.stdout_bytes)))


@check
def a_timeout_ends_the_command(_: pathlib.Path) -> None:
    began = time.monotonic()
    with raises(SshCommandTimeout):
        run(server(), "sleep 100", timeout=2)
    expect(time.monotonic() - began < 60, "it took too long")


@check
def start_lines_and_terminate(_: pathlib.Path) -> None:
    with start(server(), "echo begun; sleep 100") as process:
        expect(next(process.lines()) == "begun\n", "lines")
        process.terminate()
        expect(process.result(timeout=60).returncode == -15, process)


@check
def start_with_stdin(_: pathlib.Path) -> None:
    with start(server(), "while read line; do echo got $line; done") as process:
        lines = process.lines()
        for word in ("one", "two"):
            process.write(f"{word}\n")
            expect(next(lines) == f"got {word}\n", word)
        process.close_stdin()
        expect(process.result(timeout=60).exit_status == 0, process)


@check
def run_with_a_terminal(_: pathlib.Path) -> None:
    expect("/dev/" in run(server(), "tty", pty=True).stdout, "tty")


@check
def output_to_files(folder: pathlib.Path) -> None:
    with open(folder / "out", "wb") as file:
        run(server(), "printf 'a\\nb\\n'", stdout=file)
    expect((folder / "out").read_bytes() == b"a\nb\n", "stdout to a file")
    with open(folder / "out", "rb") as file:
        expect(run(server(), "cat", stdin=file).stdout == "a\nb\n", "stdin from a file")


@check
def threads_share_a_connection(_: pathlib.Path) -> None:
    with new_cache() as cache:
        outputs: List[str] = []

        def work(number: int) -> None:
            for turn in range(5):
                outputs.append(run(server(), f"echo {number} {turn}", cache=cache).stdout)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        expect(len(set(outputs)) == 40, outputs)
        stats = cache.stats()
        expect(stats["dials"] <= 4, stats)


@check
def a_lost_connection_is_replaced(_: pathlib.Path) -> None:
    with new_cache() as cache:
        pid = run(server(), "echo $PPID", cache=cache).stdout.strip()
        with contextlib.suppress(SshServiceError):
            run(server(), f"kill {pid}; sleep 20", cache=cache)
        expect(run(server(), "echo again", cache=cache).stdout == "again\n", "again")
        expect(cache.stats()["reconnects"] == 1, cache.stats())


@check
def a_jump_host(_: pathlib.Path) -> None:
    with new_cache() as cache:
        process = run(server(tunnel=server()), "echo over a jump host", cache=cache)
        expect(process.stdout == "over a jump host\n", process)


@check
def unreachable_and_unknown(folder: pathlib.Path) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        with raises(SshServiceError):
            run(server(port=sock.getsockname()[1], connect_timeout=20), "true")
    (folder / "empty").write_bytes(b"")
    with raises(SshServiceError, "known"):
        run(server(known_hosts=str(folder / "empty")), "true")


# Services, fleets, jobs, paths, forwards, the drop-in.


@check
def services(folder: pathlib.Path) -> None:
    config = {
        "ssh_username": _facts["username"],
        "ssh_port": _facts["port"],
        "ssh_priv_key_path": _facts["client_key"],
        "ssh_known_hosts_path": _facts["known_hosts"],
    }
    target = {"ssh_hostname": _facts["host"]}
    with SshHostService(config) as host, SshFileShareService(config) as share:
        (folder / "setup.sh").write_bytes(b'echo "mode $MODE"\n')
        share.upload(target, str(folder / "setup.sh"), remote("setup.sh"))
        status, info = host.remote_exec([f"sh {remote('setup.sh')}"], target, {"MODE": "fast"})
        status, results = host.get_remote_exec_results(info)
        expect(status == Status.SUCCEEDED, results)
        expect(results["stdout"] == "mode fast\n", results)
        share.download(target, remote("setup.sh"), str(folder / "again.sh"))
        expect((folder / "again.sh").read_bytes() == b'echo "mode $MODE"\n', "the copy")


@check
def a_fleet_on_threads(folder: pathlib.Path) -> None:
    connect = server()
    host = connect.pop("host")
    hosts = [f"{host}:{connect.pop('port')}"]
    results = list(fleet.run(hosts, "echo $SSH_CONNECTION", connect=connect))
    expect([r.is_success if hasattr(r, "is_success") else r.ok for r in results], results)
    (folder / "file").write_bytes(b"fleet")
    list(fleet.upload(hosts, str(folder / "file"), remote("fleet"), connect=connect))
    list(fleet.download(hosts, remote("fleet"), str(folder / "got"), connect=connect))
    expect([p for p in (folder / "got").rglob("*") if p.is_file()], "nothing was downloaded")


@check
def worker_processes_are_refused(_: pathlib.Path) -> None:
    connect = server()
    hosts = [f"{connect.pop('host')}:{connect.pop('port')}"]
    with raises(SshServiceError, "Windows"):
        with ProcessPoolExecutor(1) as executor:
            list(fleet.run(hosts, "true", connect=connect, executor=executor))


@check
def jobs(_: pathlib.Path) -> None:
    job = start_job(server(), "for part in 1 2 3; do echo part $part; done", timeout=100)
    expect(list(job.lines()) == ["part 1\n", "part 2\n", "part 3\n"], "lines")
    expect(job.result(timeout=60).exit_status == 0, job)
    job.remove()


@check
def paths_on_the_host(_: pathlib.Path) -> None:
    path = ssh_service.Host(server()).path(remote("paths"))
    path.mkdir()
    (path / "a").write_text("text\n")
    expect((path / "a").read_text() == "text\n", "read_text")
    expect([entry.name for entry in path.iterdir()] == ["a"], "iterdir")
    with (path / "a").open("rb") as file:
        expect(file.read() == b"text\n", "open")
    (path / "a").unlink()


@check
def a_local_forward(_: pathlib.Path) -> None:
    # The server's own port, as seen from the server: its greeting is what arrives.
    with forward_local(server(), _facts["port"]) as forward:
        for _turn in range(3):
            with socket.create_connection(("127.0.0.1", forward.port or 0), timeout=60) as sock:
                expect(sock.recv(100).startswith(b"SSH-2.0-"), "the greeting")


@check
def a_remote_forward(_: pathlib.Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(5)
        to = listener.getsockname()[1]
        with ssh_service.forward_remote(server(), to) as forward:
            with socket.create_connection(("127.0.0.1", forward.port or 0), timeout=60) as sock:
                listener.settimeout(60)
                accepted, _address = listener.accept()
                with accepted:
                    accepted.sendall(b"x" * 100_000)
                    accepted.shutdown(socket.SHUT_WR)
                    size = 0
                    while True:
                        data = sock.recv(65536)
                        if not data:
                            break
                        size += len(data)
                expect(size == 100_000, size)


@check
def a_socks_forward(_: pathlib.Path) -> None:
    with ssh_service.forward_socks(server()) as forward:
        with socket.create_connection(("127.0.0.1", forward.port or 0), timeout=60) as sock:
            sock.sendall(b"\x05\x01\x00")
            expect(sock.recv(2) == b"\x05\x00", "the method")
            port = int(_facts["port"]).to_bytes(2, "big")
            sock.sendall(b"\x05\x01\x00\x01" + socket.inet_aton("127.0.0.1") + port)
            answer = sock.recv(10)
            expect(answer[:2] == b"\x05\x00", answer)
            expect(sock.recv(100).startswith(b"SSH-2.0-"), "the greeting")


@check
def a_unix_socket_forward(_: pathlib.Path) -> None:
    if hasattr(socket, "AF_UNIX"):
        return
    with raises(SshServiceError, "Unix sockets"):
        with forward_local(server(), 22, listen="C:/app.sock"):
            pass


@check
def the_drop_in(folder: pathlib.Path) -> None:
    from ssh_service import paramiko

    for _turn in range(2):
        client = paramiko.SSHClient()
        client.load_host_keys(_facts["known_hosts"])
        client.connect(
            _facts["host"],
            _facts["port"],
            _facts["username"],
            key_filename=_facts["client_key"],
            allow_agent=False,
            look_for_keys=False,
        )
        _stdin, stdout, _stderr = client.exec_command("echo drop-in")
        expect(stdout.read() == b"drop-in\n", "exec_command")
        sftp = client.open_sftp()
        (folder / "a").write_bytes(b"sftp\n")
        sftp.put(str(folder / "a"), remote("drop_in"))
        sftp.get(remote("drop_in"), str(folder / "b"))
        expect((folder / "b").read_bytes() == b"sftp\n", "sftp")
        client.close()


# Copies.


@check
def upload_and_download_a_file(folder: pathlib.Path) -> None:
    for size in (0, 10, 5_000_000):
        data = os.urandom(size)
        (folder / "a").write_bytes(data)
        os.utime(folder / "a", (1_000_000_000, 1_000_000_000))
        upload(server(), folder / "a", remote("file"), verify=True)
        download(server(), remote("file"), folder / "b", verify=True)
        expect((folder / "b").read_bytes() == data, size)
        expect(int((folder / "b").stat().st_mtime) == 1_000_000_000, (folder / "b").stat())


@check
def upload_and_download_a_tree(folder: pathlib.Path) -> None:
    make_tree(folder / "tree")
    upload(server(), folder / "tree", remote("tree"))
    download(server(), remote("tree"), folder / "copy")
    expect(content(folder / "copy") == content(folder / "tree"), content(folder / "copy"))
    # Into an existing folder, and by a name relative to the working directory.
    (folder / "into").mkdir()
    before = os.getcwd()
    os.chdir(folder)
    try:
        download(server(), remote("tree"), "into\\")
        upload(server(), ".\\tree\\inner", remote("inner"))
    finally:
        os.chdir(before)
    expect(content(folder / "into" / "tree") == content(folder / "tree"), "into a folder")
    expect(run(server(), args=["ls", remote("inner/f1")]).exit_status == 0, "relative")


@check
def copies_are_brought_up_to_date(folder: pathlib.Path) -> None:
    make_tree(folder / "tree")
    there = remote("update")
    upload(server(), folder / "tree", there, contents=True, update=True)
    plan = upload(server(), folder / "tree", there, contents=True, update=True, dry_run=True)
    expect(plan is not None and {action.action for action in plan.actions} <= {"skip"}, plan)
    target = folder / "copy"
    download(server(), there, target, contents=True, update=True)
    (target / "extra").write_bytes(b"x")
    (target / "extra folder").mkdir()
    (target / "extra folder" / "file").write_bytes(b"x")
    (target / "a").write_bytes(b"changed")
    download(server(), there, target, contents=True, update=True, delete=True)
    expect(content(target) == content(folder / "tree"), content(target))
    run(server(), f"chmod 755 {there}/inner/f1", check=True)
    (folder / "tree" / "inner" / "f1").write_bytes(b"new")
    (folder / "tree" / "a").unlink()
    upload(server(), folder / "tree", there, contents=True, update=True, delete=True)
    expect(run(server(), args=["ls", f"{there}/a"]).exit_status != 0, "deleted there")
    modes = run(server(), f"cd {there} && stat -c %A inner inner/f1 inner/f2").stdout.split()
    expect(modes == ["drwxr-xr-x", "-rwxr-xr-x", "-rw-r--r--"], modes)


@check
def interrupted_copies_are_resumed(folder: pathlib.Path) -> None:
    data = os.urandom(4_000_000)
    (folder / "a").write_bytes(data)

    def stop(progress: Any) -> None:
        if progress.bytes_done > 1_000_000:
            raise RuntimeError("stop")

    for copy, source, target in (
        (upload, str(folder / "a"), remote("resumed")),
        (download, remote("resumed"), str(folder / "b")),
    ):
        with contextlib.suppress(RuntimeError):
            copy(server(), source, target, resume=True, progress=stop, max_rate=4_000_000)
        copy(server(), source, target, resume=True)
    expect((folder / "b").read_bytes() == data, "the copy")
    expect([p.name for p in folder.iterdir() if "ssh_service" in p.name] == [], "left behind")


@check
def a_download_replaces_files(folder: pathlib.Path) -> None:
    (folder / "a").write_bytes(b"new")
    (folder / "b").write_bytes(b"old and longer")
    upload(server(), folder / "a", remote("replace"))
    download(server(), remote("replace"), folder / "b")
    expect((folder / "b").read_bytes() == b"new", "replaced")
    (folder / "b").write_bytes(b"old and longer")
    with open(folder / "b", "rb") as held:
        download(server(), remote("replace"), folder / "b")
        expect((folder / "b").read_bytes() == b"new", held)
    with raises(OSError):
        download(server(), remote("replace"), folder / "no such folder" / "b")
    with raises(OSError):
        download(server(), remote("no such file"), folder / "c")
    expect(not (folder / "c").exists(), "nothing was created")


@check
def names_that_windows_lacks_are_refused(folder: pathlib.Path) -> None:
    there = remote("names")
    names = ["..\\up", "a:stream", "nul.txt", "dot.", "question?", "CaSe", "case", "good"]
    quoted = " ".join(f"'{name}'" for name in names)
    run(server(), f"mkdir {there} && cd {there} && touch {quoted} $(printf '\\377')", check=True)
    found = [entry.name for entry in ssh_service.Host(server()).path(there).iterdir()]
    expect(set(found) == {*names, "\udcff"}, found)
    with raises(SshServiceError, "Windows"):
        download(server(), there, folder / "names", on_error="continue")
    found = sorted(path.name for path in (folder / "names").iterdir())
    expect("good" in found and len(found) == 2, found)
    expect(not (folder / "up").exists(), "outside of the target")
    with raises(OSError, "Windows"):
        download(server(), f"{there}/a:stream", str(folder) + "\\")


@check
def links_are_followed_or_kept(folder: pathlib.Path) -> None:
    there = remote("links")
    run(
        server(),
        f"mkdir -p {there}/a && cd {there} && echo x >a/file && ln -s a/file l && ln -s a b",
    )
    download(server(), there, folder / "followed")
    expect((folder / "followed" / "l").read_bytes() == b"x\n", "a link to a file")
    expect((folder / "followed" / "b" / "file").read_bytes() == b"x\n", "a link to a folder")
    try:
        download(server(), there, folder / "kept", links="keep")
    except OSError as error:  # Windows allows it to few users, and wine to none
        print(f"      {type(error).__name__}: {error}")
    upload(server(), folder / "followed", remote("kept"), links="keep")
    upload(server(), folder / "followed", remote("kept"), contents=True, links="keep")


@check
def file_objects(folder: pathlib.Path) -> None:
    with open(folder / "a", "w+b") as file:
        file.write(b"content\n")
        file.seek(0)
        upload(server(), file, remote("object"))
        file.seek(0)
        download(server(), remote("object"), file)
        file.seek(0)
        expect(file.read() == b"content\n", "content")


# The user's files.


@check
def a_new_host_key_is_recorded(folder: pathlib.Path) -> None:
    file = folder / "ssh" / "known_hosts"
    connect = server(known_hosts=str(file), host_key_policy="accept-new")
    with new_cache() as cache:
        threads = [
            threading.Thread(target=run, args=(connect, "true"), kwargs={"cache": cache})
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    recorded = file.read_bytes()
    expect(recorded.count(b"\n") == 1 and b"\r" not in recorded, recorded)
    with new_cache() as cache:
        run(server(known_hosts=str(file)), "true", cache=cache)


@check
def a_locked_known_hosts_is_waited_for(folder: pathlib.Path) -> None:
    from ssh_service import user_files

    file = folder / "known_hosts"
    file.write_bytes(b"")
    with open(file, "r+b") as holder:
        expect(user_files.lock(holder.fileno(), 0.0), "the first lock")
        with open(file, "r+b") as other:
            expect(not user_files.lock(other.fileno(), 0.0), "the second lock")
    with open(file, "r+b") as other:
        expect(user_files.lock(other.fileno(), 0.0), "after it was closed")


@check
def the_users_ssh_config(_: pathlib.Path) -> None:
    home = pathlib.Path(os.environ["USERPROFILE"]) / ".ssh"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    try:
        shutil.copy(_facts["known_hosts"], home / "known_hosts")
        shutil.copy(_facts["client_key"], home / "the_key")
        lines = [
            "Host box",
            f"  HostName {_facts['host']}",
            f"  Port {_facts['port']}",
            f"  User {_facts['username']}",
            "  IdentityFile ~/.ssh/the_key",
            "  IdentityAgent none",
        ]
        (home / "config").write_bytes("\r\n".join(lines).encode())
        expect(run("box", "echo by config").stdout == "by config\n", "config")
        command_line("box")
    finally:
        ssh_service.close_all()
        shutil.rmtree(home, ignore_errors=True)


@check
def the_systems_ssh_config(_: pathlib.Path) -> None:
    folder = pathlib.Path(os.environ["PROGRAMDATA"]) / "ssh"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        shutil.copy(_facts["known_hosts"], folder / "ssh_known_hosts")
        lines = [
            "Host systembox",
            f"  HostName {_facts['host']}",
            f"  Port {_facts['port']}",
            f"  User {_facts['username']}",
            f"  IdentityFile \"{_facts['client_key']}\"".replace("\\", "/"),
            "  IdentityAgent none",
        ]
        (folder / "ssh_config").write_bytes("\n".join(lines).encode())
        expect(run("systembox", "echo by config").stdout == "by config\n", "config")
    finally:
        ssh_service.close_all()
        shutil.rmtree(folder, ignore_errors=True)


# The command line.


def ssh_service_program(*words: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    """Run the program with words, and return what it printed."""
    return subprocess.run(
        [*_PYTHON, "-m", "ssh_service", *words],
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        timeout=_TIMEOUT,
    )


def command_line(host: str) -> None:
    """Check that the program runs a command on a host of the user's configuration."""
    process = ssh_service_program("run", "-H", host, "--", "echo", "hello")
    expect(process.returncode == 0 and "hello" in process.stdout, process)


def options(folder: pathlib.Path) -> List[str]:
    """Return the options that name the server."""
    lines = [
        "Host box",
        f"  HostName {_facts['host']}",
        f"  Port {_facts['port']}",
        f"  User {_facts['username']}",
        f"  UserKnownHostsFile \"{_facts['known_hosts']}\"".replace("\\", "/"),
        f"  IdentityFile \"{_facts['client_key']}\"".replace("\\", "/"),
    ]
    (folder / "config").write_text("\n".join(lines))
    return ["-F", str(folder / "config"), "-H", "box"]


@check
def command_line_run(folder: pathlib.Path) -> None:
    process = ssh_service_program("run", *options(folder), "--", "echo hello; exit 0")
    expect(process.returncode == 0 and "hello" in process.stdout, process)
    process = ssh_service_program("run", *options(folder), "--json", "--", "echo hello; exit 3")
    expect(process.returncode == 1, process)
    expect(json.loads(process.stdout)["exit_status"] == 3, process)


@check
def command_line_scripts_and_files(folder: pathlib.Path) -> None:
    (folder / "script.sh").write_bytes(b'#!/bin/sh\nread line; echo "$1 $line $X"\n')
    (folder / "input").write_bytes(b"from a file\n")
    words = ["--script", str(folder / "script.sh"), "--stdin", str(folder / "input")]
    words += ["--env", "X=x"]
    process = ssh_service_program("run", *options(folder), *words, "--group", "--", "word")
    expect(process.returncode == 0 and "word from a file x" in process.stdout, process)
    words += ["--output-dir", str(folder / "out")]
    for _turn in range(2):  # the second replaces the files of the first
        process = ssh_service_program("run", *options(folder), *words, "--", "word")
        expect(process.returncode == 0, process)
        written = [path.read_bytes() for path in (folder / "out").rglob("*.stdout")]
        expect(written == [b"word from a file x\n"], written)


@check
def command_line_copies(folder: pathlib.Path) -> None:
    make_tree(folder / "tree")
    process = ssh_service_program("upload", *options(folder), str(folder / "tree"), remote("cli"))
    expect(process.returncode == 0, process)
    process = ssh_service_program("download", *options(folder), remote("cli"), str(folder / "got"))
    expect(process.returncode == 0, process)
    found = [path for path in (folder / "got").rglob("lines.txt")]
    expect(len(found) == 1, content(folder / "got"))
    expect(content(found[0].parent.parent) == content(folder / "tree"), "the copy")


@check
def command_line_hosts_and_help(_: pathlib.Path) -> None:
    names = ("web01", "web02", "web03")
    process = ssh_service_program("hosts", "web[01-03]")
    expect([line.split()[0] for line in process.stdout.splitlines()][-3:] == list(names), process)
    for words in (["--help"], ["run", "--help"], ["--version"], ["man"], ["job", "--help"]):
        expect(ssh_service_program(*words).returncode == 0, words)


@check
def command_line_jobs(folder: pathlib.Path) -> None:
    process = ssh_service_program(
        "job", "start", *options(folder), "--id", "wine-1", "--", "echo in a job"
    )
    expect(process.returncode == 0, process)
    process = ssh_service_program("job", "wait", *options(folder), "wine-1")
    expect(process.returncode == 0, process)
    process = ssh_service_program("job", "remove", *options(folder), "wine-1")
    expect(process.returncode == 0, process)


@check
def command_line_forward(folder: pathlib.Path) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    words = ["-F", options(folder)[1], "-L", f"{port}:127.0.0.1:{_facts['port']}", "box"]
    process = subprocess.Popen(
        [*_PYTHON, "-m", "ssh_service", "forward", *words], stderr=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
                    expect(sock.recv(100).startswith(b"SSH-2.0-"), "the greeting")
                break
            expect(process.poll() is None, process)
            time.sleep(0.2)
        else:
            raise AssertionError("it does not listen")
    finally:
        process.kill()
        process.communicate()


@check
def command_line_shell_is_refused(_: pathlib.Path) -> None:
    process = ssh_service_program("shell", "somewhere")
    expect(process.returncode == 2 and "Windows" in process.stderr, process)
    expect("Traceback" not in process.stderr, process)


# What needs more of the system.


@check
def proxy_command(folder: pathlib.Path) -> None:
    script = folder / "proxy.py"
    script.write_text(_PROXY)
    command = f'"{sys.executable}" "{script}" {_facts["host"]} {_facts["port"]}'
    with new_cache() as cache:
        connect = server(proxy_command=command)
        process = run(connect, "cat", input="x" * 1_000_000, cache=cache)
        expect(process.stdout == "x" * 1_000_000, len(process.stdout))
    with raises(SshServiceError, "no proxy today"):
        bad = f'"{sys.executable}" -c "import sys; sys.exit(\'no proxy today\')"'
        run(server(proxy_command=bad, connect_timeout=30), "true")


@check
def proxy_command_and_match_exec_of_ssh_config(folder: pathlib.Path) -> None:
    script = folder / "proxy.py"
    script.write_text(_PROXY)
    lines = [
        'Match originalhost box exec "exit 1"',
        "  Port 1",
        'Match originalhost box exec "if %h==box exit 0"',
        f"  Port {_facts['port']}",
        "Host box",
        f"  HostName {_facts['host']}",
        f'  ProxyCommand "{sys.executable}" "{script}" %h %p'.replace("\\", "/"),
    ]
    (folder / "config").write_text("\n".join(lines))
    with new_cache() as cache:
        connect = server(config=str(folder / "config"), host="box", config_exec=True)
        del connect["port"]
        known = pathlib.Path(_facts["known_hosts"]).read_text().split(" ", 1)[1]
        (folder / "known_hosts").write_text(f"[{_facts['host']}]:{_facts['port']} {known}")
        connect["known_hosts"] = str(folder / "known_hosts")
        expect(run(connect, "echo by config", cache=cache).stdout == "by config\n", "config")


_PROXY = """
import os, socket, sys, threading
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))
import msvcrt
msvcrt.setmode(0, os.O_BINARY), msvcrt.setmode(1, os.O_BINARY)
def up():
    while True:
        data = os.read(0, 65536)
        if not data:
            break
        sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)
threading.Thread(target=up, daemon=True).start()
while True:
    data = sock.recv(65536)
    if not data:
        break
    while data:
        data = data[os.write(1, data):]
os._exit(0)
"""


@check
def the_agents_pipe(_: pathlib.Path) -> None:
    from multiprocessing.connection import Listener

    from paramiko import Ed25519Key, Message

    key = Ed25519Key.from_private_key_file(_facts["client_key"])

    def answer_all() -> None:
        while True:
            with listener.accept() as connection:
                request = Message(connection.recv_bytes()[4:])
                answer = Message()
                if request.get_byte() == b"\x0b":  # list the keys
                    answer.add_byte(b"\x0c")
                    answer.add_int(1)
                    answer.add_string(key.asbytes())
                    answer.add_string("a key in a pipe")
                else:  # sign
                    request.get_string()
                    answer.add_byte(b"\x0e")
                    answer.add_string(key.sign_ssh_data(request.get_binary()).asbytes())
                data = answer.asbytes()
                connection.send_bytes(len(data).to_bytes(4, "big") + data)

    pipe = r"\\.\pipe\ssh-service-agent"
    with Listener(pipe, "AF_PIPE") as listener:
        threading.Thread(target=answer_all, daemon=True).start()
        process = run(server(client_keys=[], agent_path=pipe, connect_timeout=60), "echo agent")
        expect(process.stdout == "agent\n", process)
    with raises(SshServiceError, "agent"):
        run(server(client_keys=[], agent_path=r"\\.\pipe\no-such-agent"), "true")


@check
def test_servers_are_refused(_: pathlib.Path) -> None:
    with raises(Exception, "Windows"):
        from ssh_service.testing.local_sshd import Sshd

        with tempfile.TemporaryDirectory() as name:
            Sshd(name)


def main() -> int:
    """Run the checks that the arguments name; return the exit status."""
    for folder in (os.path.dirname(ssh_service.__file__), os.path.join(_here, "packages")):
        compileall.compile_dir(folder, quiet=2)  # the embeddable Python writes no byte code
    print(
        f"Python {sys.version.split()[0]} on {sys.platform}, ssh_service {ssh_service.__version__}"
    )
    chosen = [
        (name, function)
        for name, function in CHECKS
        if not sys.argv[1:] or any(word in name for word in sys.argv[1:])
    ]
    failed = [name for name, function in chosen if not _succeeds(name, function)]
    print(f"{len(chosen) - len(failed)} passed, {len(failed)} failed")
    for name in failed:
        print(f"  FAIL {name}")
    sys.stdout.flush()
    os._exit(1 if failed else 0)  # a check that hangs must not keep the process


def _succeeds(name: str, function: Callable[[pathlib.Path], None]) -> bool:
    problems: List[str] = []

    def work() -> None:
        try:
            with tempfile.TemporaryDirectory() as folder:
                function(pathlib.Path(folder))
        except BaseException:  # noqa: B902
            problems.append(traceback.format_exc())

    began = time.monotonic()
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(_TIMEOUT)
    if thread.is_alive():
        frame = sys._current_frames().get(thread.ident or 0)
        problems.append("it hangs:\n" + "".join(traceback.format_stack(frame)))
    print(f"{'FAIL' if problems else 'PASS'}  {name}  ({time.monotonic() - began:.1f} s)")
    for problem in problems:
        print("      " + problem.replace("\n", "\n      "))
    return not problems


if __name__ == "__main__":
    main()
