"""How fast a copy is, and how long it will take."""

from __future__ import annotations

import io
import time
from typing import Any

import pytest

pytest.importorskip("rich")

from rich.console import Console  # noqa: E402

from ssh_service.cli.live import LiveTable  # noqa: E402
from ssh_service.cli.rates import Copied, CopyRate, size_in_words  # noqa: E402
from ssh_service.copying import Progress  # noqa: E402


def test_rate_is_that_of_the_last_seconds_and_falls_without_progress() -> None:
    now = [0.0]
    rate = CopyRate(lambda: now[0])
    assert rate.rate() is None
    for second in range(20):
        now[0] = float(second)
        rate.add(100 * second if second < 10 else 1000 + 1000 * (second - 10))
    assert rate.rate() == 1000
    now[0] += 10
    assert rate.rate() == pytest.approx(1000 * 6 / 16)
    rate.add(0)  # the copy began again
    assert rate.rate() is None


def test_sum_of_all_hosts_has_files_bytes_and_rate() -> None:
    copied = Copied()
    copied.add("a", Progress(1, 10, 0, 1))
    copied.add("a", Progress(1_500_000, 1_500_000, 1, 1))
    assert str(copied).startswith("1 file, 1.5 MB in 0.0 s (")
    copied.add("b", Progress(500_000, None, 2, None))
    assert str(copied).startswith("3 files, 2.0 MB in ")


def test_table_shows_rate_and_time_left_of_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    # Not earlier than it is: the process's timer thread, which sees it too, would sleep for long.
    now = [time.monotonic()]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    table = LiveTable(["web1"], lambda: 1)
    table.on_progress("web1", Progress(0, 50_000_000, 0, 1))
    now[0] += 2
    table.on_progress("web1", Progress(10_000_000, 50_000_000, 0, 1))
    shown: Any = io.StringIO()
    console = Console(file=shown, width=110)
    console.print(table._render())
    assert "10.0 MB of 50.0 MB  5.0 MB/s  0:08 left" in shown.getvalue()


@pytest.mark.parametrize(
    "size, words",
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2e9, "2.0 GB"), (5e13, "50.0 TB")],
)
def test_size_has_a_unit(size: float, words: str) -> None:
    assert size_in_words(size) == words
