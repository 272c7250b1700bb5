"""The subcommand ``run``."""

from __future__ import annotations

from typing import Any, Optional, Tuple

import click

from ssh_service.cli.options import (
    COMMAND_OPTIONS,
    HOST_OPTIONS,
    RUN_CONTEXT,
    SUDO_OPTIONS,
    add_options,
)
from ssh_service.cli.subcommands.command_line import CommandLine

__all__ = ["run_command"]


@click.command("run", cls=CommandLine, context_settings=RUN_CONTEXT)
@add_options(HOST_OPTIONS + COMMAND_OPTIONS + SUDO_OPTIONS)
@click.option(
    "--group",
    is_flag=True,
    help="Show each output once, at the end, with the hosts that wrote it folded to ranges.",
)
@click.option(
    "-o",
    "--output-dir",
    metavar="DIR",
    type=click.Path(),
    help="Write each host's output to DIR/HOST.stdout and DIR/HOST.stderr, and the reason for a"
    " failure to DIR/HOST.error.  Files of an earlier run are removed first.",
)
@click.option(
    "--cwd",
    metavar="DIR",
    help="The folder on the host to run in; default: the home directory.  Where it is missing,"
    " nothing is run.",
)
@click.option("--shell", metavar="PATH", help="The shell on the host; default: the login shell.")
@click.option(
    "--pty",
    is_flag=True,
    help="Give the command a terminal, as ssh -tt does, for sudo rules and programs that demand"
    " one.  Its standard error then arrives within standard output.",
)
@click.option(
    "--args",
    "as_args",
    is_flag=True,
    help="Take the words as one command with its arguments, which no shell interprets.  With"
    " --sudo, sudo itself runs it: a rule for this one command suffices.",
)
@click.argument("command", metavar="COMMAND...", nargs=-1, type=click.UNPROCESSED)
def run_command(
    command: Tuple[str, ...],
    output_dir: Optional[str],
    as_args: bool,
    shell: Optional[str],
    **options: Any,
) -> int:
    """
    Run a command on every host.

    The words of COMMAND are joined by spaces and run by the user's login shell on the host; quote
    what your own shell must not expand.  With --script, they are the arguments of a script.

    \b
    ssh-service run -H 'web[01-40]' -- uptime
    ssh-service run -H 'web[01-40]' --script setup.sh -- --fast production
    ssh-service run -H 'web[01-40]' --group -- uname -r
    ssh-service run -H 'web[01-40]' --ask-sudo-password -- systemctl restart nginx
    ssh-service run -H 'web[01-40]' --sudo --args -- systemctl reload nginx
    ssh-service run -H db1 --stdin dump.sql --env PGDATABASE=shop -- psql
    ssh-service run -f hosts.txt --json -- 'df -P / | tail -1' | jq -r '[.host, .stdout] | @tsv'
    ssh-service run -H db1 -H db2 -o logs -- journalctl -b
    """  # noqa: D301
    from ssh_service.cli import inputs, work

    what = inputs.command_of(command, options, shell=shell, as_args=as_args)
    return work.run(what, output_dir, **options)
