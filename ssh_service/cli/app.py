"""The program ``ssh-service``: its subcommands, and how its errors end it."""

from __future__ import annotations

import contextlib
import os
from typing import List, cast

import click

from ssh_service.cli import completion
from ssh_service.cli.options import CONTEXT
from ssh_service.cli.output import flush_or_drop
from ssh_service.cli.signals import CLOSED_OUTPUT_STATUS
from ssh_service.cli.subcommands import copies, forward, hosts, job, others
from ssh_service.cli.subcommands import run as run_
from ssh_service.cli.subcommands import shell

__all__ = ["commands", "run"]

_PROGRAM = "ssh-service"
# The environment variable with which a shell requests completions.
_COMPLETE = completion.VARIABLE
# Options of pdsh, clush and Ansible, and ours for them.
_OF_OTHERS = {
    "-w": "-H",
    "-b": "--group",
    "-K": "--ask-sudo-password",
    "-k": "--ask-password",
}


def run(arguments: List[str]) -> int:
    """Run a command line, and return its exit status."""
    try:
        status = _run(arguments)
    except OSError as error:
        if error.filename is not None:
            raise
        status = _report_write_error(error)
    problem = flush_or_drop()
    return _report_write_error(problem) if problem is not None and status == 0 else status


def _report_write_error(problem: OSError) -> int:
    """Report that standard output cannot be written; return the exit status."""
    if isinstance(problem, BrokenPipeError):
        return CLOSED_OUTPUT_STATUS  # without a message
    with contextlib.suppress(OSError):  # standard error may be on the same full disk
        click.echo(f"{_PROGRAM}: cannot write the output: {problem.strerror}", err=True)
    return 1


def _run(arguments: List[str]) -> int:
    if not arguments and _COMPLETE not in os.environ:
        click.echo(
            commands.get_help(click.Context(commands, info_name=_PROGRAM, **CONTEXT)), err=True
        )
        return 2
    if _COMPLETE in os.environ:
        completion.prepare()
    try:
        status = commands.main(arguments, prog_name=_PROGRAM, standalone_mode=False)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else _command_path(arguments)
        text = " ".join(error.format_message().split()) + _hint(error)
        click.echo(f"{path}: {text} (see {path} --help)", err=True)
        return 2
    except click.ClickException as error:
        click.echo(f"{_PROGRAM}: {error.format_message()}", err=True)
        return 2
    except click.Abort:
        return 130
    except SystemExit:  # click exits if a pipe is closed
        return CLOSED_OUTPUT_STATUS
    except Exception as error:
        # These import paramiko, which --help does not need.
        from ssh_service.cli.report import in_options
        from ssh_service.errors import SshServiceError

        if not isinstance(error, SshServiceError):
            raise
        # Raised before the work started.
        click.echo(f"{_PROGRAM}: {in_options(str(error))}", err=True)
        return 2 if isinstance(error, ValueError) else 1
    return status if isinstance(status, int) else 0


def _command_path(arguments: List[str]) -> str:
    """Return the names of the subcommand with which a command line begins."""
    names, command = [_PROGRAM], cast(click.Command, commands)
    for argument in arguments:
        if not isinstance(command, click.Group) or argument not in command.commands:
            break
        names.append(argument)
        command = command.commands[argument]
    return " ".join(names)


def _hint(error: click.UsageError) -> str:
    """Return what to do instead of giving an option that is not known."""
    if not isinstance(error, click.NoSuchOption) or error.ctx is None:
        return ""
    name, command = error.option_name, error.ctx.command
    if name in ("-r", "-R", "--recursive"):
        return " Folders are copied whole without it."
    if name == "-p":  # as for ssh; elsewhere it is --parallel
        return " The port is -P."
    arguments = {param.name for param in command.params if isinstance(param, click.Argument)}
    if name in ("-H", "--host", "-w") and "host" in arguments:
        return f" The host is given without an option: {error.ctx.command_path} HOST."
    ours = _OF_OTHERS.get(name, "")
    known = any(ours in param.opts for param in command.params)
    return f" Did you mean {ours}?" if known and not error.possibilities else ""


def _version(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        import ssh_service

        click.echo(f"{_PROGRAM} {ssh_service.__version__}")
        context.exit()


@click.group(context_settings=CONTEXT)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Show the version and exit.",
)
def commands() -> None:
    """
    Run commands on many hosts at once, and copy to and from them, over SSH.

    \b
    ssh-service run -H web01 -H admin@db:2222 -- uptime
    ssh-service run -H 'web[01-40]' --timeout 30 --json -- systemctl is-active nginx
    ssh-service upload -f hosts.txt site.conf /etc/nginx/conf.d/
    ssh-service download -H 'web[01-40]' /var/log/nginx/error.log logs/
    ssh-service shell web01
    ssh-service forward -L 5432:db.internal:5432 bastion
    ssh-service job start -H 'web[01-40]' --id night-7 -- ./benchmark --hours 5

    Users, keys and jump hosts are found as ssh finds them, in ~/.ssh/config.  Host keys must be
    known, unless --host-key or that file says otherwise.

    Exit status: 0 all hosts succeeded, 1 some hosts failed, 2 wrong usage, 130 interrupted, 141
    the output was closed before the end.
    """  # noqa: D301


for _command in (
    run_.run_command,
    job.job_commands,
    copies.upload_command,
    copies.download_command,
    forward.forward_command,
    shell.shell_command,
    hosts.hosts_command,
    others.demo_command,
    others.bench_command,
    others.completion_command,
    others.man_command,
):
    commands.add_command(_command)
