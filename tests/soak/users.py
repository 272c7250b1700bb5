"""What the soak's threads do: each does a step of it, and notes in the history how it went."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import socket
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

import paramiko

from ssh_service import Forward, download, forward_local, operations
from ssh_service import paramiko as shared_paramiko
from ssh_service import start_job, upload
from ssh_service.connections.cache import SshClientCache
from ssh_service.errors import (
    SshCacheClosed,
    SshCommandCancelled,
    SshCommandError,
    SshConnectError,
    SshConnectionLost,
    SshServiceError,
)
from tests.common import PATIENCE
from tests.soak.history import History


class Site(NamedTuple):
    """What the threads of a phase share."""

    cache: SshClientCache
    targets: List[Dict[str, Any]]
    echo_port: int
    """Of a server that sends back what it gets."""
    forwards: List[Forward]
    """To that server, one for each target; used by one thread."""
    folder: Path
    file: Path
    """To which each script on the server appends its number."""
    history: History


def run_command(site: Site, rng: random.Random) -> None:
    """Run a command that may be slow, be cancelled, or not end in time."""
    history = site.history
    number = history.begin()
    size = rng.choice([0, 10, 1000, 100000])
    rest = rng.choice(["", "", "", f"sleep {rng.random() * 0.3:.2f}; ", "exec sleep 20; "])
    text = f"echo {number} >>{site.file}; {rest}head -c {size} /dev/zero; echo end-{number}"
    limit = rng.choice([None, None, 0.2, 1.0]) if "exec" not in rest else 0.3
    future = operations.submit(site.cache, rng.choice(site.targets), text, timeout=limit)
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


def copy_file(site: Site, rng: random.Random) -> None:
    """
    Copy a file there and back: what is at a target is the old one or the new one, whole.

    The server may still carry out the last request of a copy that was lost, much later: then the
    file of that copy is there, whole, too.
    """
    lost, content = site.history.lost_contents, os.urandom(
        rng.choice([0, 1000, 40_000, 1_000_000])
    )
    here, there, back = (site.folder / f"copy-{name}" for name in ("here", "there", "back"))
    here.write_bytes(content)
    for path in (there, back):
        if not path.exists():
            path.write_bytes(b"old")
    web = rng.choice(site.targets)
    options: Any = {"cache": site.cache, "timeout": 10.0, "resume": rng.random() < 0.3}
    copies: List[Tuple[Path, Callable[[], Any]]] = [
        (there, lambda: upload(web, here, there, **options)),
        (back, lambda: download(web, there, back, **options)),
    ]
    for path, copy in copies:
        before = path.read_bytes()
        try:
            copy()
        except (SshServiceError, OSError):
            site.history.count("copies lost")
            lost.add(_digest(content))
            if _digest(path.read_bytes()) not in (_digest(before), *lost):
                site.history.complain(f"{path} is neither the old nor the new file")
            return
        if _digest(path.read_bytes()) not in (_digest(content), *lost):
            site.history.complain(f"{path} is not what was copied")
    site.history.count("copies")


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def use_forward(site: Site, rng: random.Random) -> None:
    """Send something through a forward: it comes back whole, or the connection is reset."""
    which = rng.randrange(len(site.forwards))
    forward = site.forwards[which]
    if forward.closed:  # with the cache's connections; its port may be another server's now
        with contextlib.suppress(SshServiceError):
            site.forwards[which] = forward_local(
                site.targets[which], site.echo_port, keep=True, cache=site.cache
            )
        return
    data = os.urandom(rng.choice([1, 1000, 300_000]))
    try:
        back = _exchange(forward.port or 0, data)
    except OSError as error:
        site.history.count("streams lost")
        if isinstance(error, socket.timeout) and not forward.closed:
            site.history.complain("a stream did not end")
        time.sleep(0.05)  # while there is no connection each is refused at once
    else:
        site.history.count("streams lost" if forward.closed else "streams")
        if back != data and not forward.closed:
            what = "the first" if data.startswith(back) else "not the first"
            site.history.complain(f"a stream of {len(data)} bytes ended after {what} {len(back)}")


def _exchange(port: int, data: bytes) -> bytes:
    """Send something to a server; return what it answers, up to its end."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(65536), b""))


def run_job(site: Site, rng: random.Random) -> None:
    """Start a job, again where nobody said that it started, and wait for it: it runs once."""
    number = site.history.begin()
    web, script = rng.choice(site.targets), f"echo {number} >>{site.file}; echo end-{number}"
    deadline = time.monotonic() + PATIENCE
    result = None
    while result is None and time.monotonic() < deadline:
        with contextlib.suppress(SshServiceError, OSError):  # the same id names the same job
            job = start_job(
                web, script, id=f"{site.file.name}-{number}", timeout=5, cache=site.cache
            )
            result = job.result(5)
    if result is None:
        site.history.end(number, "unknown")
        return
    site.history.end(number, "done")
    if result.stdout != f"end-{number}\n":
        site.history.complain(f"job {number}: wrong outcome {result!r}")
    with contextlib.suppress(SshServiceError, OSError):
        job.remove()


def use_client(site: Site, rng: random.Random) -> None:
    """Run a command by a client that was written for paramiko."""
    web, number = rng.choice(site.targets), site.history.begin()
    client = shared_paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    try:
        client.connect(
            web["host"],
            web["port"],
            web["username"],
            key_filename=web["client_keys"],
            allow_agent=False,
            look_for_keys=False,
            timeout=5,
        )
        text = f"echo {number} >>{site.file}; echo end-{number}"
        _, stdout, _ = client.exec_command(text, timeout=PATIENCE)
        answer, status = stdout.read(), stdout.channel.recv_exit_status()
    except socket.timeout:
        site.history.complain(f"client {number}: no answer")
        site.history.end(number, "unknown")
    except (paramiko.SSHException, OSError, EOFError):
        site.history.end(number, "unknown")
    else:
        if (status, answer) == (0, b"end-%d\n" % number):
            site.history.end(number, "done")
        else:
            site.history.end(number, "unknown")
            site.history.complain(f"client {number}: {status}, {answer!r}")
    finally:
        client.close()


USERS: List[Callable[[Site, random.Random], None]] = [
    *[run_command] * 6,
    copy_file,
    use_forward,
    run_job,
    use_client,
]
"""One for each thread."""
