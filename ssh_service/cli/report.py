"""What is told of the hosts: as JSON, or as lines with the host before them."""

from __future__ import annotations

import json
import re
import sys
import threading
from typing import Any, BinaryIO, Callable, Dict, List, Optional, Tuple

from ssh_service.copying import Progress
from ssh_service.fleet import HostResult
from ssh_service.fleet.result import TIMED_OUT, one_line

__all__ = ["JsonLines", "Lines", "Reporter", "verdict", "visible"]

# Bytes of a line after which it is broken, as a host may never end it.
_LONGEST_LINE = 64 * 1024


# What JSON lets stand in strings as it is, and which ends or rewrites a line for who reads it: C1
# controls, the separators of lines and paragraphs, the marks that change the direction of writing.
_INVISIBLE = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


class Reporter:
    """
    Tells of the hosts.

    Attributes
    ----------
    problem : Optional[OSError]
        Why standard output cannot be written any more.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.
    """

    def __init__(self) -> None:
        self.problem: Optional[OSError] = None
        self._lock = threading.Lock()  # held while writing, so that lines stay whole
        self._muted = False

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Take down what was put up."""

    def output(self, host: str, stream: str, piece: bytes) -> None:
        """Tell what a command wrote."""

    def progress(self, host: str, progress: Progress) -> None:
        """Tell how far a copy is."""

    def done(self, result: HostResult) -> None:
        """Tell what became of a host."""

    def note(self, text: str) -> None:
        """Tell people something, on standard error."""
        self._write(sys.stderr, f"ssh-service: {text}\n".encode())

    def abandon(self) -> None:
        """Restore the terminal from a signal handler: without locks, waiting for nothing."""

    def mute(self) -> None:
        """Write nothing from now on."""
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
            pass  # closed already; there is nobody to tell


def verdict(result: HostResult) -> str:
    """Say what became of a host, in one line."""
    if result.ok:
        return f"succeeded in {result.seconds:.1f} s"
    if result.error is not None:
        text = one_line(result.error)
        if text.startswith(f"{result.host}: "):
            text = text[len(result.host) + 2 :]
        return f"{'TIMED OUT' if result.status == TIMED_OUT else 'FAILED'}: {text}"
    if result.signal:
        return f"FAILED: ended by signal {result.signal}"
    return f"FAILED: exit status {result.exit_status}"


class JsonLines(Reporter):
    """One JSON object and line for each host, on standard output."""

    def done(self, result: HostResult) -> None:
        """Write it."""
        text = json.dumps(result.as_dict(), ensure_ascii=False)
        text = _INVISIBLE.sub(lambda found: f"\\u{ord(found.group()):04x}", text)
        self._write(sys.stdout, text.encode("utf-8", "backslashreplace") + b"\n")


class Lines(Reporter):
    """What the hosts write, line by line, with the host before each."""

    def __init__(self, verbose: bool = False) -> None:
        super().__init__()
        self._verbose = verbose
        self._rests: Dict[Tuple[str, str], bytes] = {}  # of one host: one thread at a time

    def output(self, host: str, stream: str, piece: bytes) -> None:
        """Write the lines that are complete."""
        *lines, rest = (self._rests.pop((host, stream), b"") + piece).split(b"\n")
        while len(rest) > _LONGEST_LINE:
            lines.append(rest[:_LONGEST_LINE])
            rest = rest[_LONGEST_LINE:]
        if rest:
            self._rests[host, stream] = rest
        if lines:
            self.lines(host, stream, lines)

    def done(self, result: HostResult) -> None:
        """Write what is left, and what became of it."""
        for stream in ("stdout", "stderr"):
            rest = self._rests.pop((result.host, stream), b"")
            if rest:
                self.lines(result.host, stream, [rest])
        if self._verbose or not result.ok:
            self.tell(result)

    def lines(self, host: str, stream: str, lines: List[bytes]) -> None:
        """Write lines."""
        to = sys.stdout if stream == "stdout" else sys.stderr
        clean: Callable[[bytes], bytes] = visible if to.isatty() else bytes
        prefix = f"{host}: ".encode()
        self._write(to, b"".join(prefix + clean(line) + b"\n" for line in lines))

    def tell(self, result: HostResult) -> None:
        """Write what became of a host."""
        self._write(sys.stderr, f"{result.host}: {verdict(result)}\n".encode())


def visible(line: bytes) -> bytes:
    """Make a line harmless for a terminal."""
    text = line.rstrip(b"\r").decode("utf-8", "backslashreplace")
    return "".join(
        char if char == "\t" or char.isprintable() else ascii(char)[1:-1] for char in text
    ).encode("utf-8", "backslashreplace")
