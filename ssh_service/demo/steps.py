"""The steps of the demonstration; each shows what it does and checks what it shows."""

from __future__ import annotations

import contextlib
import functools
import secrets
import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, List, Optional, TypeVar

from ssh_service import Forward, Job, download, find_job, forward_local, run, start_job, upload
from ssh_service.connections.cache import SshClientCache
from ssh_service.demo import trees
from ssh_service.demo.hosts import DemoHost
from ssh_service.demo.journal import HookCall, Journal
from ssh_service.demo.show import Show
from ssh_service.errors import SshConnectionLost, SshJobNotFound

__all__ = [
    "connect",
    "copy_a_tree",
    "cut_the_line",
    "forward_a_port",
    "run_a_job",
    "run_many",
    "show_hook_calls",
]

COMMANDS, THREADS = 50, 8
# Seconds that each of the commands sleeps.
_SLEEP = 0.05
# Seconds after which it is an error that something has not happened.
_TIMEOUT = 60.0
_CALLBACK_THREAD = "ssh-service-callbacks"

T = TypeVar("T")
S = TypeVar("S")


@contextlib.contextmanager
def _threads(cache: SshClientCache, count: int) -> Iterator[ThreadPoolExecutor]:
    """Yield a thread pool whose commands are ended if this thread is interrupted (Ctrl-C)."""
    with ThreadPoolExecutor(count) as pool:
        try:
            yield pool
        except BaseException:
            cache.cleanup()  # commands under way fail
            raise


def _on_threads(
    cache: SshClientCache, count: int, function: Callable[[S], T], items: Iterable[S]
) -> List[T]:
    with _threads(cache, count) as pool:
        futures: List["Future[T]"] = []
        try:
            for item in items:
                futures.append(pool.submit(function, item))
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            raise


# --- 1 --------------------------------------------------------------------------------------


def connect(show: Show, cache: SshClientCache, journal: Journal, hosts: List[DemoHost]) -> None:
    """Connect to all hosts at once, from many threads."""
    with show.step(
        "Connect to both at once",
        "Threads share one connection to each host; a slow host does not delay the other.",
    ):

        def ask(number: int) -> None:
            cache.get_client_connection(hosts[number % len(hosts)].params)

        began = time.monotonic()
        _on_threads(cache, THREADS, ask, range(THREADS))
        seconds = time.monotonic() - began
        expected = sum(host.logins for host in hosts)
        journal.wait_for(expected, _TIMEOUT)
        dials = cache.stats()["dials"]
        show.check(
            dials == len(cache) == expected,
            f"{THREADS} threads asked at once, {THREADS // len(hosts)} for each host:"
            f" {dials} logins, {len(cache)} connections",
            f"{expected} of each: one for each host and each jump host",
        )
        names = [host.connection_id for host in hosts]
        clients = [client for client in journal.clients() if client.name in names]
        ready = [client.ready or float("inf") for client in clients]
        took = " and ".join(f"{r - c.begun:.2f} s" for r, c in zip(ready, clients))
        show.check(
            max(client.begun for client in clients) < min(ready),
            f"they were made in parallel: {took}, both ready after {seconds:.2f} s",
            "the second dial to begin before the first had ended",
        )


# --- 2 --------------------------------------------------------------------------------------


def run_many(show: Show, cache: SshClientCache, hosts: List[DemoHost]) -> None:
    """Run commands from many threads over few connections."""
    with show.step(
        f"Run {COMMANDS} commands from {THREADS} threads over the {len(hosts)} connections",
        "Threads share a connection; each command gets its own output and status.",
    ):
        before = cache.stats()["dials"]

        def is_right(number: int) -> bool:
            script = f"sleep {_SLEEP}; echo number {number}; exit {number % 3}"
            host = hosts[number % len(hosts)]
            process = run(host.params, script, cache=cache, timeout=_TIMEOUT)
            return (process.stdout, process.exit_status) == (f"number {number}\n", number % 3)

        began = time.monotonic()
        right = sum(_on_threads(cache, THREADS, is_right, range(COMMANDS)))
        seconds = time.monotonic() - began
        show.check(
            right == COMMANDS,
            f"{right} of {COMMANDS} outputs and exit statuses are right",
            "every command to give its own output and exit status",
        )
        more = cache.stats()["dials"] - before
        show.check(
            more == 0, f"{more} further logins: the connections are reused", "no further login"
        )
        show.note(
            f"Each sleeps for {_SLEEP} s: one by one {COMMANDS * _SLEEP:.1f} s at least, here"
            f" {seconds:.2f} s."
        )


