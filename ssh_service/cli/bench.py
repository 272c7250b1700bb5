"""The command ``bench``: measure one host."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

from ssh_service import operations
from ssh_service.cli.targets import check_parallel, connect_parameters
from ssh_service.connections.cache import SshClientCache
from ssh_service.errors import SshServiceError
from ssh_service.fleet.hosts import connect_params

__all__ = ["compare_packages", "run"]

_LATENCY_SAMPLES = 30


def run(
    host: str,
    count: int,
    parallel: int,
    mebibytes: int,
    as_json: bool,
    **options: Any,
) -> int:
    """Measure a host, print the results, and return the exit status."""
    check_parallel(parallel, count, "commands")
    common = connect_parameters(options, [host])
    connect = connect_params(host, common)
    cache = SshClientCache()
    try:
        found = _measure(cache, connect, count, parallel, mebibytes)
    except SshServiceError as error:
        print(f"ssh-service: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        cache.cleanup()
    if as_json:
        print(json.dumps({"host": host, **found}))
        return 0
    print(f"connecting        {found['connect_ms']:9.1f} ms")
    print(f"a command         {found['command_ms']:9.1f} ms   (median of {_LATENCY_SAMPLES})")
    print(f"{count} commands, {parallel} at once {found['commands_per_s']:9.1f} a second")
    if mebibytes:
        print(f"upload            {found['upload_mb_s']:9.1f} MB/s")
        print(f"download          {found['download_mb_s']:9.1f} MB/s")
    return 0


def compare_packages() -> Optional[int]:
    """Compare this package with others; return the exit status, or None outside a checkout."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / "benchmarks" / "__main__.py").exists():
        return None
    command = [sys.executable, "-m", "benchmarks", "--pictures"]
    return subprocess.run(command, cwd=str(checkout)).returncode


def _seconds(function: Callable[..., Any], *arguments: Any) -> float:
    began = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - began


def _measure(
    cache: SshClientCache, connect: Dict[str, Any], count: int, parallel: int, mebibytes: int
) -> Dict[str, float]:
    def once() -> None:
        operations.submit(cache, connect, "true").result()

    def many() -> None:
        under_way: List["Future[Any]"] = []
        for _ in range(count):
            if len(under_way) == parallel:
                under_way.pop(0).result()
            under_way.append(operations.submit(cache, connect, "true"))
        for future in under_way:
            future.result()

    found = {
        "connect_ms": 1000 * _seconds(cache.get_client_connection, connect),
        "command_ms": 1000 * statistics.median(_seconds(once) for _ in range(_LATENCY_SAMPLES)),
        "commands_per_s": count / _seconds(many),
    }
    if mebibytes:
        found.update(_copies(cache, connect, mebibytes))
    return found


def _copies(cache: SshClientCache, connect: Dict[str, Any], mebibytes: int) -> Dict[str, float]:
    folder = operations.submit(cache, connect, "mktemp -d").result().stdout.strip()
    if not folder.startswith("/"):
        raise SshServiceError("mktemp -d did not print the path of a folder on the host")
    megabytes = mebibytes * 1.048576
    try:
        with tempfile.TemporaryDirectory() as here:
            there, again = f"{folder}/sample", os.path.join(here, "again")
            sample = os.path.join(here, "sample")
            with open(sample, "wb") as file:
                for _ in range(mebibytes):
                    file.write(os.urandom(1 << 20))
            return {
                "upload_mb_s": megabytes
                / _seconds(operations.upload, cache, connect, sample, there),
                "download_mb_s": megabytes
                / _seconds(operations.download, cache, connect, there, again),
            }
    finally:
        operations.submit(cache, connect, f"rm -f {folder}/sample; rmdir {folder}").result()
