"""The command ``hosts``, after the command line was parsed."""

from __future__ import annotations

import json
import sys
from typing import Any, Dict, List, Sequence

import click

from ssh_service import params
from ssh_service.cli.report import escape_control_characters
from ssh_service.cli.targets import collect, connect_parameters
from ssh_service.errors import SshConfigError
from ssh_service.fleet.hosts import connect_params
from ssh_service.fleet.result import one_line
from ssh_service.params import ConnectParams, connection_id

__all__ = ["show"]


def show(patterns: Sequence[str], files: Sequence[str], as_json: bool, **options: Any) -> int:
    """Print what each host is resolved to, and return the exit status."""
    if not patterns and not files:
        raise click.UsageError("no hosts: give a PATTERN, or -f FILE")
    names = collect(patterns, files)
    common = connect_parameters(options, names)
    width, status = max(map(len, names)), 0
    for name in names:
        try:
            target = params.resolve(connect_params(name, common))
        except SshConfigError as error:
            print(f"{name}: FAILED: {one_line(error)}", file=sys.stderr)
            status = 1
            continue
        found = _as_dict(name, target)
        print(json.dumps(found) if as_json else _line(found, width))
    return status


def _as_dict(name: str, target: ConnectParams) -> Dict[str, Any]:
    return {
        "host": name,
        "username": target.username,
        "hostname": target.hostname,
        "port": target.port,
        "jump": _jump_hosts(target),
        "proxy_command": target.proxy_command,
    }


def _jump_hosts(target: ConnectParams) -> List[str]:
    """Return the jump hosts, in the order in which they are connected to."""
    found: List[str] = []
    hop = target.tunnel
    while isinstance(hop, ConnectParams):
        found.insert(0, connection_id(hop.username, hop.hostname, hop.port))
        hop = hop.tunnel
    return found


def _line(found: Dict[str, Any], width: int) -> str:
    address = connection_id(found["username"], found["hostname"], found["port"])
    text = f"{found['host']:{width}}  {address}"
    if found["jump"]:
        text += f"  via {', '.join(found['jump'])}"
    if found["proxy_command"]:
        text += f"  via the command {found['proxy_command']}"
    return escape_control_characters(text.encode("utf-8", "backslashreplace")).decode()
