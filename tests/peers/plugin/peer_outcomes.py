"""
A pytest plugin that writes each test's outcome as soon as it is known, a line of JSON each.

It is loaded into other projects' runs (``-p peer_outcomes``), so it imports nothing of ours.  The
environment variable ``PEER_OUTCOMES`` names the file.
"""

import json
import os
import sys

_ROOM = 2000
"""Characters of a failure that are kept, from its end."""


def _write(**values):
    with open(os.environ["PEER_OUTCOMES"], "a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")


def pytest_runtest_logreport(report):
    """Write what ended: a call, or a part around it that did not pass."""
    if report.when != "call" and report.passed:
        return
    outcome = report.outcome if report.when == "call" or report.skipped else "error"
    if hasattr(report, "wasxfail"):
        outcome = "xfailed" if report.skipped else "xpassed"
    text = "" if report.passed else str(report.longrepr)[-_ROOM:]
    _write(test=report.nodeid, outcome=outcome, text=text)


def pytest_collectreport(report):
    """Write of a file that could not be collected."""
    if report.failed:
        _write(test=report.nodeid, outcome="not collected", text=str(report.longrepr)[-_ROOM:])


def pytest_sessionfinish():
    """Write how many clients shared."""
    ours = sys.modules.get("ssh_service.paramiko")
    if ours is not None:
        _write(stats=repr(ours.stats()))
