"""A run of commands or copies on hosts: it reports the results, and ends early if necessary."""

from __future__ import annotations

import dataclasses
import errno
import os
import select
import signal
import sys
import threading
import time
from typing import Any, Callable, List, Optional, Tuple

from ssh_service.cli.files import OutputFiles
from ssh_service.cli.groups import Groups, folded
from ssh_service.cli.rates import Copied
from ssh_service.cli.report import JsonLines, Lines, Reporter, summary_line
from ssh_service.cli.signals import CLOSED_OUTPUT_STATUS, signals_named
from ssh_service.errors import SshServiceError
from ssh_service.fleet import HostResult, Results, expand, fold
from ssh_service.fleet.result import failed

__all__ = ["HostsRun"]

# Seconds between two checks for signals and for a closed output.
_POLL_INTERVAL = 0.1
# Seconds to wait for the hosts after the run was cancelled.
_CANCEL_TIMEOUT = 6.0
# The maximum seconds between two attempts; the first interval is one second.
_MAX_RETRY_INTERVAL = 30.0
# The maximum number of failed hosts, and ranges of them, that the last line names.
_MAX_NAMED = 20


class HostsRun:
    """One command on its hosts: reports the results, and ends early if necessary."""

    def __init__(
        self,
        hosts: List[str],
        start: Callable[[List[str], Callable[[], Reporter]], Results],
        as_json: bool,
        options: Any,
        output_files: Optional[OutputFiles] = None,
        groups: Optional[Groups] = None,
        copied: Optional[Copied] = None,
    ) -> None:
        self._hosts, self._start, self._copied = hosts, start, copied
        self._as_json, self._output_files, self._groups = as_json, output_files, groups
        self._fail_fast, self._verbose = options["fail_fast"], bool(options["verbose"])
        self._retries = options["retries"]
        self._round = 0  # the number of retries so far
        self._unsent: List[HostResult] = []  # of this round, to be tried again
        self._results: Optional[Results] = None
        self._signal = 0
        self._failed: List[str] = []  # the names of hosts
        self._succeeded = 0
        self._stop_reason = ""  # the reason to end early
        self._deadline: Optional[float] = None
        self._replaced_in_plans: Optional[Tuple[str, str]] = None
        self._is_interactive = (
            sys.stderr.isatty() and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        )

    def replace_in_plans(self, folder: str, by: str) -> None:
        """Show plans for a folder as if it were another one."""
        self._replaced_in_plans = folder, by

    def run(self) -> int:
        """Do the work, and return the exit status."""
        numbers = signals_named("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            with self._make_reporter() as reporter:
                self._reporter = reporter
                self._run_rounds(reporter)
            if self._groups is not None:
                self._groups.show(reporter)
                problem = reporter.problem
                if problem and not (self._stop_reason or isinstance(problem, BrokenPipeError)):
                    reporter.note(f"cannot write the output: {problem.strerror}")
            self._print_summary(reporter)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if self._signal:
            return 128 + self._signal
        if isinstance(reporter.problem, BrokenPipeError):
            return CLOSED_OUTPUT_STATUS  # regardless of the hosts' results so far
        return 1 if self._failed or reporter.problem else 0

    def _make_reporter(self) -> Reporter:
        if self._as_json:
            return JsonLines()
        quiet = self._groups is not None
        if self._is_interactive:
            from ssh_service.cli.live import LiveTable

            return LiveTable(self._hosts, self._count_begun, self._verbose, quiet)
        return Lines(self._verbose, quiet)

    def _count_begun(self) -> int:
        if self._round:
            return len(self._hosts)
        return self._results.begun if self._results else 0

    def _run_rounds(self, reporter: Reporter) -> None:
        hosts = self._hosts
        while True:
            self._results = self._start(hosts, lambda: self._reporter)
            self._handle_all(hosts, self._results, reporter)
            self._results.close()
            unsent, self._unsent = self._unsent, []
            if not unsent:
                return
            hosts = [result.host for result in unsent]
            if self._stop_reason or not self._wait_to_retry(hosts, self._results, reporter):
                self._round = self._retries  # these results are the last
                for result in unsent:
                    self._handle_result(result, reporter)
                return

    def _wait_to_retry(self, hosts: List[str], results: Results, reporter: Reporter) -> bool:
        """Wait until the next attempt; return False if there is to be none."""
        seconds = min(_MAX_RETRY_INTERVAL, 2.0**self._round)
        self._round += 1
        reporter.note(
            f"nothing was sent to {folded(hosts)}; trying again in {seconds:g} s"
            f" ({self._round} of {self._retries})"
        )
        deadline = time.monotonic() + seconds
        while not self._stop_reason and time.monotonic() < deadline:
            time.sleep(_POLL_INTERVAL)
            self._stop_if_needed(results, reporter)
        return not self._stop_reason

    def _on_signal(self, number: int, _: Any) -> None:
        if self._signal:  # the second signal ends the program immediately
            self._reporter.abandon()
            text = (
                f"ssh-service: interrupted again: {self._summary()}{self._describe_remaining()}\n"
            )
            os.write(2, text.encode())
            os._exit(128 + self._signal)
        self._signal = number
        if self._results is not None:
            # On another thread: this one may hold a lock, and may be blocked by a full pipe until
            # it is read.
            threading.Thread(target=self._results.cancel, daemon=True).start()

    def _handle_all(self, hosts: List[str], results: Results, reporter: Reporter) -> None:
        while self._deadline is None or time.monotonic() < self._deadline:
            self._stop_if_needed(results, reporter)
            try:
                result = results.take(_POLL_INTERVAL)
            except TimeoutError:
                continue
            except StopIteration:
                break
            self._stop_if_needed(results, reporter)  # first, so that the reason is printed first
            self._handle_result(result, reporter)
        for host in hosts[results.begun :]:
            error = SshServiceError(
                f"{host}: not started: {self._stop_reason or 'the run was ended'}"
            )
            self._handle_result(failed(host, error, 0.0), reporter)

    def _stop_if_needed(self, results: Results, reporter: Reporter) -> None:
        if self._stop_reason:
            return
        problem = reporter.problem
        if self._signal:
            self._stop_reason = "interrupted"
            reporter.note("interrupted: ending the commands or copies under way")
        elif problem is not None or _is_closed(sys.stdout):
            self._stop_reason = "the output was closed"
            reporter.problem = problem or BrokenPipeError(errno.EPIPE, "the output was closed")
            if isinstance(reporter.problem, BrokenPipeError):
                reporter.mute()  # as other tools do
            else:
                self._stop_reason = f"cannot write the output: {reporter.problem.strerror}"
                reporter.note(self._stop_reason)
        elif self._fail_fast and self._failed:
            self._stop_reason = "another host failed"
        if self._stop_reason:
            results.cancel()
            self._deadline = time.monotonic() + _CANCEL_TIMEOUT

    def _handle_result(self, result: HostResult, reporter: Reporter) -> None:
        if self._is_worth_another_try(result):
            self._unsent.append(result)
            return
        if self._groups is not None:
            self._groups.add(result)
        if self._output_files is not None:
            result = self._write_files(result, self._output_files)
        if self._replaced_in_plans is not None and result.plan is not None:
            result = dataclasses.replace(result, plan=result.plan.moved(*self._replaced_in_plans))
        is_good = result.ok and not (result.plan is not None and result.plan.failed)
        if not is_good:
            self._failed.append(result.host)
        self._succeeded += is_good
        reporter.on_result(result)

    def _is_worth_another_try(self, result: HostResult) -> bool:
        return (
            self._round < self._retries
            and not self._stop_reason
            and result.sent is False
            and isinstance(result.error, SshServiceError)
            and result.error.retryable
        )

    def _write_files(self, result: HostResult, output_files: OutputFiles) -> HostResult:
        try:
            process = result.process
            for stream in ("stdout", "stderr"):
                data = getattr(process, f"{stream}_bytes") if process else b""
                if result.sent:
                    output_files.write(result.host, stream, data)
            if not result.ok:
                output_files.write(result.host, "error", f"{summary_line(result)}\n".encode())
            output_files.close(result.host)
        except SshServiceError as error:
            if result.ok:
                return failed(result.host, error, result.seconds)
        return result

    def _print_summary(self, reporter: Reporter) -> None:
        if self._as_json and not self._verbose:
            return
        several = len(self._hosts) > 1
        copied = self._copied is not None and (self._copied.has_any() or not self._failed)
        if copied and (several or self._is_interactive):
            reporter.note(f"copied {self._copied}")
        if several:
            reporter.note(self._summary())

    def _summary(self) -> str:
        text = f"{self._succeeded} of {len(self._hosts)} hosts succeeded"
        failed = set(self._failed)
        if failed:
            patterns = fold(host for host in self._hosts if host in failed)
            named = patterns[:_MAX_NAMED]
            more = len(failed) - sum(len(expand(pattern)) for pattern in named)
            names = ", ".join(named) + (f" and {more} more" if more > 0 else "")
            text += f", {len(failed)} failed: {names}"
        return text

    def _describe_remaining(self) -> str:
        """Return how many hosts are busy; a signal handler calls this, so it takes no lock."""
        left = self._count_begun() - self._succeeded - len(self._failed)
        return f"; commands or copies may still run on {left} of them" if left > 0 else ""


def _is_closed(stream: Any) -> bool:
    """Return whether the reading end of a pipe is closed."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (OSError, ValueError, AttributeError):
        return False
