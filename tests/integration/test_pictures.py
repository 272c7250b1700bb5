"""The documentation's figures and pictures are made of what a run of the benchmarks wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import pictures
from benchmarks.measure import OURS

ROOT = Path(__file__).resolve().parents[2]


def test_a_run_becomes_figures_and_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib (the extra bench)")
    values = {"median": 0.004, "p99": None, "ours_to_theirs": 1.0, "values": [0.004] * 9}
    run = {
        "measurements": [
            {"name": name, "unit": "ms", "more_is_better": False, "peers": {OURS: dict(values)}}
            for name in ("command, near", "64 MiB up", "CPU per command")
        ]
    }
    (tmp_path / "run.json").write_text(json.dumps(run))
    pictures.publish(str(tmp_path / "run.json"), tmp_path)
    written = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert written == {"commands.png", "copies.png", "costs.png"}
    figures = json.loads((tmp_path / "benchmarks.json").read_text())
    assert figures["measurements"][0]["peers"] == {
        OURS: {"median": 0.004, "p99": None, "ours_to_theirs": 1.0}
    }


def test_every_measurement_of_the_pages_has_ours() -> None:
    figures = json.loads((ROOT / "docs" / "benchmarks.json").read_text("utf-8"))
    assert all(OURS in each["peers"] for each in figures["measurements"])
