"""The hosts a command line names, and how it says to connect to them."""

from __future__ import annotations

import os
import sys
from typing import Any, Dict, List, Optional, Sequence, Tuple

import click

from ssh_service.errors import SshConfigError
from ssh_service.fleet.hosts import expand, unique
from ssh_service.user_files import expand_home

__all__ = ["check_parallel", "collect", "connect_parameters"]

# Numbers from here on are rather ports than counts (those below are a server's own, but for 22).
_LIKE_A_PORT = range(1024, 65536)


def collect(hosts: Sequence[str], files: Sequence[str], where: str = "") -> List[str]:
    """
    Write out the hosts of a command line.

    Raises
    ------
    click.UsageError
        There is none, a file cannot be read, or a pattern is wrong.
    """
    found: List[str] = []
    for pattern in hosts:
        try:
            found += expand(pattern.strip())
        except SshConfigError as error:
            raise click.UsageError(str(error)) from error
    for name in files:
        of_file = _read(name)
        if not of_file:
            raise click.UsageError(f"{_shown(name)}: no hosts in it")
        found += of_file
    if not found:
        raise click.UsageError(f"no hosts: name them with -H HOST or -f FILE{where}")
    once, dropped = unique(found)
    if dropped:
        hosts_ = "host" if dropped == 1 else "hosts"
        click.echo(f"ssh-service: {dropped} duplicate {hosts_} ignored", err=True)
    return once


def _shown(name: str) -> str:
    return "standard input" if name == "-" else name


def _read(name: str) -> List[str]:
    try:
        if name == "-":
            lines = sys.stdin.read().splitlines()
        else:
            with open(name, encoding="utf-8", errors="replace") as file:
                lines = file.read().splitlines()
    except OSError as error:
        raise click.UsageError(f"{_shown(name)}: {error.strerror or error}") from error
    found: List[str] = []
    for number, line in enumerate(lines, 1):
        pattern = line.split("#", 1)[0].strip()
        if pattern:
            try:
                found += expand(pattern)
            except SshConfigError as error:
                raise click.UsageError(f"{_shown(name)}:{number}: {error}") from error
    return found


def check_parallel(parallel: int, count: int, what: str) -> None:
    """
    Refuse a port that was given as ``-p``, which is ssh's letter for it; the work would go to 22.

    Raises
    ------
    click.UsageError
        It is more than there are, and looks like a port.
    """
    if parallel > count and parallel in _LIKE_A_PORT:
        raise click.UsageError(
            f"-p {parallel} means {parallel} {what} at once, of {count}; the port is -P {parallel}"
        )


def connect_parameters(
    host_key: Optional[str],
    keys: Tuple[str, ...],
    config: Optional[str],
    user: Optional[str],
    port: Optional[int],
) -> Dict[str, Any]:
    """
    Make connect parameters of the options.

    Raises
    ------
    click.UsageError
        There is no such file.
    """
    found: Dict[str, Any] = {}
    if host_key == "off":
        found.update(known_hosts=None, host_key_policy="off")
    elif host_key:
        found["host_key_policy"] = host_key
    for key in keys:
        if not os.path.isfile(expand_home(key)):
            raise click.UsageError(f"--key {key}: no such file")
    if keys:
        found["client_keys"] = [expand_home(key) for key in keys]
    if user is not None:
        found["username"] = user
    if port is not None:
        found["port"] = port
    if config == "none":
        found["config"] = None
    elif config:
        if not os.path.isfile(expand_home(config)):
            raise click.UsageError(f"--config {config}: no such file")
        found["config"] = [config]
    return found