# --- 3 --------------------------------------------------------------------------------------


def copy_a_tree(
    show: Show,
    cache: SshClientCache,
    host: DemoHost,
    scratch: Path,
    workspace: str,
    keeps_times: bool,
) -> None:
    """Copy a tree to the server and back, and compare."""
    with show.step(
        f"Copy a tree to {host.name} and back, and compare",
        "Each file is written under a temporary name, then renamed: never half a file.",
    ):
        source, there, back = scratch / "source", f"{workspace}/tree", scratch / "back"
        trees.make_tree(source)
        times = []
        for copy, title, begin, end in (
            (upload, "up", source, there),
            (download, "down", there, back),
        ):
            began = time.monotonic()
            with show.bar(title.ljust(4)) as progress:
                copy(host.params, begin, end, cache=cache, timeout=_TIMEOUT, progress=progress)
            times.append(f"{time.monotonic() - began:.2f} s {title}")
        original, copied = (trees.read_tree(root, keeps_times) for root in (source, back))
        differing = trees.differing(original, copied)
        size = sum(len(entry.content) for entry in original.values()) / 1e6
        show.note(f"{trees.FILES} files, {size:.1f} MB: {', '.join(times)}.")
        compared = "names, contents, modes" + (", times" if keeps_times else "")
        show.check(
            not differing,
            f"{compared} compared: {len(differing)} differ"
            + (f" ({differing[0]!r}, ...)" if differing else ""),
            "what comes back to be equal",
        )


# --- 4 --------------------------------------------------------------------------------------


def cut_the_line(show: Show, cache: SshClientCache, host: DemoHost, workspace: str) -> None:
    """Cut a connection while a command runs."""
    with show.step(
        f"Cut the connection to {host.name} while a command runs",
        "The loss is reported at once; the command is neither sent again nor taken for a success.",
    ):
        env = {"begun": f"{workspace}/begun"}
        command = functools.partial(
            run, host.params, env=env, shell="/bin/sh", cache=cache, timeout=_TIMEOUT
        )
        transport, _ = cache.get_client_connection(host.params)
        with _threads(cache, 1) as pool:
            future = pool.submit(
                command, 'echo half done; sleep 0.1; echo once >>"$begun"; sleep 3; echo done'
            )
            # Another command over the same connection waits until the first one runs.
            command('until [ -s "$begun" ]; do sleep 0.02; done')
            host.cut(transport)
            began = time.monotonic()
            error = future.exception(_TIMEOUT)
        seconds = time.monotonic() - began
        _check_loss(show, error, seconds)
        again = command('cat "$begun"')
        reconnects = cache.stats()["reconnects"]
        show.check(
            reconnects == 1,
            "the next command got a new connection by itself",
            f"one reconnect, not {reconnects}",
        )
        times = again.stdout.count("once\n")
        show.check(
            times == 1,
            f"and found that the lost one had begun {'once' if times == 1 else f'{times} times'}",
            "the lost command to have begun once",
        )


def _check_loss(show: Show, error: Optional[BaseException], seconds: float) -> None:
    show.check(
        isinstance(error, SshConnectionLost),
        f"{type(error).__name__} was raised {1000 * seconds:.0f} ms after the cut",
        "an SshConnectionLost, which is a ConnectionError",
    )
    show.note(f"  {error}")
    process: Any = getattr(error, "process", None)
    kept = (getattr(process, "stdout", None), getattr(process, "exit_status", None))
    show.check(
        kept == ("half done\n", None),
        f"with the output so far, {kept[0]!r}, and exit status {kept[1]}",
        "the output so far, and no exit status",
    )


# --- 5 --------------------------------------------------------------------------------------


def forward_a_port(show: Show, cache: SshClientCache, host: DemoHost) -> None:
    """Reach a port of the server through a forward, before and after a cut."""
    with show.step(
        f"Forward a port to {host.name}, and cut the connection",
        "A forward outlives its connection: the next client has it made again.",
    ):
        words = run(
            host.params, 'echo "$SSH_CONNECTION"', shell="/bin/sh", cache=cache, timeout=_TIMEOUT
        ).stdout.split()
        if len(words) != 4:
            show.note(f"{host.name} does not say where its SSH server listens: left out.")
            return
        address, port = words[2:]
        with forward_local(host.params, f"[{address}]:{port}", cache=cache) as forward:
            show.note(
                f"{forward.address} on this machine now leads to {forward.to}, as {host.name} sees"
                " it: there, its SSH server listens."
            )
            greeting = _greeting(forward)
            if not greeting and forward.last_error is not None:
                show.note(
                    f"The server allows no forwards, so this is left out: {forward.last_error}"
                )
                return
            show.check(
                greeting.startswith("SSH-"),
                f"through it comes the greeting of that server: {greeting!r}",
                "the greeting of an SSH server",
            )
            reconnects = cache.stats()["reconnects"]
            _cut(cache, host)
            again = _greeting(forward)
            more = cache.stats()["reconnects"] - reconnects
            show.check(
                (again, more) == (greeting, 1),
                f"after the cut, the same port gives {'it' if again == greeting else repr(again)}"
                f" again: {more} new connection",
                "the same greeting, over one new connection",
            )


