"""The hosts a command line names, and how it says to connect to them."""

from __future__ import annotations

import os
import sys
from typing import Any, Dict, List, Optional, Sequence, Tuple

import click

from ssh_service.errors import SshConfigError
from ssh_service.fleet.hosts import expand, unique
from ssh_service.user_files import expand_home

__all__ = ["collect", "connect_parameters"]


def collect(hosts: Sequence[str], files: Sequence[str]) -> List[str]:
    """
    Write out the hosts of a command line.

    Parameters
    ----------
    hosts : Sequence[str]
        Patterns.
    files : Sequence[str]
        Files with a pattern on each line; ``-``: standard input.

    Returns
    -------
    List[str]
        Each host once, in order.

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
            raise click.UsageError(f"{_shown(name)}: there are no hosts in it")
        found += of_file
    if not found:
        raise click.UsageError("no hosts: name them with -H HOST or -f FILE")
    once, dropped = unique(found)
    if dropped:
        times = "once" if dropped == 1 else f"{dropped} times"
        click.echo(f"ssh-service: a host was named again {times}: it counts once", err=True)
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


def connect_parameters(
    host_key: Optional[str], keys: Tuple[str, ...], config: Optional[str]
) -> Dict[str, Any]:
    """
    Make connect parameters of the options.

    Parameters
    ----------
    host_key : Optional[str]
        The policy.
    keys : Tuple[str, ...]
        Private key files.
    config : Optional[str]
        An ssh_config file, or ``none``.

    Returns
    -------
    Dict[str, Any]
        For every host.

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
    if config == "none":
        found["config"] = None
    elif config:
        if not os.path.isfile(expand_home(config)):
            raise click.UsageError(f"--config {config}: no such file")
        found["config"] = [config]
    return found
