"""Report the hosts' output and results, as JSON or as lines that start with the host."""

from __future__ import annotations

import json
import re
import sys
from typing import Any, BinaryIO, Callable, Dict, List, Optional, Set, Tuple

from ssh_service.copying import Progress
from ssh_service.errors import SshSudoRefused
from ssh_service.fleet import HostResult
from ssh_service.fleet.result import TIMED_OUT, one_line
from ssh_service.locks import Lock

__all__ = [
    "JsonLines",
    "Lines",
    "Reporter",
    "escape_control_characters",
    "in_options",
    "summary_line",
]

# Longer lines are split, as a host might never end one; in bytes.
_MAX_LINE = 64 * 1024


# Characters that JSON does not escape, but that end or rewrite a line on a terminal: C1 controls,
# line and paragraph separators, and marks that change the writing direction.
_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


# What errors of Python functions name, and the options of the command line.
_OPTIONS = {
    "(stall_timeout": "(--stall-timeout",
    "delete=True": "--delete",
    "delete='even-if-empty'": "--delete-even-if-empty",
    "pass sudo_password, or args if": "give --ask-sudo-password, or --args if",
    "pass sudo_password": "give --ask-sudo-password",
    "pass pty=True": "give --pty",
    "pass a script instead of args": "leave out --args",
    "pass shell='/bin/sh'": "give --shell /bin/sh",
    "give the setting 'password'": "give --ask-password",
    "list them with ssh_service.fleet.expand": "give one host",
}


# The advice about a host key that is not known.
_NEW_HOST_KEY = re.compile(r"\. If the fingerprint is the host's own, add the key .*", re.DOTALL)


class Reporter:
    """
    Reports the hosts' output, progress and results; this base class reports nothing.

    Attributes
    ----------
    problem : Optional[OSError]
        The error because of which standard output can no longer be written; None if there is none.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.
    """

    def __init__(self) -> None:
        self.problem: Optional[OSError] = None
        self._lock = Lock()  # held while writing, so that lines are not mixed
        self._muted = False

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Remove everything drawn on the terminal."""

    def on_output(self, host: str, stream: str, piece: bytes) -> None:
        """Report a piece of a command's stdout or stderr."""

    def on_progress(self, host: str, progress: Progress) -> None:
        """Report the progress of a copy."""

    def on_result(self, result: HostResult) -> None:
        """Report the result of a host."""

    def lines(self, host: str, stream: str, lines: List[bytes]) -> None:
        """Write complete lines, without their newlines, to the stream with this name."""

    def block(self, header: str, output: bytes) -> None:
        """Write output to standard output, below a header."""

    def note(self, text: str) -> None:
        """Print a line for the user, on standard error."""
        self._write(sys.stderr, f"ssh-service: {text}\n".encode())

    def abandon(self) -> None:
        """Restore the terminal, for a signal handler: this must not block or take a lock."""

    def mute(self) -> None:
        """Suppress all further output."""
        self._muted = True

    def _write(self, stream: Any, data: bytes) -> None:
        if self._muted:
            return
        file: BinaryIO = stream.buffer
        try:
            with self._lock:
                file.write(data)
                file.flush()
        except OSError as error:
            if stream is sys.stdout:
                self.problem = self.problem or error
        except ValueError:
            pass  # the stream is closed


def in_options(text: str) -> str:
    """Replace parameter names of Python functions in an error by the options."""
    for name, option in _OPTIONS.items():
        text = text.replace(name, option)
    text, advice = _NEW_HOST_KEY.subn("", text)
    if advice:
        text += ". If the fingerprint is the host's own, --host-key accept-new records the key"
    return text