def _greeting(forward: Forward) -> str:
    """Read a line through a forward; an empty one if the server refuses the connection."""
    try:
        with socket.create_connection(("127.0.0.1", forward.port or 0), _TIMEOUT) as stream:
            with stream.makefile("rb") as received:
                return received.readline(256).decode("ascii", "replace").strip()
    except ConnectionError:
        return ""


def _cut(cache: SshClientCache, host: DemoHost) -> None:
    transport, _ = cache.get_client_connection(host.params)
    host.cut(transport)
    transport.join(_TIMEOUT)  # until the loss was noticed


# --- 6 --------------------------------------------------------------------------------------


def run_a_job(show: Show, cache: SshClientCache, host: DemoHost) -> None:
    """Start a job, and follow it through a cut."""
    with show.step(
        f"Start a job on {host.name}, and cut the connection while it runs",
        "A job belongs to the host, not to the connection or this program: it is found by its id.",
    ):
        job_id = f"ssh-service-demo-{secrets.token_hex(3)}"
        script = "echo begun; sleep 0.5; echo done; exit 3"
        try:
            job = start_job(host.params, script, id=job_id, cache=cache, timeout=_TIMEOUT)
            _follow(show, cache, host, job)
        finally:
            # By its id, as Ctrl-C may come before `start_job` returns.
            with contextlib.suppress(SshJobNotFound):
                job = find_job(host.params, job_id, cache=cache, timeout=_TIMEOUT)
                job.kill()
                job.remove()


def _follow(show: Show, cache: SshClientCache, host: DemoHost, job: Job) -> None:
    lines = job.lines(timeout=_TIMEOUT)
    first = next(lines)
    show.check(first == "begun\n", f"{job.id} runs; it wrote {first!r}", "the job's first line")
    _cut(cache, host)
    rest = list(lines)
    show.check(
        rest == ["done\n"],
        f"the connection was cut; over a new one came the rest: {''.join(rest)!r}",
        "the job's last line, once",
    )
    state = job.wait(_TIMEOUT)
    show.check(
        (state.name, state.exit_status) == ("ended", 3),
        f"the host has kept what became of it: {state}",
        "ended(3)",
    )


# --- 7 --------------------------------------------------------------------------------------


def show_hook_calls(show: Show, journal: Journal, hosts: List[DemoHost], cuts: int) -> None:
    """Show the calls of the hooks, after the cache was closed."""
    with show.step(
        "Close the cache, and see the calls of the hooks",
        "A subclass of SshClient has hooks for connections made and lost.",
    ):
        count = sum(host.logins for host in hosts) + cuts
        expected = [(hook, number + 1) for number in range(count) for hook in ("made", "lost")]
        events = journal.wait_for(len(expected), 10.0)
        for event in events:
            show.note(describe(event))
        seen = sorted(
            ((event.hook, event.client) for event in events),
            key=lambda each: each[1],  # stable: keeps each client's order
        )
        show.check(
            seen == expected,
            "each connection was reported as made, then as lost",
            f"{expected}, not {seen}",
        )
        losses = [event for event in events if event.error is not None]
        show.check(
            len(losses) == cuts,
            f"only the {cuts} that were cut have an error",
            f"{cuts} losses with a reason, not {len(losses)}",
        )
        threads = ", ".join(sorted({event.thread for event in events}))
        show.check(
            threads == _CALLBACK_THREAD,
            f"on a separate thread, {threads}",
            f"the thread {_CALLBACK_THREAD}",
        )


def describe(event: HookCall) -> str:
    """Describe a hook call in one line."""
    text = f"{event.seconds:5.2f} s  #{event.client} {event.connection_id}  {event.hook}"
    if event.hook == "made":
        return text
    reason = str(event.error or "we closed it")
    prefix = f"{event.connection_id}: "
    return f"{text}: {reason[len(prefix) :] if reason.startswith(prefix) else reason}"
