"""
A thousand hosts: what one process, a pool of processes and a dask cluster make of them.

The hosts are addresses of 127.0.0.0/8, all on one sshd of this script's own; so each is a
connection, a login and a command of its own, and no network is in between.  Every way of doing it
runs in a process of its own, whose time, CPU (with that of its workers) and peak memory (all of
its processes together) are measured; the server's are not.

    python benchmarks/hosts_1000.py --plot docs/pictures/hosts_1000.png

``python -m benchmarks`` does the same as a part of its run.  Needs OpenSSH's sshd; the extra dask,
or that way is passed over; matplotlib for the plot.
"""

from __future__ import annotations

import argparse
import getpass
import importlib.util
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import threading
import time
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence

ROOT = Path(__file__).resolve().parents[1]
if not __package__:
    sys.path.insert(0, str(ROOT))

from benchmarks import cpu  # noqa: E402
from benchmarks.target import ANY_LOOPBACK, serve  # noqa: E402

WAYS = ("one process", "process pool", "dask")
WORKERS = 2
PARALLEL = 64
# Hosts that wait all at once, for what each costs in memory; all must be there before one is done.
WAITING = 256
WAIT = "sleep 15"


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
    executor: Executor = stack.enter_context(client.get_executor())
    return executor


def _warm(seconds: float) -> None:
    import ssh_service.fleet  # noqa: F401

    time.sleep(seconds)  # so that each worker gets one


def measure(
    way: str, count: int, parallel: int, connect: Dict[str, Any], script: str
) -> Dict[str, Any]:
    """Run it, in this process and its workers."""
    from ssh_service import fleet

    with ExitStack() as stack:
        executor = executor_for(way, stack)
        watch = Watch()
        with watch:
            began = time.perf_counter()
            first: Optional[float] = None
            good = 0
            with fleet.run(
                addresses(count), script, connect=connect, parallel=parallel, executor=executor
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
        "parallel": parallel,
        "succeeded": good,
        "seconds": round(seconds, 2),
        "first_s": round(first or 0, 3),
        "cpu_s": round(watch.own + watch.below, 2),
        "own_cpu_s": round(watch.own, 2),  # of dask: the client and the scheduler
        "start_mb": round(watch.before, 1),
        "memory_mb": round(watch.memory, 1),
        "processes": watch.processes,
        "threads": watch.threads,
    }


class Watch:
    """Looks at this process and those below it, ten times a second; its own CPU is left out."""

    def __enter__(self) -> "Watch":
        self.processes, self.threads = 0, 0
        self.before = self.memory = self._look()
        self._over = threading.Event()
        self.below = -cpu.below()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self.own = -time.process_time()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._thread.join()
        self.own += time.process_time() - self._watching
        self.below += cpu.below()

    def _run(self) -> None:
        while not self._over.wait(0.1):
            self.memory = max(self.memory, self._look())
        self._watching = time.thread_time()

    def _look(self) -> float:
        """Count processes and threads, and give the memory of all of them in MB."""
        memory = threads = 0.0
        tree = cpu.tree()
        for pid in tree:
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            facts = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
            memory += int(facts.get("VmRSS", "0 kB").split()[0]) / 1024
            threads += int(facts.get("Threads", "0"))
        self.threads = max(self.threads, int(threads))
        self.processes = max(self.processes, len(tree))
        return memory


# --- all of them --------------------------------------------------------------------------------


def compare(counts: Sequence[int], script: str, username: str) -> Dict[str, Any]:
    """Start the server, and each way in a process of its own; give the figures."""
    rows = []
    began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    ways = [way for way in WAYS if way != "dask" or importlib.util.find_spec("distributed")]
    if "dask" not in ways:
        print("passed over: dask (distributed is not installed)")
    runs = [(way, count, PARALLEL, script) for count in counts for way in ways]
    runs.append((WAYS[0], WAITING, WAITING, WAIT))
    with serve(username, ANY_LOOPBACK) as server:
        connect = {
            **server.connect_params,
            "known_hosts": server.known_hosts,
            "host_key_alias": f"[127.0.0.1]:{server.port}",
        }
        del connect["host"]
        for way, count, parallel, script in runs:
            done = subprocess.run(
                [sys.executable, __file__, "--way", way, "--hosts", str(count)]
                + ["--parallel", str(parallel)]
                + ["--connect", json.dumps(connect), "--script", script],
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                check=True,
                timeout=600,
            )
            one = json.loads(done.stdout.splitlines()[-1])
            rows.append(one)
            print("  ".join(f"{name}={value}" for name, value in one.items()), flush=True)
    return {
        "began": began,
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
        "workers": WORKERS,
        "rows": rows[:-1],
        "waiting": rows[-1],
    }


def plot(rows: List[Dict[str, Any]], path: str) -> None:
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
            some = [one for one in rows if one["way"] == way]
            if some:
                axis.plot([r["hosts"] for r in some], [r[name] for r in some], "o-", label=way)
        axis.set_xlabel("hosts")
        axis.set_title(label)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--hosts", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--script", default="hostname")
    parser.add_argument("--user", default=getpass.getuser(), help="who logs in")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    parser.add_argument("--plot", metavar="FILE", help="draw them there")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--parallel", type=int, default=PARALLEL, help=argparse.SUPPRESS)
    parser.add_argument("--connect", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        one = (options.way, options.hosts[0], options.parallel, options.connect, options.script)
        print(json.dumps(measure(*one)))
        return
    found = compare(options.hosts, options.script, options.user)
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1))
    if options.plot:
        plot(found["rows"], options.plot)


if __name__ == "__main__":
    main()
