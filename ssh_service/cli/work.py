"""What ``run``, ``upload`` and ``download`` do once the command line has been read."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import select
import signal
import sys
import threading
import time
from typing import Any, Callable, List, Optional, Tuple

import click

from ssh_service import fleet, params
from ssh_service.cli.files import OutputFiles
from ssh_service.cli.report import JsonLines, Lines, Reporter, verdict
from ssh_service.cli.targets import check_parallel, collect, connect_parameters
from ssh_service.errors import SshConfigError, SshHostKeyError, SshServiceError
from ssh_service.fleet import HostResult, Results
from ssh_service.fleet.hosts import connect_params, folder_name
from ssh_service.fleet.result import failed, one_line

__all__ = ["copy", "run"]

# Seconds between two looks at signals and at whether anyone still reads our output.
_LOOK_EVERY = 0.1
# Seconds that hosts get to end what was cancelled.
_PATIENCE = 6.0
# Bytes of output that are kept for one host where they cannot be written as they come.
_MAX_OUTPUT = 64 * 1024 * 1024
# Failed hosts that the last line names.
_MAX_NAMED = 20
# Stands for each host's folder in what a dry run says.
_HOST = "\0host\0"


def run(
    command: str,
    output_dir: Optional[str],
    *,
    hosts: Tuple[str, ...],
    files: Tuple[str, ...],
    as_json: bool,
    parallel: int,
    timeout: Optional[float],
    **options: Any,
) -> int:
    """Run a command on every host."""
    chosen = collect(hosts, files, ", before the command")
    check_parallel(parallel, len(chosen), "hosts")
    connect = _connect(options)
    if options["dry_run"]:
        return _dry_run(chosen, connect, f"run: {command}", as_json)
    spool = OutputFiles(output_dir, chosen) if output_dir else None

    def begin(reporter: Callable[[], Reporter]) -> Results:
        def output(host: str, stream: str, piece: bytes) -> None:
            if spool:
                spool.write(host, stream, piece)
            else:
                reporter().output(host, stream, piece)

        return fleet.run(
            chosen,
            command,
            connect=connect,
            parallel=parallel,
            timeout=timeout,
            max_output=_MAX_OUTPUT if as_json else None,
            on_output=None if as_json else output,
        )

    return _Drive(chosen, begin, as_json, options, spool).run()


def copy(
    kind: str,
    *,
    local: str,
    remote: str,
    hosts: Tuple[str, ...],
    files: Tuple[str, ...],
    as_json: bool,
    parallel: int,
    timeout: Optional[float],
    stall_timeout: Optional[float],
    verify: bool,
    resume: bool,
    update: bool,
    contents: bool,
    preserve: Optional[bool],
    links: str,
    keep_going: bool,
    fsync: bool,
    **options: Any,
) -> int:
    """Copy to or from every host."""
    if update and preserve is False:  # as the library says, which has no dashes
        raise click.UsageError("--update compares times, and --no-preserve keeps none: give one")
    chosen = collect(hosts, files)
    check_parallel(parallel, len(chosen), "hosts")
    several = len(chosen) > 1
    connect = _connect(options)
    if options["dry_run"]:
        if kind == "upload":
            return _dry_run(chosen, connect, f"upload: {local} to {remote}", as_json)
        to = os.path.join(local, _HOST) if several else local
        return _dry_run(chosen, connect, f"download: {remote} to {to}", as_json)

    def begin(reporter: Callable[[], Reporter]) -> Results:
        shared = {
            "connect": connect,
            "parallel": parallel,
            "timeout": timeout,
            "stall_timeout": stall_timeout,
            "on_progress": lambda host, progress: reporter().progress(host, progress),
            "verify": verify,
            "resume": resume,
            "update": update,
            "contents": contents,
            "preserve": preserve,
            "links": links,
            "on_error": "continue" if keep_going else "stop",
            "fsync": fsync,
        }
        if kind == "upload":
            return fleet.upload(chosen, local, remote, **shared)
        return fleet.download(chosen, remote, local, folder_per_host=several, **shared)

    is_new = kind == "download" and (several or local.endswith("/")) and not os.path.isdir(local)
    if is_new and not several:
        _make_folder(local)
    status = _Drive(chosen, begin, as_json, options, None).run()
    if is_new and status:
        with contextlib.suppress(OSError):  # something did arrive
            os.rmdir(local)
    return status


def _make_folder(path: str) -> None:
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise click.UsageError(f"{path}: cannot create the folder: {error.strerror}") from error


def _connect(options: Any) -> Any:
    if options["verbose"]:
        level = logging.INFO if options["verbose"] == 1 else logging.DEBUG
        logging.basicConfig(level=level, format="%(name)s: %(message)s")
        logging.getLogger("paramiko").setLevel(logging.WARNING)
        if options["verbose"] == 1:  # the host's own line says why it failed
            logging.getLogger("ssh_service.connections.dials").setLevel(logging.WARNING)
    names = ("host_key", "keys", "config", "user", "port")
    return connect_parameters(**{name: options[name] for name in names})


def _dry_run(hosts: List[str], connect: Any, what: str, as_json: bool) -> int:
    status = 0
    for host in hosts:
        try:
            target = params.resolve(connect_params(host, connect))
        except SshConfigError as error:
            print(f"{host}: {one_line(error)}", file=sys.stderr)
            status = 1
            continue
        address = params.connection_id(target.username, target.hostname, target.port)
        here = what.replace(_HOST, folder_name(host))
        if as_json:
            print(json.dumps({"host": host, "address": address, "would": here}))
        else:
            print(f"{host}: {address}: {here}")
    sys.stdout.flush()
    return status


class _Drive:
    """Takes the results, and looks out for what ends the work early."""

    def __init__(
        self,
        hosts: List[str],
        begin: Callable[[Callable[[], Reporter]], Results],
        as_json: bool,
        options: Any,
        spool: Optional[OutputFiles],
    ) -> None:
        self._hosts, self._begin = hosts, begin
        self._as_json, self._spool = as_json, spool
        self._fail_fast, self._verbose = options["fail_fast"], bool(options["verbose"])
        self._results: Optional[Results] = None
        self._signal = 0
        self._failed: List[str] = []  # hosts
        self._may_hint = options["host_key"] is None
        self._succeeded = 0
        self._failed_by_itself = False  # some host, before the work was ended early
        self._strangers = 0  # hosts whose key is not known
        self._why = ""  # why the work ends early
        self._deadline: Optional[float] = None

    def run(self) -> int:
        numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
        before = {number: signal.signal(number, self._signalled) for number in numbers}
        try:
            with self._reporter() as reporter:
                self._reporter_now = reporter
                self._results = self._begin(lambda: self._reporter_now)
                self._take_all(self._results, reporter)
                self._results.close()
                self._tell_end(reporter)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if self._signal:
            return 128 + self._signal
        if isinstance(reporter.problem, BrokenPipeError) and not self._failed_by_itself:
            # As for a program that SIGPIPE ended: `| head -1` is no failure of a host.
            return 128 + signal.SIGPIPE if self._failed else 0
        return 1 if self._failed or reporter.problem else 0

    def _reporter(self) -> Reporter:
        if self._as_json:
            return JsonLines()
        if sys.stderr.isatty() and sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
            from ssh_service.cli.live import LiveTable

            return LiveTable(self._hosts, self._count_begun, self._verbose)
        return Lines(self._verbose)

    def _count_begun(self) -> int:
        return self._results.begun if self._results else 0

    def _signalled(self, number: int, _: Any) -> None:
        if self._signal:  # asked twice: at once, whatever goes on over there
            self._reporter_now.abandon()
            text = f"ssh-service: interrupted again: {self._summary()}{self._left()}\n"
            os.write(2, text.encode())
            os._exit(128 + self._signal)
        self._signal = number
        if self._results is not None:
            # Not here, where this thread may hold a lock; nor later, where it may be writing to a
            # pipe that nobody reads.
            threading.Thread(target=self._results.cancel, daemon=True).start()

    def _take_all(self, results: Results, reporter: Reporter) -> None:
        while self._deadline is None or time.monotonic() < self._deadline:
            self._look_out(results, reporter)
            try:
                result = results.take(_LOOK_EVERY)
            except TimeoutError:
                continue
            except StopIteration:
                break
            self._look_out(results, reporter)  # so that why it ends is told before what was ended
            self._take(result, reporter)
        for host in self._hosts[results.begun :]:
            error = SshServiceError(f"{host}: not started: {self._why or 'the run was ended'}")
            self._take(failed(host, error, 0.0), reporter)

    def _look_out(self, results: Results, reporter: Reporter) -> None:
        if self._why:
            return
        problem = reporter.problem
        if self._signal:
            self._why = "interrupted"
            reporter.note("interrupted: ending the commands or copies under way")
        elif problem is not None or _is_closed(sys.stdout):
            self._why = "the output was closed"
            reporter.problem = problem or BrokenPipeError(errno.EPIPE, "the output was closed")
            if isinstance(reporter.problem, BrokenPipeError):
                reporter.mute()  # as other tools are when that happens
            else:
                self._why = f"cannot write the output: {reporter.problem.strerror}"
                reporter.note(self._why)
        elif self._fail_fast and self._failed:
            self._why = "another host failed"
        if self._why:
            self._failed_by_itself = bool(self._failed)
            results.cancel()
            self._deadline = time.monotonic() + _PATIENCE

    def _take(self, result: HostResult, reporter: Reporter) -> None:
        if self._spool is not None:
            result = self._spooled(result, self._spool)
        if not result.ok:
            self._failed.append(result.host)
        self._succeeded += result.ok
        error = result.error
        self._strangers += isinstance(error, SshHostKeyError) and error.expected is None
        reporter.done(result)

    def _spooled(self, result: HostResult, spool: OutputFiles) -> HostResult:
        try:
            process = result.process
            for stream in ("stdout", "stderr"):
                data = getattr(process, f"{stream}_bytes") if process else b""
                if result.sent:
                    spool.write(result.host, stream, data)
            if not result.ok:
                spool.write(result.host, "error", f"{verdict(result)}\n".encode())
            spool.close(result.host)
        except SshServiceError as error:
            if result.ok:
                return failed(result.host, error, result.seconds)
        return result

    def _tell_end(self, reporter: Reporter) -> None:
        if self._strangers and self._may_hint:
            reporter.note("--host-key accept-new trusts and records the keys of new hosts")
        if len(self._hosts) > 1 and (not self._as_json or self._verbose):
            reporter.note(self._summary())

    def _summary(self) -> str:
        text = f"{self._succeeded} of {len(self._hosts)} hosts succeeded"
        failed = list(self._failed)
        if failed:
            more = len(failed) - _MAX_NAMED
            names = ", ".join(failed[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
            text += f", {len(failed)} failed: {names}"
        return text

    def _left(self) -> str:
        """Say how many hosts were left as they are; from a signal handler, so without a lock."""
        left = self._count_begun() - self._succeeded - len(self._failed)
        return f"; commands or copies may still run on {left} of them" if left > 0 else ""


def _is_closed(stream: Any) -> bool:
    """Tell whether nobody can read from our end of a pipe."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (OSError, ValueError, AttributeError):
        return False
