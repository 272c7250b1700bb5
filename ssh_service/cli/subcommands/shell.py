"""The subcommand ``shell``."""

from __future__ import annotations

import sys
from typing import Any, Tuple

import click

from ssh_service.cli import completion
from ssh_service.cli.options import CONNECTION_OPTIONS, RUN_CONTEXT, add_options

__all__ = ["shell_command"]


@click.command("shell", context_settings=RUN_CONTEXT)
@add_options(CONNECTION_OPTIONS)
@click.argument("host", metavar="[USER@]HOST[:PORT]", shell_complete=completion.hosts)
@click.argument("command", metavar="[COMMAND...]", nargs=-1, type=click.UNPROCESSED)
def shell_command(host: str, command: Tuple[str, ...], **options: Any) -> int:
    """
    Open a shell on a host, or run a command in a terminal there.

    All keys go to the host, Ctrl-C included; '~.' at the beginning of a line closes the
    connection.  If standard input is not a terminal, there is none on the host, either, and the
    input is passed on.

    \b
    ssh-service shell web01
    ssh-service shell -J bastion admin@db:2222 htop
    echo uptime | ssh-service shell web01

    Exit status: that of the shell or the command, 128 + N if signal N ended it, 255 if the
    connection failed or was lost, 2 wrong usage.
    """  # noqa: D301
    if sys.platform == "win32":
        raise click.UsageError(
            "this needs a terminal of a POSIX system, which Windows lacks; the ssh of Windows"
            " opens a shell, and `ssh-service run` runs a command"
        )
    from ssh_service.cli import shell

    # As with ssh, the command may follow `--`.
    if command[:1] == ("--",):
        command = command[1:]
    elif command and command[0].startswith("-"):  # ssh would take it as an option of its own
        raise click.UsageError(
            f"{command[0]!r} stands after the host: options come before it; if it belongs to the"
            " command, write '--' before the command"
        )
    return shell.run(host, command, **options)
