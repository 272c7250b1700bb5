"""The output of the demonstration: titles, checks and a progress bar, with colour if wanted."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import Callable, Iterator

from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.text import Text

from ssh_service.copying import Progress as CopyProgress
from ssh_service.copying import ProgressCallback

__all__ = ["CheckFailed", "Show"]

_INDENT = 3


class CheckFailed(Exception):
    """A step did not show what it should; the text says what was expected."""


class Show:
    """
    Prints the steps: wrapped and coloured on a terminal, otherwise as plain lines.

    Notes
    -----
    Thread safety.  For one thread.
    """

    def __init__(self) -> None:
        reconfigure = getattr(sys.stdout, "reconfigure", None)
        if reconfigure is not None:  # a server's text may not be encodable for the terminal
            reconfigure(errors="backslashreplace")
        # Rich before 14 treats an empty NO_COLOR as set, against no-color.org.
        self._console = Console(highlight=False, no_color=bool(os.environ.get("NO_COLOR")))
        unicode = (self._console.encoding or "").lower().startswith("utf")
        self._good, self._bad = ("✓", "✗") if unicode else ("ok:", "FAILED:")
        self._number = 0

    def title(self, text: str) -> None:
        """Print a separate paragraph."""
        self._print(Text(f"\n{text}"), 0)

    @contextlib.contextmanager
    def step(self, title: str, why: str) -> Iterator[None]:
        """Print a step's title and purpose, then run its body, then print how long that took."""
        self._number += 1
        self._print(Text(f"\n{self._number}. {title}", "bold"), 0)
        self._print(Text(why, "dim"))
        began = time.monotonic()
        yield
        self._print(Text(f"Step {self._number} took {time.monotonic() - began:.2f} s.", "cyan"))

    def check(self, holds: bool, text: str, expected: str) -> None:
        """
        Print a result that is as expected.

        Raises
        ------
        CheckFailed
            It is not as expected.
        """
        if not holds:
            raise CheckFailed(f"{expected}; seen: {text}")
        self._print(Text.assemble((self._good, "bold green"), " ", text), hang=len(self._good) + 1)

    def note(self, text: str) -> None:
        """Print a line without a check."""
        self._print(Text(text))

    def failed(self, text: str) -> None:
        """Print why the demonstration failed."""
        self._print(Text.assemble((self._bad, "bold red"), " ", text))

    @contextlib.contextmanager
    def bar(self, title: str) -> Iterator[ProgressCallback]:
        """Draw a progress bar on a terminal, and remove it afterwards."""
        bar = Progress(
            TextColumn(f"{' ' * _INDENT}{{task.description}}"),
            BarColumn(),
            DownloadColumn(),
            TextColumn("{task.fields[files]}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        with bar:
            yield _updater(bar, title)

    def _print(self, text: Text, indent: int = _INDENT, hang: int = 0) -> None:
        if self._console.is_terminal:
            width = max(20, self._console.width - indent - hang)
            for number, line in enumerate(text.wrap(self._console, width)):
                line.rstrip()
                self._console.print(Padding(line, (0, 0, 0, indent + (hang if number else 0))))
        else:  # do not wrap
            self._console.print(Text(" " * indent) + text, soft_wrap=True)


def _updater(bar: Progress, title: str) -> Callable[[CopyProgress], None]:
    task = bar.add_task(title, total=None, files="")

    def update(now: CopyProgress) -> None:
        files = f"{now.files_done} of {now.files_total} files" if now.files_total else ""
        bar.update(task, completed=now.bytes_done, total=now.bytes_total, files=files)

    return update
