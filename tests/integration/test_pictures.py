"""The documentation's figures and pictures are made of what a run of the benchmarks wrote."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any, Dict

import pytest

from benchmarks import pictures
from benchmarks.measure import OURS

ROOT = Path(__file__).resolve().parents[2]


def _row(way: str, hosts: int, cpu_s: float, memory_mb: float, **more: Any) -> Dict[str, Any]:
    row = {"way": way, "hosts": hosts, "parallel": 64, "seconds": 9.0, "first_s": 0.5}
    return {**row, "cpu_s": cpu_s, "memory_mb": memory_mb, **more}


HOSTS = {
    "began": "2026-11-30T00:00:00Z",
    "cpus": 2,
    "load": 0.5,
    "workers": 2,
    "rows": [
        _row("one process", 500, 2.0, 60.0),
        _row("one process", 1000, 4.0, 65.0),
        _row("process pool", 1000, 8.0, 200.0),
        _row("dask", 1000, 16.0, 300.0, own_cpu_s=6.0),
    ],
    "waiting": _row("one process", 200, 1.0, 70.0, start_mb=50.0),
}


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module that makes the pages' tables."""
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    return importlib.import_module("figures")


def _page(figures: Any, name: str) -> str:
    return "\n".join(figures.TABLES[name]())


def test_a_run_becomes_figures_and_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib (the extra bench)")
    values = {"median": 0.004, "p99": None, "ours_to_theirs": 1.0, "values": [0.004] * 9}
    run = {
        "measurements": [
            {"name": name, "unit": "ms", "more_is_better": False, "peers": {OURS: dict(values)}}
            for name in ("command, near", "64 MiB up", "64 MiB up, forwarded", "CPU per command")
        ],
        "hosts": HOSTS,
    }
    (tmp_path / "run.json").write_text(json.dumps(run))
    pictures.publish(str(tmp_path / "run.json"), tmp_path)
    written = {path.name for path in (tmp_path / "pictures").iterdir()}
    groups = {"commands.png", "copies.png", "costs.png", "forwards.png"}
    assert written == {*groups, "hosts_1000.png"}
    figures = json.loads((tmp_path / "benchmarks.json").read_text())
    assert figures["measurements"][0]["peers"] == {
        OURS: {"median": 0.004, "p99": None, "ours_to_theirs": 1.0}
    }


def test_every_measurement_of_the_pages_has_ours() -> None:
    figures = json.loads((ROOT / "docs" / "benchmarks.json").read_text("utf-8"))
    assert all(OURS in each["peers"] for each in figures["measurements"])


def test_what_more_hosts_take_is_reckoned_from_the_measured_figures(
    figures: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "FIGURES", tmp_path / "run.json")
    (tmp_path / "run.json").write_text(json.dumps({"measurements": [], "hosts": HOSTS}))
    page = _page(figures, "benchmark-reckoning")
    assert "| N × 4.0 ms | 4.0 s | 40 s | 7 min |" in page
    assert "| 50 MB + 1,000 × 100 kB + N × 10.0 kB | 160 MB | 250 MB | 1.1 GB |" in page
    assert "| N × 8.0 ms / 8 | 1.0 s | 10 s | 100 s |" in page
    assert "| N × 6.0 ms | 6.0 s | 60 s | 10 min |" in page
    assert "| N × 10.0 ms / 32 | 0.3 s | 3.1 s | 31 s |" in page


def test_a_page_says_what_a_run_did_not_measure(
    figures: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "FIGURES", tmp_path / "run.json")
    (tmp_path / "run.json").write_text(json.dumps({"measurements": []}))
    for name in set(figures.TABLES) - {"benchmark-run"}:
        assert "Not measured" in _page(figures, name)
