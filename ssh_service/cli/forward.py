"""The command ``forward``, after the command line was parsed."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from typing import Any, Dict, Iterator, List, Tuple

import click

from ssh_service import events, forwarding
from ssh_service.cli.forward_specs import Spec, parse
from ssh_service.cli.report import escape_control_characters, in_options
from ssh_service.cli.signals import signals_named
from ssh_service.cli.targets import connect_parameters
from ssh_service.connections.cache import SshClientCache
from ssh_service.errors import SshConfigError, SshServiceError
from ssh_service.fleet.hosts import connect_params
from ssh_service.forwarding import Forward
from ssh_service.forwarding.addresses import parse_listen, parse_target
from ssh_service.forwarding.counts import streams_in_words
from ssh_service.transport.lock_free import LockFreeEvent

__all__ = ["run"]

# Seconds between two updates of the displayed counters.
_INTERVAL = 0.5
# Seconds for the streams to end after Ctrl-C.
_DRAIN = 5.0
_UNITS = ("kB", "MB", "GB", "TB")


def run(
    host: str,
    local: Tuple[str, ...],
    remote: Tuple[str, ...],
    dynamic: Tuple[str, ...],
    verbose: int,
    **options: Any,
) -> int:
    """Forward until a signal arrives, and return the exit status."""
    specs = [parse("-L", text) for text in local]
    specs += [parse("-R", text) for text in remote]
    specs += [parse("-D", text) for text in dynamic]
    if not specs:
        raise click.UsageError("nothing to forward: give -L, -R or -D")
    for spec in specs:
        _check(spec)
    connect = connect_params(host, connect_parameters(options, [host]))
    if verbose:
        level = logging.INFO if verbose == 1 else logging.DEBUG
        logging.basicConfig(level=level, format="%(name)s: %(message)s")
        logging.getLogger("paramiko").setLevel(logging.WARNING)
    return _Run(specs, connect).run()


def _check(spec: Spec) -> None:
    """Raise a usage error before any forward is opened."""
    is_remote = spec.option == "-R"
    try:
        if spec.to is not None:
            parse_target(spec.to, is_local=is_remote, name="the target")
        parse_listen(spec.listen, is_local=not is_remote, name="the side that listens")
    except SshConfigError as error:
        raise click.UsageError(f"{spec.option} {spec.text}: {error}") from error


class _Run:
    def __init__(self, specs: List[Spec], connect: Dict[str, Any]) -> None:
        self._specs, self._connect = specs, connect
        self._cache = SshClientCache()
        self._forwards: List[Forward] = []
        self._signal = 0
        self._stop = LockFreeEvent()

    def run(self) -> int:
        numbers = signals_named("SIGINT", "SIGTERM", "SIGHUP")
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            status = self._run()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return 128 + self._signal if self._signal else status

    def _on_signal(self, number: int, _: Any) -> None:
        if self._signal:  # the second signal
            os.write(2, b"ssh-service: interrupted again: streams were reset\n")
            os._exit(128 + self._signal)
        self._signal = number
        self._stop.set()

    def _run(self) -> int:
        self._cache.subscribe(_report)
        try:
            status = self._begin()
            if not status and not self._signal:
                self._wait()
        finally:
            self._close()
        return status

    def _begin(self) -> int:
        """Open all forwards, on a thread that no signal interrupts; return the exit status."""
        problems: List[str] = []
        done = LockFreeEvent()

        def begin() -> None:
            try:
                problems.extend(self._open_all())
            finally:
                done.set()

        threading.Thread(target=begin, daemon=True).start()
        while not done.wait(_INTERVAL):
            if self._signal:
                return 0
        for problem in problems:
            _say(problem)
        for forward in self._forwards if not problems else []:
            print(_line(forward), flush=True)
        return 1 if problems else 0

    def _open_all(self) -> List[str]:
        """Open the forwards in order; return the error of the first that fails, if any."""
        for spec in self._specs:
            if self._signal:
                break
            try:
                self._forwards.append(self._open(spec))
            except SshServiceError as error:
                return [f"{spec.option} {spec.text}: {in_options(str(error))}"]
        return []

    def _open(self, spec: Spec) -> Forward:
        cache, connect = self._cache, self._connect
        if spec.to is None:
            return forwarding.forward_socks(connect, listen=spec.listen, keep=True, cache=cache)
        if spec.option == "-L":
            return forwarding.forward_local(
                connect, spec.to, listen=spec.listen, keep=True, cache=cache
            )
        return forwarding.forward_remote(connect, spec.to, listen=spec.listen, cache=cache)

    def _wait(self) -> None:
        with _counters(self._forwards):
            self._wait_for_the_end()

    def _wait_for_the_end(self) -> None:
        while not self._stop.wait(_INTERVAL):
            if all(forward.closed for forward in self._forwards):
                return

    def _close(self) -> None:
        streams = sum(forward.streams for forward in self._forwards)
        if streams:
            _say(f"interrupted: waiting up to {_DRAIN:g} s for {streams_in_words(streams)} to end")
        # In parallel, so that they share the time for draining.
        threads = [
            threading.Thread(target=forward.close, args=(_DRAIN,), daemon=True)
            for forward in self._forwards
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(_INTERVAL)
        self._cache.cleanup()


def _line(forward: Forward) -> str:
    to = "SOCKS" if forward.kind == "socks" else forward.to
    where = "the server's " if forward.kind == "remote" else ""
    return f"{where}{forward.address} -> {to}"


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        escaped = escape_control_characters(text.encode("utf-8", "backslashreplace")).decode()
        print(f"ssh-service: {escaped}", file=sys.stderr, flush=True)


def _report(event: events.Event) -> None:
    if isinstance(event, events.StreamEnded) and event.outcome in ("refused", "failed"):
        _say(str(event.reason))
    elif isinstance(event, events.ConnectionEnded) and event.reason is not None:
        _say(event.reason)
    elif isinstance(event, events.ForwardFailed):
        later = "" if event.retry_in is None else f"; next attempt in {event.retry_in:.1f} s"
        _say(f"{event.reason}{later}")
    elif isinstance(event, events.ConnectionMade):
        _say(f"{event.connection_id}: connected")


@contextlib.contextmanager
def _counters(forwards: List[Forward]) -> Iterator[None]:
    """Show counters on a terminal while the block runs."""
    if not (sys.stderr.isatty() and sys.stdout.isatty()) or os.environ.get("TERM") == "dumb":
        yield
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    def render() -> Text:
        return Text("\n".join(_counter(forward) for forward in forwards))

    console = Console(stderr=True, highlight=False, no_color=bool(os.environ.get("NO_COLOR")))
    with Live(console=console, get_renderable=render, refresh_per_second=2, transient=True):
        yield


def _counter(forward: Forward) -> str:
    to_server, from_server = forward.bytes
    return (
        f"{_line(forward)}: {streams_in_words(forward.streams)},"
        f" {_amount(to_server)} to and {_amount(from_server)} from the server"
    )


def _amount(size: float) -> str:
    if size < 1000:
        return f"{size:.0f} B"
    for unit in _UNITS:
        size /= 1000
        if size < 1000:
            break
    return f"{size:.1f} {unit}"
