"""Runs programs built on peers plainly and with `ssh_service.paramiko`, and compares both."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

from tests.peers.server import Server

__all__ = ["PROGRAMS", "Program", "compare_program"]

_FOLDER = Path(__file__).with_name("programs")
_ROOT = Path(__file__).parents[2]
_TIMEOUT = 300.0
"""Seconds for a run of a program."""


class Program(NamedTuple):
    """
    A program, and what it needs.

    Attributes
    ----------
    file : str
        Its file in ``programs``.
    module : str
        The module of the peer.
    logins : int
        The most logins that a run with ours may need.
    """

    file: str
    module: str
    logins: int


PROGRAMS: Dict[str, Program] = {
    "netmiko": Program("netmiko_hosts.py", "netmiko", 1),
    "airflow": Program("airflow_hook.py", "airflow.providers.ssh.hooks.ssh", 1),
    "fsspec": Program("fsspec_files.py", "fsspec.implementations.sftp", 1),
    "testinfra": Program("testinfra_host.py", "testinfra", 1),
    # Directly, and through the gateway with and without compression.
    "jumpssh": Program("jumpssh_gateway.py", "jumpssh", 3),
    "paramiko-expect": Program("expect_shell.py", "paramiko_expect", 1),
}


class _Run(NamedTuple):
    results: Optional[Any]
    status: int
    logins: int
    text: str


# How often a program is run plainly once more: Airflow's hook may lose what comes last on stderr.
_MORE_RUNS = 3


def compare_program(name: str, server: Server) -> List[str]:
    """
    Run a program both ways, and print what came of it.

    Parameters
    ----------
    name : str
        One of `PROGRAMS`.
    server : Server
        Where it logs in.

    Returns
    -------
    List[str]
        What is wrong; empty if all is as it shall be.
    """
    program = PROGRAMS[name]
    path = str(_FOLDER / program.file)
    plain = _run([path], server)
    ours = _run(["-m", "ssh_service.paramiko", path], server)
    print(f"{name}: {plain.logins} logins, with ours {ours.logins}")
    for _ in range(_MORE_RUNS):
        if None in (plain.results, ours.results) or ours.results == plain.results:
            break
        print(f"{name}: differs; once more plainly, as its results may vary")
        plain = _run([path], server)
    wrong = []
    if plain.results is None:
        wrong.append(f"{name}: fails plainly, with status {plain.status}:\n{plain.text}")
    if ours.results is None:
        wrong.append(f"{name}: fails with ours, with status {ours.status}:\n{ours.text}")
    elif (ours.results, ours.status) != (plain.results, plain.status):
        wrong.append(
            f"{name}: differs:\n  plain {plain.status} {json.dumps(plain.results)}\n"
            f"  ours  {ours.status} {json.dumps(ours.results)}"
        )
    if ours.logins > program.logins:
        wrong.append(f"{name}: {ours.logins} logins with ours, expected at most {program.logins}")
    return wrong


def _run(arguments: List[str], server: Server) -> _Run:
    for path in Path(server.scratch).iterdir():
        subprocess.run(["rm", "-rf", str(path)], check=True)
    server.mark()
    environment = {**server.environment(), "PYTHONPATH": str(_ROOT)}
    try:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=server.scratch,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=_TIMEOUT,
            universal_newlines=True,
            check=False,
        )
    except subprocess.TimeoutExpired as expired:
        text = f"did not end within {_TIMEOUT:g} s\n{expired.stderr!r}"[-4000:]
        return _Run(None, -1, server.logins(), text)
    lines = done.stdout.splitlines()
    results = None
    if lines and lines[-1].startswith("{"):
        results = json.loads(lines[-1])
    return _Run(results, done.returncode, server.logins(), (done.stdout + done.stderr)[-4000:])
