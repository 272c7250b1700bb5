"""
A demonstration: everything the library is for, in a few seconds, step by step.

Without arguments it needs no server: two run inside the process.  Each step checks what it shows.
"""

from __future__ import annotations

import argparse
import contextlib
import filecmp
import os
import shlex
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, ContextManager, Dict, Iterator, List, Optional, Tuple

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

import ssh_service
from ssh_service import SshClient, SshClientCache, SshConfigError, SshServiceError, params
from ssh_service.copying import Progress as CopyProgress
from ssh_service.fault_proxy import FaultProxy

__all__ = ["main"]

COMMANDS, THREADS, FILES = 50, 8, 120


class CheckFailed(Exception):
    """A step did not show what it should have."""


class Host:
    """
    A server, reached through a proxy of ours that can cut the line.

    Parameters
    ----------
    name : str
        For people.
    connect_params : Dict[str, Any]
        How to connect, through the proxy.
    proxy : FaultProxy
        What stands in for the network.
    """

    def __init__(self, name: str, connect_params: Dict[str, Any], proxy: FaultProxy) -> None:
        self.name = name
        self.params = connect_params
        self.proxy = proxy


class Watcher(SshClient):
    """A client that notes when its connection is made and lost: `SshClientCache` calls it."""

    events: List[str] = []

    def connection_made(self, conn: Any) -> None:
        """Note it."""
        self.events.append(f"made: {self}")

    def connection_lost(self, exc: Optional[BaseException]) -> None:
        """Note it."""
        self.events.append(f"lost: {exc}" if exc else "lost: we closed it")


