"""Many hosts from more than one process of dask's, against a real server."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest

if os.environ.get("SSH_SERVICE_REQUIRE_DASK"):
    import distributed
else:
    distributed = pytest.importorskip("distributed", reason="needs the extra dask")

from ssh_service import SshAuthError, SshCommandCancelled, fleet  # noqa: E402
from ssh_service.fleet import SshWorkerLost  # noqa: E402
from ssh_service.testing.fault_proxy import FaultProxy  # noqa: E402
from ssh_service.testing.local_sshd import Sshd  # noqa: E402
from tests.common import eventually, is_running

pytestmark = pytest.mark.filterwarnings("ignore")  # dask's own

ROOT = str(Path(__file__).resolve().parents[2])


@pytest.fixture
def no_leaks() -> None:
    """Allow for the threads that dask keeps for the process; ours are watched in test_fleet."""


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("PYTHONPATH", ROOT)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=8, processes=True, dashboard_address=None, host="127.0.0.1"
    ) as cluster, cluster.get_client() as client:
        yield client


@pytest.fixture
def executor(client: Any) -> Iterator[Any]:
    with client.get_executor() as executor:
        yield executor


@pytest.fixture
def connect(sshd: Sshd) -> Dict[str, Any]:
    found = {**sshd.connect_params, "host_key_alias": f"[127.0.0.1]:{sshd.port}"}
    del found["host"]
    return found


def test_dask_streams_results_and_isolates_failures(
    executor: Any, connect: Dict[str, Any], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    hosts = [{"host": "127.0.0.1", "host_key_alias": connect["host_key_alias"]}] * 6
    slow = f"until [ -e {gate} ]; do sleep .05; done; echo done"
    script = f'if mkdir {tmp_path}/first 2>/dev/null; then {slow}; else echo "$$"; fi'
    with fleet.run(
        [*hosts, "nobody@127.0.0.1", "bad host"], script, connect=connect, executor=executor
    ) as results:
        quick = [results.take(30) for _ in range(7)]
        gate.touch()
        last = results.take(30)
    assert last.stdout == "done\n"
    assert sorted(result.status for result in quick) == ["FAILED"] * 2 + ["SUCCEEDED"] * 5
    assert any(isinstance(result.error, SshAuthError) for result in quick)


def test_cancel_ends_the_remote_commands(
    executor: Any, connect: Dict[str, Any], tmp_path: Path
) -> None:
    script = f'touch {tmp_path}/"$$"; exec sleep 60'
    hosts = ["127.0.0.1"] * 20  # more than there are threads
    with fleet.run(hosts, script, connect=connect, executor=executor) as results:
        eventually(lambda: len(list(tmp_path.iterdir())) == 16)
        results.cancel()
        taken = [results.take(20) for _ in hosts]
    assert all(isinstance(result.error, SshCommandCancelled) for result in taken)
    assert sorted(bool(result.sent) for result in taken) == [False] * 4 + [True] * 16
    pids = [path.name for path in tmp_path.iterdir()]
    eventually(lambda: not any(is_running(pid) for pid in pids))


def test_dask_retries_only_unsent_hosts_of_a_lost_worker(
    client: Any,
    executor: Any,
    connect: Dict[str, Any],
    sshd: Sshd,
    fault_proxy: Callable[[str, int], FaultProxy],
    tmp_path: Path,
) -> None:
    gate = tmp_path / "gate"
    proxy = fault_proxy(sshd.host, sshd.port)
    proxy.freeze()  # hosts behind it are still connecting when the worker is lost
    open_hosts = [f"127.0.0.1:{sshd.port}"] * 6
    frozen = {**connect, "host": "127.0.0.1", "port": proxy.port}
    # dask gives them out by turns, so each worker has some of both.
    hosts: List[Any] = [*open_hosts[:3], *[frozen] * 3, *open_hosts[3:], *[frozen] * 3]
    script = f'echo > "$(mktemp {tmp_path}/run.XXXXXX)"; until [ -e {gate} ]; do sleep .05; done'

    def begun() -> int:
        return len(list(tmp_path.glob("run.*")))

    common = {key: value for key, value in connect.items() if key != "port"}
    with fleet.run(hosts, script, connect=common, executor=executor, parallel=12) as results:
        eventually(lambda: begun() == 6)
        victim = next(iter(client.run(os.getpid).values()))
        os.kill(victim, signal.SIGKILL)
        lost = [results.take(60)]  # the first result is of unknown outcome
        proxy.thaw()
        eventually(lambda: begun() == 12)
        gate.touch()
        taken = lost + [results.take(60) for _ in hosts[1:]]
    unknown = [result for result in taken if result.sent is None]
    assert unknown and all(isinstance(result.error, SshWorkerLost) for result in unknown)
    # Those that were still connecting succeeded, wherever they were tried again.
    assert sum(result.ok for result in taken) == 12 - len(unknown)
    assert begun() == 12
