"""The subcommand ``hosts``."""

from __future__ import annotations

from typing import Any, Tuple

import click

from ssh_service.cli import completion
from ssh_service.cli.options import CONTEXT, HOSTS_FILE_OPTION, ROUTE_OPTIONS, add_options

__all__ = ["hosts_command"]


@click.command("hosts", context_settings=CONTEXT)
@add_options([HOSTS_FILE_OPTION, *ROUTE_OPTIONS])
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object for each host.")
@click.argument("patterns", metavar="PATTERN...", nargs=-1, shell_complete=completion.hosts)
def hosts_command(patterns: Tuple[str, ...], **options: Any) -> int:
    """
    Print what ranges, files and aliases stand for.

    Nothing is connected to.  A PATTERN is a host, an alias from ~/.ssh/config, or a range of
    them.  For each host, a line shows the user, address and port, and the jump hosts on the way.

    \b
    ssh-service hosts 'web[01-40]'
    ssh-service hosts -f hosts.txt --json | jq -r .hostname

    Exit status: 0, or 1 if a host cannot be resolved, 2 wrong usage.
    """  # noqa: D301
    from ssh_service.cli import hosts

    return hosts.show(patterns, **options)
