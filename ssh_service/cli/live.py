"""A table on the terminal that shows the hosts in progress."""

from __future__ import annotations

import os
import sys
import time
from typing import Any, Callable, Dict, List, Optional

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ssh_service.cli.rates import CopyRate, size_in_words
from ssh_service.cli.report import Lines, escape_control_characters
from ssh_service.copying import Progress
from ssh_service.fleet import HostResult

__all__ = ["LiveTable"]

# The maximum number of hosts in the table.
_MAX_ROWS = 12


class LiveTable(Lines):
    """Writes lines as they arrive, above a table of the hosts in progress."""

    def __init__(
        self,
        hosts: List[str],
        begun: Callable[[], int],
        verbose: bool = False,
        quiet: bool = False,
    ) -> None:
        super().__init__(verbose, quiet)
        self._hosts, self._begun = hosts, begun
        self._began = time.monotonic()
        self._done: Dict[str, bool] = {}
        self._last: Dict[str, Any] = {}  # a host's last line or progress
        self._since: Dict[str, float] = {}
        self._rates: Dict[str, CopyRate] = {}
        self._console = Console(
            stderr=True,
            highlight=False,
            soft_wrap=True,
            no_color=bool(
                os.environ.get("NO_COLOR")
            ),  # an empty value counts as unset, unlike in old versions of Rich
        )
        self._live = Live(
            console=self._console,
            get_renderable=self._render,
            refresh_per_second=8,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> "LiveTable":
        self._live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._live.stop()

    def abandon(self) -> None:
        """Show the cursor again, and end the table's last line."""
        os.write(sys.stderr.fileno(), b"\x1b[?25h\r\n")

    def on_progress(self, host: str, progress: Progress) -> None:
        """Show the progress in the table."""
        self._rates.setdefault(host, CopyRate()).add(progress.bytes_done)
        self._last[host] = progress

    def lines(self, host: str, stream: str, lines: List[bytes]) -> None:
        """Write lines above the table."""
        texts = [escape_control_characters(line).decode() for line in lines]
        if texts:
            self._last[host] = texts[-1]
        if stream == "stdout" and not sys.stdout.isatty():
            super().lines(host, stream, lines)
            return
        style = "" if stream == "stdout" else "yellow"
        self._print(*(Text.assemble((f"{host}: ", "cyan"), (text, style)) for text in texts))

    def on_result(self, result: HostResult) -> None:
        """Remove the host from the table."""
        super().on_result(result)
        self._done[result.host] = result.ok
        self._last.pop(result.host, None)
        self._rates.pop(result.host, None)

    def print_result(self, result: HostResult) -> None:
        """Write the result of a host above the table."""
        style = "green" if result.ok else "bold red"
        self._print(
            Text.assemble((f"{result.host}: ", "cyan"), (self._summary_line(result), style))
        )

    def note(self, text: str) -> None:
        """Write the text above the table."""
        self._print(Text(f"ssh-service: {text}", "bold"))

    def _print(self, *texts: Text) -> None:
        if texts:
            self._console.print(Text("\n").join(texts))

    def _render(self) -> Group:
        now = time.monotonic()
        begun = self._hosts[: self._begun()]
        open_ = [host for host in begun if host not in self._done]
        failed = sum(not good for good in self._done.values())
        head = Text.assemble(
            (f"{len(self._done)}/{len(self._hosts)} done", "bold"),
            (f"  {failed} failed" if failed else "", "bold red"),
            f"  {len(open_)} under way  {now - self._began:.0f} s",
        )
        head.no_wrap, head.overflow = False, "fold"  # a narrow terminal gets two lines
        table = Table.grid(padding=(0, 2))
        rows = max(1, min(_MAX_ROWS, self._console.height - 4))
        for host in open_[:rows]:
            seconds = now - self._since.setdefault(host, now)
            table.add_row(Text(host, "cyan"), f"{seconds:.0f} s", self._state(host))
        rest = len(open_) - rows
        if rest > 0:
            table.add_row(Text(f"and {rest} more", "dim"))
        return Group(head, table)

    def _state(self, host: str) -> Any:
        last: Optional[Any] = self._last.get(host)
        if isinstance(last, Progress):
            return _bar(last, self._rates[host].rate())
        width = max(10, self._console.width - 40)
        return Text((last or "")[:width], "dim", no_wrap=True, overflow="ellipsis")


def _bar(progress: Progress, rate: Optional[float]) -> Any:
    row = Table.grid(padding=(0, 2))
    done, total = progress.bytes_done, progress.bytes_total
    cells: List[Any] = [
        ProgressBar(total=total, completed=done, width=30),
        size_in_words(done) + ("" if total is None else f" of {size_in_words(total)}"),
    ]
    if rate:
        cells.append(f"{size_in_words(rate)}/s")
        if total is not None:
            cells.append(f"{_clock((total - done) / rate)} left")
    row.add_row(*cells)
    return row


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
