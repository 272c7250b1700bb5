"""The subcommand ``forward``."""

from __future__ import annotations

from typing import Any

import click

from ssh_service.cli.options import CONNECTION_OPTIONS, CONTEXT, VERBOSE_OPTION, add_options

__all__ = ["forward_command"]


@click.command("forward", context_settings=CONTEXT)
@click.option(
    "-L", "local", multiple=True, metavar="[BIND:]PORT:HOST:PORT",
    help="Listen here, and connect from the server; repeatable.  Without BIND, on 127.0.0.1; port"
    " 0 is any free one.  A path in place of either side is a Unix socket.",
)  # fmt: skip
@click.option(
    "-R", "remote", multiple=True, metavar="[BIND:]PORT:HOST:PORT",
    help="Listen on the server, and connect from here; repeatable.",
)  # fmt: skip
@click.option(
    "-D", "dynamic", multiple=True, metavar="[BIND:]PORT",
    help="Listen here as a SOCKS proxy, and connect from the server; repeatable.",
)  # fmt: skip
@add_options(CONNECTION_OPTIONS)
@add_options([VERBOSE_OPTION])
@click.argument("host", metavar="[USER@]HOST[:PORT]")
def forward_command(**options: Any) -> int:
    """
    Forward ports and Unix sockets over a host, until Ctrl-C.

    Prints a line for each forward once it listens.  A lost connection is made again.  Ctrl-C lets
    the streams end for five seconds; a second one resets them.

    \b
    ssh-service forward -L 5432:db.internal:5432 bastion
    ssh-service forward -D 1080 -R 8080:localhost:8000 admin@bastion:2222
    ssh-service forward -L /tmp/docker.sock:/run/docker.sock web01

    Exit status: 1 a forward could not begin, 2 wrong usage, 130 interrupted.
    """  # noqa: D301
    from ssh_service.cli import forward

    return forward.run(**options)
