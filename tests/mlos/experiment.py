"""A small experiment over SSH, run by the real command, and what it stored."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import ssh_service
from ssh_service.testing.pytest_plugin import Sshd

from .conftest import settings_for

VERSION: Tuple[int, ...] = tuple(
    int(part) for part in metadata.version("mlos_bench").split(".")[:3] if part.isdigit()
)
HAS_GRID = VERSION >= (0, 6)
UPSTREAM = "mlos_bench.services.remote.ssh"
OURS = "ssh_service"
PATIENCE = 60.0
"""Seconds that a run may take."""


class Trial(NamedTuple):
    """A trial as it is in the storage."""

    status: str
    ended: bool
    level: int
    results: Dict[str, str]


class Experiment:
    """
    An experiment in a git checkout of its own.

    Each trial uploads a script, runs it with the tunable ``level`` in its environment, and fetches
    the results.  Before the upload (phase ``setup``) and before the script (phase ``run``) it
    passes a gate, which is open unless `close` was called.

    Parameters
    ----------
    folder : Path
        Where everything goes.
    sshd : Sshd
        The host.
    services : Sequence[str]
        The class names of the host service and of the file share service.
    optimizer : str
        ``one-shot`` or ``several``, which is four trials: by a grid, where there is one.
    **settings : Any
        Settings of the services beside those that it takes to log in.
    """

    def __init__(
        self,
        folder: Path,
        sshd: Sshd,
        services: Tuple[str, str] = (f"{OURS}.SshHostService", f"{OURS}.SshFileShareService"),
        optimizer: str = "one-shot",
        **settings: Any,
    ) -> None:
        self.folder = folder / "checkout"
        self.control = folder / "control"
        self.remote = folder / "remote"
        for path in (self.folder, self.control, self.remote):
            path.mkdir()
        self._process: Optional["subprocess.Popen[str]"] = None
        self._output = ""
        config = {**settings_for(sshd), **settings}
        self.write("services.json", {"services": [_class(n, config) for n in services]})
        self.write("environment.json", self._environment())
        self.write("tunables.json", _TUNABLES)
        self.write("optimizer.json", _optimizer(optimizer))
        self.write(
            "storage.json",
            _class(
                "mlos_bench.storage.sql.storage.SqlStorage",
                {"drivername": "sqlite", "database": str(folder / "stored.sqlite")},
            ),
        )
        self.write(
            "globals.json",
            {"experiment_id": "Test", "ssh_hostname": sshd.host, "remote": str(self.remote)},
        )
        self.write(
            "cli.json",
            {
                "services": ["services.json"],
                "environment": "environment.json",
                "optimizer": "optimizer.json",
                "storage": "storage.json",
                "globals": ["globals.json"],
            },
        )
        (self.folder / "work.sh").write_text(_WORK)
        (self.control / "gate.sh").write_text(_GATE)
        make_checkout(self.folder)
        self._storage = folder / "stored.sqlite"

    def write(self, name: str, config: Any) -> None:
        """Write one of the config files."""
        (self.folder / name).write_text(json.dumps(config, indent=4))

    def read(self, name: str) -> Any:
        """Read one of them."""
        return json.loads((self.folder / name).read_text())

    def _environment(self) -> Any:
        gate = f"sh {self.control}/gate.sh"
        required = ["ssh_hostname", "remote", "trial_id"]
        children = [
            {
                "class": "mlos_bench.environments.remote.remote_env.RemoteEnv",
                "name": "work",
                "config": {
                    "tunable_params": ["tunables"],
                    "const_args": {"greeting": "it's $HOME"},
                    "required_args": required,
                    "shell_env_params": ["level", "greeting", "remote", "trial_id"],
                    "run": ["echo begun", f"{gate} run", 'sh "$remote/work.sh"'],
                    "teardown": ['rm -f "$remote"/*.csv', 'touch "$remote/torn-down"'],
                },
            },
            {
                "class": "mlos_bench.environments.local.local_fileshare_env.LocalFileShareEnv",
                "name": "files",
                "config": {
                    "required_args": required,
                    "shell_env_params": ["trial_id"],
                    "setup": [f"{gate} setup"],
                    "upload": [{"from": "work.sh", "to": "$remote/work.sh"}],
                    "download": [{"from": "$remote/results.csv", "to": "$PWD/results.csv"}],
                    "read_results_file": "results.csv",
                },
            },
        ]
        return {
            "class": "mlos_bench.environments.composite_env.CompositeEnv",
            "name": "experiment",
            "include_tunables": ["tunables.json"],
            "config": {"children": children},
        }

    # -- running it -----------------------------------------------------------------------------

    def start(self, *arguments: str) -> None:
        """Start the command."""
        self._process = start_command(self.folder, "--config", "cli.json", *arguments)

    def wait(self) -> Tuple[int, str]:
        """Wait for the command's end; return its exit status and what it wrote."""
        assert self._process is not None
        try:
            self._output, _ = self._process.communicate(timeout=PATIENCE)
        finally:
            self.kill()
        return self._process.returncode, self._output

    def run(self, *arguments: str) -> Tuple[int, str]:
        """Run the command to its end."""
        self.start(*arguments)
        return self.wait()

    def kill(self) -> None:
        """End the command if it still runs; a test that fails leaves nothing behind."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    # -- gates ----------------------------------------------------------------------------------

    def close(self, phase: str, trial: int) -> None:
        """Have a trial wait at a gate."""
        (self.control / f"{phase}-{trial}.closed").touch()

    def open(self, phase: str, trial: int) -> None:
        """Let it pass."""
        (self.control / f"{phase}-{trial}.closed").unlink()

    def wait_at(self, phase: str, trial: int) -> None:
        """Wait until a trial has come to a gate."""
        here = self.control / f"{phase}-{trial}.here"
        deadline = time.monotonic() + PATIENCE
        while not here.exists():
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > deadline:
                _, output = self.wait()
                raise AssertionError(f"trial {trial} never came to its {phase}:\n{output}")
            time.sleep(0.02)

    # -- what it stored -------------------------------------------------------------------------

    def trials(self) -> List[Trial]:
        """Read the trials from the storage, in order; there is one at least."""
        found = stored_trials(self._storage)
        assert found, self._output
        return found


def stored_trials(database: Path) -> List[Trial]:
    """Read the trials from a storage, in order."""
    with closing(sqlite3.connect(str(database))) as storage:
        rows = storage.execute(
            "SELECT trial_id, status, ts_end, config_id FROM trial ORDER BY trial_id"
        ).fetchall()
        found = []
        for trial_id, status, ts_end, config_id in rows:
            ((level,),) = storage.execute(
                "SELECT param_value FROM config_param WHERE config_id = ?", (config_id,)
            ).fetchall()
            results = storage.execute(
                "SELECT metric_id, metric_value FROM trial_result WHERE trial_id = ?", (trial_id,)
            )
            found.append(Trial(status, ts_end is not None, int(level), dict(results.fetchall())))
    return found


def make_checkout(folder: Path) -> None:
    """Make a folder what mlos_bench wants around its root config: a checkout with an origin."""
    name = ("-c", "user.name=nobody", "-c", "user.email=nobody")
    for arguments in (
        ("init", "--quiet"),
        ("add", "--all"),
        (*name, "commit", "--quiet", "--no-gpg-sign", "--message", "configs"),
        ("remote", "add", "origin", str(folder)),
    ):
        subprocess.run(["git", *arguments], cwd=str(folder), check=True, timeout=PATIENCE)


def start_command(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Start ``python -m ssh_service.mlos_bench`` in a folder; stderr goes where stdout goes."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(ssh_service.__file__)))
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, "-m", "ssh_service.mlos_bench", *arguments],
        cwd=str(folder),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
    )


def run_command(folder: Path, *arguments: str) -> Tuple[int, str]:
    """Run ``python -m ssh_service.mlos_bench`` in a folder to its end."""
    process = start_command(folder, *arguments)
    try:
        output, _ = process.communicate(timeout=PATIENCE)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    return process.returncode, output


def _class(name: str, config: Dict[str, Any]) -> Dict[str, Any]:
    return {"class": name, "config": config}


def _optimizer(kind: str) -> Dict[str, Any]:
    targets: Dict[str, Any] = {"optimization_targets": {"score": "min"}}
    limit = "max_suggestions"
    if VERSION < (0, 6):
        targets, limit = {"optimization_target": "score"}, "max_iterations"
    if kind == "one-shot":
        return _class("mlos_bench.optimizers.one_shot_optimizer.OneShotOptimizer", targets)
    name = (
        "grid_search_optimizer.GridSearchOptimizer" if HAS_GRID else "mock_optimizer.MockOptimizer"
    )
    return _class(f"mlos_bench.optimizers.{name}", {**targets, limit: 4})


_TUNABLES = {
    "tunables": {
        "cost": 1,
        "params": {"level": {"type": "int", "range": [1, 4], "default": 2}},
    }
}
_GATE = """\
cd "$(dirname "$0")"
touch "$1-$trial_id.here"
turns=0
while [ -e "$1-$trial_id.closed" ] && [ $turns -lt 1500 ]; do
    sleep 0.02
    turns=$((turns + 1))
done
"""
_WORK = """\
{
    echo metric,value
    echo "score,$((level * 10))"
    echo "greeting,$greeting"
    echo "trial,$trial_id"
} >"$remote/results.csv"
"""
