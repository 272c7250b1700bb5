"""Runs a peer's own tests plainly and with `ssh_service.paramiko`, and compares test by test."""

from __future__ import annotations

import fnmatch
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, Iterator, List, Mapping, NamedTuple, Sequence, Tuple

from tests.peers.differences import EXPECTED
from tests.peers.server import Server
from tests.peers.suites import SUITES, Suite

__all__ = ["OURS", "PLAIN", "compare"]

PLAIN: Tuple[str, ...] = ("-m",)
OURS: Tuple[str, ...] = ("-m", "ssh_service.paramiko", "-m")
"""What comes between Python and the module that it runs."""

_PLUGIN = Path(__file__).with_name("plugin")
_ROOT = Path(__file__).parents[2]
_TIMEOUT = 1200.0
"""Seconds for a run of all of a peer's tests."""

_TEST_TIMEOUT = 120
"""Seconds for one test."""

_UNKNOWN = ("did not run", "")


class Run(NamedTuple):
    """
    The outcome of one run.

    Attributes
    ----------
    outcomes : Dict[str, Tuple[str, str]]
        By test: its outcome, and the end of its text if it did not pass.
    logins : int
        Logins to our server.
    stats : List[str]
        What `ssh_service.paramiko` says of the clients, by run of pytest; empty where it had no
        part in it.
    """

    outcomes: Dict[str, Tuple[str, str]]
    seconds: float
    logins: int
    stats: List[str]


def compare(name: str, source: Path, server: Server, folder: Path) -> List[str]:
    """
    Run a peer's own tests both ways, and print what came of it.

    Parameters
    ----------
    name : str
        The peer: one of `SUITES`.
    source : Path
        The folder with its source release, which is copied.
    server : Server
        Where those log in that need a server.
    folder : Path
        An empty folder for the copy.

    Returns
    -------
    List[str]
        What is wrong; empty if all is as it shall be.
    """
    suite = SUITES[name]
    copy = folder / "source"
    shutil.copytree(source, copy)
    for file, texts in suite.edits(server).items():
        _edit(copy / file, texts)
    plain = _run(suite, PLAIN, copy, server, folder)
    ours = _run(suite, OURS, copy, server, folder)
    _print_run(name, "plain", plain)
    _print_run(name, "with ours", ours)
    wrong = []
    if len(ours.stats) != len(suite.runs):
        wrong.append(f"{name}: with ours: ssh_service.paramiko was not there at the end")
    if ours.logins > suite.logins:
        wrong.append(f"{name}: with ours: {ours.logins} logins, expected at most {suite.logins}")
    if not any(outcome == "passed" for outcome, _ in plain.outcomes.values()):
        wrong.append(f"{name}: no test passed, even plainly")
    expected = dict(EXPECTED.get(name, {}))
    for test in _differing(plain, ours):
        pattern = next((key for key in expected if fnmatch.fnmatchcase(test, key)), None)
        if pattern is not None:
            print(f"  {test}: {_both(test, plain, ours)}, as expected: {expected[pattern].reason}")
            continue
        print(f"  {test}: {_both(test, plain, ours)}; ONCE MORE")
        one = _only(suite, test)
        again_plain = _run(one, PLAIN, copy, server, folder)
        again_ours = _run(one, OURS, copy, server, folder)
        if test in _differing(again_plain, again_ours):
            both = _both(test, again_plain, again_ours)
            wrong.append(f"{name}: {test}: {both}\n{_text(test, again_plain, again_ours)}")
    for pattern, difference in expected.items():
        if difference.always and not any(
            fnmatch.fnmatchcase(test, pattern) for test in _differing(plain, ours)
        ):
            wrong.append(f"{name}: {pattern}: listed in differences.py, but does not differ")
    return wrong


def _edit(file: Path, texts: Mapping[str, str]) -> None:
    text = file.read_text("utf-8")
    for old, new in texts.items():
        if old not in text:
            raise LookupError(f"{file}: no {old!r} to replace; this release needs another edit")
        text = text.replace(old, new)
    file.write_text(text, "utf-8")


def _only(suite: Suite, test: str) -> Suite:
    """Return the suite with one test alone."""
    file = test.split("::")[0]
    run = next(run for run in suite.runs if any(file.startswith(word) for word in run))
    options = [word for word in run if not word.startswith(("test", "integration"))]
    return suite._replace(runs=((*options, test),))


def _run(suite: Suite, how: Sequence[str], copy: Path, server: Server, folder: Path) -> Run:
    written = folder / "outcomes"
    written.write_text("")
    options = ["-q", "-p", "peer_outcomes", "-p", "no:ssh_service", "-p", "no:cacheprovider"]
    if importlib.util.find_spec("pytest_timeout"):
        options.append(f"--timeout={_TEST_TIMEOUT}")
    environment = {
        **server.environment(),
        **suite.environment(server),
        "PEER_OUTCOMES": str(written),
        # The peer's folder comes before, and so does its package `tests`.
        "PYTHONPATH": os.pathsep.join([str(_PLUGIN), str(_ROOT)]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    server.mark()
    began = time.monotonic()
    for run in suite.runs:
        command = [sys.executable, *how, "pytest", *options, *run]
        with open(folder / "log", "ab") as log:
            try:
                subprocess.run(
                    command,
                    cwd=copy,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    timeout=_TIMEOUT,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                print(f"  did not end within {_TIMEOUT:g} s: {' '.join(command)}")
    outcomes: Dict[str, Tuple[str, str]] = {}
    stats = []
    for line in written.read_text("utf-8").splitlines():
        values = json.loads(line)
        if "stats" in values:
            stats.append(values["stats"])
        elif outcomes.get(values["test"], ("passed", ""))[0] == "passed":
            outcomes[values["test"]] = values["outcome"], values["text"]
    if not outcomes:
        print((folder / "log").read_text("utf-8", "replace")[-4000:])
    return Run(outcomes, time.monotonic() - began, server.logins(), stats)


def _print_run(name: str, how: str, run: Run) -> None:
    counts: Dict[str, int] = {}
    for outcome, _ in run.outcomes.values():
        counts[outcome] = counts.get(outcome, 0) + 1
    words = ", ".join(f"{counts[outcome]} {outcome}" for outcome in sorted(counts))
    print(f"{name}, {how}: {words} in {run.seconds:.0f} s, {run.logins} logins")
    for stats in run.stats:
        print(f"  {stats}")


def _differing(plain: Run, ours: Run) -> Iterator[str]:
    for test in sorted({*plain.outcomes, *ours.outcomes}):
        if plain.outcomes.get(test, _UNKNOWN)[0] != ours.outcomes.get(test, _UNKNOWN)[0]:
            yield test


def _both(test: str, plain: Run, ours: Run) -> str:
    there, here = (run.outcomes.get(test, _UNKNOWN)[0] for run in (plain, ours))
    return f"plain {there}, with ours {here}"


def _text(test: str, plain: Run, ours: Run) -> str:
    return ours.outcomes.get(test, _UNKNOWN)[1] or plain.outcomes.get(test, _UNKNOWN)[1]