class Show:
    """
    Prints the steps.

    Parameters
    ----------
    console : Console
        Knows whether this is a terminal, and whether colours are wanted.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._number = 0

    @contextlib.contextmanager
    def step(self, title: str, why: str) -> Iterator[None]:
        """
        Announce a step, and tell how long it took.

        Parameters
        ----------
        title : str
            What is done.
        why : str
            Why that is worth something.

        Yields
        ------
        None
        """
        self._number += 1
        self.console.print(f"\n[bold]{self._number}. {title}[/bold]")
        self.console.print(f"   [dim]{why}[/dim]")
        began = time.monotonic()
        yield
        self.console.print(f"   [green]done in {time.monotonic() - began:.2f} s[/green]")

    def say(self, text: str) -> None:
        """Print a line of a step; it may hold what a server said."""
        self.console.print(f"   {text}", markup=False, highlight=False)

    @contextlib.contextmanager
    def bar(self, title: str) -> Iterator[Callable[[CopyProgress], None]]:
        """
        Draw the progress of a copy, on a terminal.

        Parameters
        ----------
        title : str
            What is copied.

        Yields
        ------
        Callable[[CopyProgress], None]
            For the copy's ``progress``.
        """
        columns = (
            TextColumn("   {task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
        )
        with Progress(
            *columns, console=self.console, disable=not self.console.is_terminal
        ) as progress:
            task = progress.add_task(title, total=None)

            def update(now: CopyProgress) -> None:
                progress.update(task, completed=now.bytes_done, total=now.bytes_total)

            yield update


def check(holds: bool, expected: str) -> None:
    """
    Raise unless a step showed what it should.

    Parameters
    ----------
    holds : bool
        Whether it did.
    expected : str
        What should have been.

    Raises
    ------
    CheckFailed
        It did not.
    """
    if not holds:
        raise CheckFailed(f"expected {expected}")


def dial_at_once(show: Show, cache: SshClientCache, hosts: List[Host]) -> None:
    """Dial all hosts at the same time."""
    with show.step(
        f"Dial {len(hosts)} hosts at once",
        "A slow host delays its own callers only; callers for one host share one dial.",
    ):
        # Two callers for each host, yet one login each.
        with ThreadPoolExecutor(2 * len(hosts)) as pool:
            list(pool.map(cache.get_client_connection, [host.params for host in hosts * 2]))
        check(len(cache) == len(hosts), f"{len(hosts)} connections, found {len(cache)}")
        show.say(f"{cache}: {cache.stats()['dials']} logins for {2 * len(hosts)} callers")
        check(cache.stats()["dials"] == len(hosts), "one login for each host")


def run_many(show: Show, cache: SshClientCache, hosts: List[Host]) -> None:
    """Run commands from many threads over the same connections."""
    with show.step(
        f"Run {COMMANDS} commands from {THREADS} threads over {len(hosts)} connections",
        "Threads share a connection; every output and every exit status is its own.",
    ):

        def one(number: int) -> bool:
            host = hosts[number % len(hosts)]
            script = f"echo number {number}; exit {number % 3}"
            process = ssh_service.run(host.params, script, cache=cache, timeout=60)
            return (process.stdout, process.exit_status) == (f"number {number}\n", number % 3)

        with ThreadPoolExecutor(THREADS) as pool:
            right = sum(pool.map(one, range(COMMANDS)))
        show.say(f"{right} of {COMMANDS} outputs and exit statuses are right")
        check(right == COMMANDS, "all of them right")


def copy_a_tree(show: Show, cache: SshClientCache, host: Host, scratch: Path) -> None:
    """Copy a tree there and back, and compare."""
    with show.step(
        f"Upload a tree of {FILES} files to {host.name}, download it, compare",
        "Any name, modes and times kept; a file is the old or the new one, never half of it.",
    ):
        source, back = scratch / "source", scratch / "back"
        make_tree(source)
        made = ssh_service.run(host.params, "mktemp -d", cache=cache, timeout=60)
        check(made.exit_status == 0, "a temporary folder on the server")
        remote = made.stdout.strip()
        try:
            with show.bar("up  ") as progress:
                ssh_service.upload(
                    host.params, source, f"{remote}/tree", cache=cache, progress=progress
                )
            with show.bar("down") as progress:
                ssh_service.download(
                    host.params, f"{remote}/tree", back, cache=cache, progress=progress
                )
        finally:
            ssh_service.run(host.params, f"rm -rf {shlex.quote(remote)}", cache=cache, timeout=60)
        differing = differences(filecmp.dircmp(source, back))
        show.say(f"{FILES} files there and back, {len(differing)} differ")
        check(not differing, f"equal trees, but these differ: {differing[:3]}")


def make_tree(root: Path) -> None:
    """
    Make the tree to copy.

    Parameters
    ----------
    root : Path
        Where; not there yet.
    """
    for number in range(FILES):
        folder = root / f"folder {number % 4}" / "it's $HOME; *"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"file {number} \u00e4\u00f6\u00fc.bin").write_bytes(os.urandom(500 * number))


def differences(compared: "filecmp.dircmp[str]") -> List[str]:
    """
    List what two trees differ in.

    Parameters
    ----------
    compared : filecmp.dircmp
        The two.

    Returns
    -------
    List[str]
        Names.
    """
    _, mismatch, errors = filecmp.cmpfiles(
        compared.left, compared.right, compared.common_files, shallow=False
    )
    found = [*compared.left_only, *compared.right_only, *compared.funny_files, *mismatch, *errors]
    for below in compared.subdirs.values():
        found += differences(below)
    return found


def cut_the_line(show: Show, cache: SshClientCache, host: Host) -> None:
    """Cut a connection under a running command."""
    with show.step(
        f"Cut the connection to {host.name} under a running command",
        "Its fate is told at once, with the output so far; the next command reconnects by itself.",
    ):
        process = ssh_service.start(host.params, "echo begun; sleep 3; echo never", cache=cache)
        first = next(process.lines())
        check(first == "begun\n", "the command to begin")
        host.proxy.cut()
        error = process.future.exception(timeout=30)
        show.say(f"the command was told: {type(error).__name__}: {error}")
        check(isinstance(error, ssh_service.SshConnectionLost), "SshConnectionLost")
        again = ssh_service.run(host.params, "echo back again", cache=cache, timeout=60)
        show.say(f"the next command: {again.stdout.strip()}")
        check(again.stdout == "back again\n", "a new connection")
        check(cache.stats()["reconnects"] == 1, "one reconnect")


def tell_of_hooks(show: Show, cache: SshClientCache, hosts: List[Host]) -> None:
    """Show what the hooks were told."""
    with show.step(
        "The hooks were called",
        "Subclass SshClient to be told, on a thread of its own, what happens to connections.",
    ):
        cache.cleanup()
        expected = 2 * (len(hosts) + 1)
        deadline = time.monotonic() + 10
        quiet = threading.Event()
        while len(Watcher.events) < expected and time.monotonic() < deadline:
            quiet.wait(0.01)
        for event in Watcher.events:
            show.say(event)
        check(len(Watcher.events) == expected, f"{expected} events")


@contextlib.contextmanager
def mock_hosts() -> Iterator[List[Host]]:
    """
    Start two servers inside this process.

    Yields
    ------
    List[Host]
        The two.
    """
    from ssh_service.mock_sshd import MockSshd

    with contextlib.ExitStack() as stack:
        hosts = []
        for name in ("alpha", "beta"):
            server = stack.enter_context(MockSshd(name))
            proxy = stack.enter_context(FaultProxy(server.host, server.port))
            known_as = f"[{server.host}]:{server.port}"
            through = {**server.connect_params, "port": proxy.port, "host_key_alias": known_as}
            hosts.append(Host(name, through, proxy))
        yield hosts


@contextlib.contextmanager
def real_host(given: Dict[str, Any]) -> Iterator[List[Host]]:
    """
    Reach a real server over two lines, which the library takes for two hosts.

    Parameters
    ----------
    given : Dict[str, Any]
        Connect parameters.

    Yields
    ------
    List[Host]
        Twice the same.
    """
    target = params.resolve(given)
    known_as = target.host_key_alias or (
        target.host if target.port == 22 else f"[{target.host}]:{target.port}"
    )
    with contextlib.ExitStack() as stack:
        hosts = []
        for line in ("first line", "second line"):
            proxy = stack.enter_context(FaultProxy(target.hostname, target.port))
            through = {
                **given,
                "host": proxy.host,
                "port": proxy.port,
                "username": target.username,
                "host_key_alias": known_as,
            }
            hosts.append(Host(f"{target.host}, {line}", through, proxy))
        yield hosts


def parse(argv: Optional[List[str]]) -> argparse.Namespace:
    """
    Read the command line.

    Parameters
    ----------
    argv : Optional[List[str]]
        Arguments; None takes those of the process.

    Returns
    -------
    argparse.Namespace
        ``host``, ``key``, ``host_key``.
    """
    parser = argparse.ArgumentParser(
        prog="python -m ssh_service demo",
        description="Show what ssh_service does, step by step, in a few seconds.",
        epilog="Without --host no server is needed: two run inside the process.",
    )
    parser.add_argument("--host", metavar="[USER@]HOST[:PORT]", help="show it on a real server")
    parser.add_argument("--key", metavar="FILE", help="the private key to log in with")
    parser.add_argument(
        "--host-key",
        choices=("strict", "accept-new", "off"),
        default="strict",
        help="how to check the server's key (default: strict, by your known_hosts)",
    )
    return parser.parse_args(argv)


def connect_params(options: argparse.Namespace) -> Dict[str, Any]:
    """
    Make connect parameters of the command line.

    Parameters
    ----------
    options : argparse.Namespace
        From `parse`.

    Returns
    -------
    Dict[str, Any]
        For `ssh_service.run`.
    """
    username, _, address = options.host.rpartition("@")
    host, port = split_port(address)
    given: Dict[str, Any] = {"host": host, "host_key_policy": options.host_key}
    if username:
        given["username"] = username
    if port:
        given["port"] = port
    if options.key:
        given["client_keys"] = [options.key]
    return given


def try_once(given: Dict[str, Any]) -> None:
    """
    Connect without a proxy in between, so that what is wrong shows as it is.

    Parameters
    ----------
    given : Dict[str, Any]
        Connect parameters.
    """
    cache = SshClientCache()
    try:
        cache.get_client_connection(given)
    finally:
        cache.cleanup()


def split_port(address: str) -> Tuple[str, str]:
    """
    Split ``host:port``.

    Parameters
    ----------
    address : str
        An IPv6 address with a port stands in brackets.

    Returns
    -------
    Tuple[str, str]
        Host, and port or nothing.
    """
    if address.startswith("["):
        host, _, rest = address[1:].partition("]")
        return host, rest[1:]
    host, _, port = address.partition(":")
    return (address, "") if ":" in port else (host, port)


def main(argv: Optional[List[str]] = None) -> int:
    """
    Run the demonstration.

    Parameters
    ----------
    argv : Optional[List[str]]
        Arguments; None takes those of the process.

    Returns
    -------
    int
        0 if every check held, 1 if one did not, 2 for bad input, 130 when interrupted.
    """
    options = parse(argv)
    show = Show(Console(highlight=False, soft_wrap=True))
    began = time.monotonic()
    try:
        if options.host:
            given = connect_params(options)
            try_once(given)
            servers: ContextManager[List[Host]] = real_host(given)
        else:
            servers = mock_hosts()
    except SshServiceError as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, SshConfigError) else 1
    Watcher.events = []
    cache = SshClientCache(client_factory=Watcher)
    cache.enter()
    try:
        with tempfile.TemporaryDirectory() as scratch, servers as hosts:
            try:
                dial_at_once(show, cache, hosts)
                run_many(show, cache, hosts)
                copy_a_tree(show, cache, hosts[0], Path(scratch))
                cut_the_line(show, cache, hosts[0])
                tell_of_hooks(show, cache, hosts)
            finally:
                cache.exit()
    except CheckFailed as failure:
        show.console.print(f"   [bold red]failed:[/bold red] {failure}")
        return 1
    except (SshServiceError, OSError) as error:
        show.say(f"failed: {type(error).__name__}: {error}")
        return 1
    except KeyboardInterrupt:
        show.console.print("\ninterrupted")
        return 130
    show.console.print(f"\n[bold]All of it held, in {time.monotonic() - began:.1f} s.[/bold]")
    return 0
