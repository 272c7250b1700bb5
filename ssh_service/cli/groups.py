"""The output of ``--group``: what hosts have in common is shown once."""

from __future__ import annotations

from typing import Any, Callable, Dict, List

from ssh_service.cli.report import Reporter, summary_line
from ssh_service.fleet import HostResult, fold

__all__ = ["Groups", "folded"]

_RULE = "---------------"


def folded(hosts: List[str]) -> str:
    """Return hosts as text, folded to ranges."""
    return ", ".join(fold(hosts))


class Groups:
    """The results of all hosts, which are shown together at the end."""

    def __init__(self) -> None:
        self._results: List[HostResult] = []

    def add(self, result: HostResult) -> None:
        """Add the result of a host."""
        self._results.append(result)

    def show(self, reporter: Reporter) -> None:
        """Show each output once, the most frequent first, and then the failures."""
        ran = [result for result in self._results if result.process is not None]
        outputs = _hosts_by(ran, lambda result: result.process.stdout_bytes)
        for output, hosts in outputs.items():
            if output or len(outputs) > 1:
                what = "" if output else ": no output"
                header = f"{_RULE}\n{folded(hosts)} ({len(hosts)}){what}\n{_RULE}\n"
                reporter.block(header, output)
        for output, hosts in _hosts_by(ran, lambda result: result.process.stderr_bytes).items():
            if output:
                reporter.lines(folded(hosts), "stderr", output.rstrip(b"\n").split(b"\n"))
        bad = [result for result in self._results if not result.ok]
        for line, hosts in _hosts_by(bad, _summary_line).items():
            reporter.lines(folded(hosts), "stderr", [line.encode("utf-8", "backslashreplace")])


def _summary_line(result: HostResult) -> str:
    process = result.process
    return summary_line(result, bool(process and (process.stdout_bytes or process.stderr_bytes)))


def _hosts_by(results: List[HostResult], key: Callable[[Any], Any]) -> Dict[Any, List[str]]:
    """Return the hosts whose keys are equal, the largest group first."""
    found: Dict[Any, List[str]] = {}
    for result in sorted(results, key=lambda result: result.host):
        found.setdefault(key(result), []).append(result.host)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))
