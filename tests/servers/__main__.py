"""
Run the checks of `tests.servers.checks` against the servers of this machine, and print a table.

    python -m tests.servers                      all servers that are there
    python -m tests.servers dropbear asyncssh    only these
    python -m tests.servers --check resum        only the checks with this in their name
    python -m tests.servers --write FILE         the results as JSON, for docs/servers.md
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Dict, List, Tuple

from ssh_service.testing.fault_proxy import FaultProxy
from tests.servers.checks import CHECKS, Bench, Check
from tests.servers.subjects import SUBJECTS, Missing, Running, Subject, in_root

YES, NO, ABSENT, LIMIT = "yes", "no", "-", "limit"


def main() -> int:
    """Run what the arguments name; return 1 if a check failed, and 0 otherwise."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.servers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [subject.name for subject in SUBJECTS]
    parser.add_argument("server", nargs="*", help=f"of: {', '.join(names)}")
    parser.add_argument("--check", default="", help="a part of the checks' names")
    parser.add_argument("--write", help="the file for the results; -: the last line of stdout")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.server) - set(names))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are: {', '.join(names)}")
    checks = [check for check in CHECKS if arguments.check in check.name]
    if not checks:
        parser.error(f"no check has {arguments.check!r} in its name")
    results: Dict[str, Tuple[str, Dict[str, str]]] = {}
    failed = 0
    for subject in SUBJECTS:
        if arguments.server and subject.name not in arguments.server:
            continue
        began = time.monotonic()
        try:
            with tempfile.TemporaryDirectory(prefix="ssh-service-server-") as folder:
                results[subject.name] = _run(subject, checks, Path(folder))
        except Missing as error:
            print(f"{subject.name}: SKIPPED: {error}", flush=True)
            continue
        version, outcomes = results[subject.name]
        counts = {kind: list(outcomes.values()).count(kind) for kind in (YES, NO, ABSENT, LIMIT)}
        failed += counts[NO]
        print(
            f"{subject.name} ({version}): {counts[YES]} yes, {counts[NO]} no,"
            f" {counts[LIMIT]} limits of its own, {counts[ABSENT]} do not apply;"
            f" {time.monotonic() - began:.0f} s",
            flush=True,
        )
    if arguments.write == "-":
        print(json.dumps(_report(results)))
    elif arguments.write:
        text = json.dumps(_report(results), indent=1)
        Path(arguments.write).write_text(text + "\n", "utf-8")
    return 1 if failed or not results else 0


def _run(subject: Subject, checks: List[Check], folder: Path) -> Tuple[str, Dict[str, str]]:
    if subject.release is not None:
        return _run_in_root(subject, subject.release, checks)
    folder.chmod(0o755)
    (folder / "server").mkdir()
    outcomes = {}
    with subject.start(folder / "server") as running:
        for number, check in enumerate(checks):
            outcomes[check.name] = _outcome(subject, running, check, folder / f"check{number}")
    return running.version, outcomes


def _run_in_root(
    subject: Subject, release: str, checks: List[Check]
) -> Tuple[str, Dict[str, str]]:
    program = ["-m", "tests.servers", "OpenSSH", "--write", "-"]
    if len(checks) == 1:
        program += ["--check", checks[0].name]
    *said, report = in_root("python", release, *program).splitlines()
    print(*(f"in {release}: {line}" for line in said), sep="\n")
    (found,) = json.loads(report)["servers"]
    wanted = {check.name for check in checks}
    return found["version"], {n: o for n, o in found["outcomes"].items() if n in wanted}


def _outcome(subject: Subject, running: Running, check: Check, folder: Path) -> str:
    if not check.needs <= subject.offers:
        return ABSENT
    with FaultProxy(running.destination["host"], running.destination["port"]) as proxy:
        bench = Bench(running.destination, proxy, folder, running.restart)
        try:
            check.function(bench)
        except Exception as error:
            if check.name in subject.limits:
                return LIMIT
            kind = type(error).__name__
            print(f"{subject.name}: {check.name}: {kind}: {error}"[:2000], flush=True)
            traceback.print_exc(limit=-3, chain=False)
            return NO
        finally:
            bench.cache.cleanup()
    if check.name in subject.limits:
        print(f"{subject.name}: {check.name}: succeeds; listed as a limit", flush=True)
        return NO
    return YES


def _report(results: Dict[str, Tuple[str, Dict[str, str]]]) -> object:
    return {
        "checked": time.strftime("%Y-%m-%d"),
        "checks": [check.name for check in CHECKS],
        "servers": [
            {
                "name": subject.name,
                "version": results[subject.name][0],
                "outcomes": results[subject.name][1],
                "limits": subject.limits,
            }
            for subject in SUBJECTS
            if subject.name in results
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
