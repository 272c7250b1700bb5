"""
The documentation's figures and pictures, from what a run has written.

``python -m benchmarks.pictures [benchmarks.json]`` copies the figures to ``docs/benchmarks.json``
and draws ``docs/pictures/*.png``; it needs matplotlib.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, List, Mapping

from benchmarks import hosts_1000
from benchmarks.measure import OURS

__all__ = ["group_of", "publish", "title_of"]

DOCS = Path(__file__).resolve().parents[1] / "docs"

Rows = List[Mapping[str, Any]]

_GROUPS = ("commands", "copies", "forwards", "costs")
_SCALES = {"ms": 1000.0}
_FORWARDED = ", forwarded"
_COLUMNS = 3
# 1,210 pixels wide.
_DPI = 110
_OURS, _THEIRS = "#2a7d46", "#9aa4af"


def group_of(measurement: str) -> str:
    """Return the group that a measurement is shown in, by its name; not all are shown."""
    if measurement.endswith(_FORWARDED):
        return "forwards"
    if " again, " in measurement:
        return "again"
    if " clients" in measurement:
        return "clients"
    if "hosts in one process" in measurement:
        return "hosts"
    if measurement.endswith((" up", " down")) or "of output" in measurement:
        return "copies"
    return "costs" if measurement.startswith(("CPU", "memory")) else "commands"


def title_of(measurement: Mapping[str, Any]) -> str:
    """Return what a measurement is called where its group is clear."""
    name = str(measurement["name"])
    if name.endswith(_FORWARDED):
        name = name[: -len(_FORWARDED)]
    return f"{name}, {measurement['unit']}"


def publish(path: str, docs: Path = DOCS) -> None:
    """
    Make the documentation's figures and pictures those of a run.

    Parameters
    ----------
    path : str
        What the run has written.
    docs : Path
        The documentation's folder.
    """
    figures = json.loads(Path(path).read_text("utf-8"))
    target = docs / "benchmarks.json"
    for measurement in figures["measurements"]:  # the pages need the medians alone
        for peer in measurement["peers"].values():
            peer.pop("values", None)
    target.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    (docs / "pictures").mkdir(exist_ok=True)
    for group in _GROUPS:
        rows = [each for each in figures["measurements"] if group_of(each["name"]) == group]
        if rows:
            _draw(rows, docs / "pictures" / f"{group}.png")
            print(f"drawn: {group}.png")
    if "hosts" in figures:
        hosts_1000.plot(figures["hosts"]["rows"], str(docs / "pictures" / "hosts_1000.png"))
        print("drawn: hosts_1000.png")


def _draw(rows: Rows, path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams["font.size"] = 9
    from matplotlib import pyplot

    lines = -(-len(rows) // _COLUMNS)
    figure, axes = pyplot.subplots(
        lines, _COLUMNS, figsize=(11, 2.6 * lines), squeeze=False, layout="constrained"
    )
    for number, cell in enumerate(axes.flat):
        if number < len(rows):
            _bars(cell, rows[number])
        else:
            cell.set_visible(False)
    # The same figures give the same file.
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})
    pyplot.close(figure)


def _bars(axes: Any, measurement: Mapping[str, Any]) -> None:
    scale = _SCALES.get(measurement["unit"], 1.0)
    found = {
        peer: values["median"] * scale
        for peer, values in measurement["peers"].items()
        if values["median"] is not None
    }
    best_last = sorted(
        found, key=lambda peer: found[peer], reverse=not measurement["more_is_better"]
    )
    colours = [_OURS if peer == OURS else _THEIRS for peer in best_last]
    bars = axes.barh(best_last, [found[peer] for peer in best_last], color=colours)
    axes.bar_label(bars, [_short(found[peer]) for peer in best_last], padding=3)
    axes.margins(x=0.18)
    axes.set_title(title_of(measurement), fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    publish(sys.argv[1] if len(sys.argv) > 1 else "benchmarks.json")