def summary_line(result: HostResult, output_is_shown: bool = False) -> str:
    """
    Describe the result of a host in one line, without the host's name.

    With `output_is_shown`, the line does not repeat what sudo has printed.
    """
    if result.ok:
        return f"succeeded in {result.seconds:.1f} s"
    if result.error is not None:
        text = in_options(one_line(result.error))
        if text.startswith(f"{result.host}: "):
            text = text[len(result.host) + 2 :]
        if output_is_shown and isinstance(result.error, SshSudoRefused) and result.error.printed:
            text = text.replace(f": {result.error.printed!r}", "")
        return f"{'TIMED OUT' if result.status == TIMED_OUT else 'FAILED'}: {text}"
    if result.signal:
        return f"FAILED: ended by signal {result.signal}"
    return f"FAILED: exit status {result.exit_status}"


class JsonLines(Reporter):
    """Writes one JSON object per host, on one line, to standard output."""

    def on_result(self, result: HostResult) -> None:
        """Write the result."""
        fields = result.as_dict()
        if fields["error"] is not None:
            fields["error"] = in_options(fields["error"])
        text = json.dumps(fields, ensure_ascii=False)
        text = _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found.group()):04x}", text)
        self._write(sys.stdout, text.encode("utf-8", "backslashreplace") + b"\n")


class Lines(Reporter):
    """
    Writes the hosts' output in lines that start with the host.

    `verbose` adds the results of hosts that succeeded; `quiet` leaves out those that failed.
    """

    def __init__(self, verbose: bool = False, quiet: bool = False) -> None:
        super().__init__()
        self._verbose, self._quiet = verbose, quiet
        self._with_output: Set[str] = set()  # hosts
        self._incomplete_lines: Dict[Tuple[str, str], bytes] = (
            {}
        )  # each key is used by one thread at a time

    def on_output(self, host: str, stream: str, piece: bytes) -> None:
        """Write the complete lines."""
        self._with_output.add(host)
        *lines, rest = (self._incomplete_lines.pop((host, stream), b"") + piece).split(b"\n")
        while len(rest) > _MAX_LINE:
            lines.append(rest[:_MAX_LINE])
            rest = rest[_MAX_LINE:]
        if rest:
            self._incomplete_lines[host, stream] = rest
        if lines:
            self.lines(host, stream, lines)

    def on_result(self, result: HostResult) -> None:
        """Write the incomplete lines and the result."""
        for stream in ("stdout", "stderr"):
            rest = self._incomplete_lines.pop((result.host, stream), b"")
            if rest:
                self.lines(result.host, stream, [rest])
        if result.plan is not None:
            plan = str(result.plan) or "nothing to do"
            self.lines(result.host, "stdout", plan.encode("utf-8", "surrogateescape").split(b"\n"))
        if self._verbose or not (result.ok or self._quiet):
            self.print_result(result)

    def lines(self, host: str, stream: str, lines: List[bytes]) -> None:
        """Write complete lines, without their newlines, to the stream with this name."""
        to = sys.stdout if stream == "stdout" else sys.stderr
        clean: Callable[[bytes], bytes] = escape_control_characters if to.isatty() else bytes
        prefix = f"{host}: ".encode()
        self._write(to, b"".join(prefix + clean(line) + b"\n" for line in lines))

    def block(self, header: str, output: bytes) -> None:
        """Write output to standard output, below a header."""
        if sys.stdout.isatty():
            lines = output.split(b"\n")
            output = b"\n".join(escape_control_characters(line) for line in lines)
        end = b"" if output.endswith(b"\n") or not output else b"\n"
        self._write(sys.stdout, header.encode() + output + end)

    def print_result(self, result: HostResult) -> None:
        """Write the result of a host."""
        self._write(sys.stderr, f"{result.host}: {self._summary_line(result)}\n".encode())

    def _summary_line(self, result: HostResult) -> str:
        return summary_line(result, result.host in self._with_output)


def escape_control_characters(line: bytes) -> bytes:
    """Escape the control characters of a line, except tabs, so that a terminal can show it."""
    text = line.rstrip(b"\r").decode("utf-8", "backslashreplace")
    return "".join(
        char if char == "\t" or char.isprintable() else ascii(char)[1:-1] for char in text
    ).encode("utf-8", "backslashreplace")
