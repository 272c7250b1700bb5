"""
A thousand hosts: what one process, a pool of processes and a dask cluster make of them.

The hosts are addresses of 127.0.0.0/8, all on one sshd of this script's own; so each is a
connection, a login and a command of its own, and no network is in between.  Every way of doing it
runs in a process of its own, whose time, CPU (with that of its workers) and peak memory (all of
its processes together) are measured; the server's are not.

    python benchmarks/hosts_1000.py --plot docs/pictures/hosts_1000.png

Needs OpenSSH's sshd and the extra dask; matplotlib for the plot.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

WAYS = ("one process", "process pool", "dask")
WORKERS = 2
PARALLEL = 64


def addresses(count: int) -> Iterator[str]:
    """Yield logical hosts."""
    for number in range(count):
        yield f"127.1.{number // 250}.{number % 250 + 1}"


# --- one way, in a process of its own -----------------------------------------------------------


def executor_for(way: str, stack: ExitStack) -> Optional[Executor]:
    """Make the executor of a way, with its workers up."""
    if way == "one process":
        return None
    if way == "process pool":
        spawn = multiprocessing.get_context("spawn")
        pool = stack.enter_context(ProcessPoolExecutor(WORKERS, spawn))
        for future in [pool.submit(_warm, 0.5) for _ in range(WORKERS)]:
            future.result()
        return pool
    import distributed

    cluster = stack.enter_context(
        distributed.LocalCluster(
            n_workers=WORKERS,
            threads_per_worker=PARALLEL // WORKERS,
            processes=True,
            dashboard_address=None,
            host="127.0.0.1",
        )
    )
    client = stack.enter_context(cluster.get_client())
    client.run(_warm, 0.0)
    return stack.enter_context(client.get_executor())


def _warm(seconds: float) -> None:
    import ssh_service.fleet  # noqa: F401

    time.sleep(seconds)  # so that each worker gets one


def measure(way: str, count: int, connect: Dict[str, Any], script: str) -> Dict[str, Any]:
    """Run it, in this process and its workers."""
    from ssh_service import fleet

    with ExitStack() as stack:
        executor = executor_for(way, stack)
        watch = Watch()
        began = time.perf_counter()
        with watch:
            first: Optional[float] = None
            good = 0
            with fleet.run(
                addresses(count), script, connect=connect, parallel=PARALLEL, executor=executor
            ) as results:
                for result in results:
                    first = first or time.perf_counter() - began
                    good += result.ok
                    if not result.ok:
                        print(result.host, result.status, result.error, file=sys.stderr)
        seconds = time.perf_counter() - began
    return {
        "way": way,
        "hosts": count,
        "succeeded": good,
        "seconds": round(seconds, 2),
        "first_s": round(first or 0, 3),
        "cpu_s": round(watch.cpu, 2),
        "memory_mb": round(watch.memory, 1),
        "processes": watch.processes,
        "threads": watch.threads,
    }


class Watch:
    """Looks at this process and those below it, ten times a second."""

    def __enter__(self) -> "Watch":
        self.memory, self.processes, self.threads = 0.0, 0, 0
        self._over = threading.Event()
        self._before = self._tree_cpu()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._thread.join()
        self.cpu = self._tree_cpu() - self._before

    def _run(self) -> None:
        while not self._over.wait(0.1):
            memory = threads = 0.0
            tree = self._tree()
            for pid in tree:
                try:
                    status = Path(f"/proc/{pid}/status").read_text()
                except OSError:
                    continue
                facts = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
                memory += int(facts.get("VmRSS", "0 kB").split()[0]) / 1024
                threads += int(facts.get("Threads", "0"))
            self.memory = max(self.memory, memory)
            self.threads = max(self.threads, int(threads))
            self.processes = max(self.processes, len(tree))

    @staticmethod
    def _tree() -> List[int]:
        parents: Dict[int, int] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                head, rest = stat.read_text().rsplit(") ", 1)
            except OSError:
                continue
            parents[int(head.split(" ", 1)[0])] = int(rest.split()[1])
        found = [os.getpid()]
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found

    def _tree_cpu(self) -> float:
        ticks = 0
        for pid in self._tree():
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
            except OSError:
                continue
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


# --- all of them --------------------------------------------------------------------------------


def compare(counts: List[int], script: str) -> List[Dict[str, Any]]:
    """Start the server, and each way in a process of its own."""
    from ssh_service.testing.local_sshd import Sshd

    options = {
        "ListenAddress": "0.0.0.0",
        "AllowUsers": "*@127.0.0.0/8",  # nobody from outside
        "MaxStartups": 2000,
        "LogLevel": "ERROR",
    }
    found = []
    with tempfile.TemporaryDirectory() as folder, Sshd(folder, options) as server:
        connect = {**server.connect_params, "host_key_alias": f"[127.0.0.1]:{server.port}"}
        del connect["host"]
        for count in counts:
            for way in WAYS:
                done = subprocess.run(
                    [sys.executable, __file__, "--way", way, "--hosts", str(count)]
                    + ["--connect", json.dumps(connect), "--script", script],
                    stdout=subprocess.PIPE,
                    env={**os.environ, "PYTHONPATH": str(ROOT)},
                    check=True,
                    timeout=600,
                )
                one = json.loads(done.stdout.splitlines()[-1])
                found.append(one)
                print("  ".join(f"{name}={value}" for name, value in one.items()), flush=True)
    return found


def plot(found: List[Dict[str, Any]], path: str) -> None:
    """Draw time, CPU and memory against the number of hosts."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(11, 3.4))
    panels = [
        ("seconds", "time, s"),
        ("cpu_s", "CPU of the clients, s"),
        ("memory_mb", "memory, MB"),
    ]
    for axis, (name, label) in zip(axes, panels):
        for way in WAYS:
            rows = [one for one in found if one["way"] == way]
            axis.plot([r["hosts"] for r in rows], [r[name] for r in rows], "o-", label=way)
        axis.set_xlabel("hosts")
        axis.set_title(label)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--hosts", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--script", default="hostname")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    parser.add_argument("--plot", metavar="FILE", help="draw them there")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--connect", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options.way, options.hosts[0], options.connect, options.script)))
        return
    found = compare(options.hosts, options.script)
    machine = {
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "load": os.getloadavg(),
    }
    if options.json:
        Path(options.json).write_text(json.dumps({"machine": machine, "figures": found}, indent=1))
    if options.plot:
        plot(found, options.plot)


if __name__ == "__main__":
    main()
