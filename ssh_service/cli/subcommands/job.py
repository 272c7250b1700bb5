"""The subcommands ``job ...``."""

from __future__ import annotations

from typing import Any, Optional, Tuple

import click

from ssh_service.cli.options import (
    COMMAND_OPTIONS,
    CONTEXT,
    JOB_LOGS_OPTIONS,
    JOB_OPTIONS,
    RUN_CONTEXT,
    Seconds,
    add_options,
)
from ssh_service.cli.subcommands.command_line import CommandLine

__all__ = ["job_commands"]


@click.group("job", context_settings=CONTEXT, invoke_without_command=True)
@click.pass_context
def job_commands(context: click.Context) -> int:
    """
    Run commands that outlive the connection and this program.

    \b
    ssh-service job start -H 'web[01-40]' --id night-7 -- ./benchmark --hours 5
    ssh-service job status -H 'web[01-40]' night-7
    ssh-service job logs -H web01 -f night-7
    ssh-service job wait -H 'web[01-40]' night-7
    ssh-service job clean -H 'web[01-40]' --older 7d
    """  # noqa: D301
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
    return 2


_JOB_IDS = click.argument("job_ids", metavar="ID...", nargs=-1, required=True)


@job_commands.command("start", cls=CommandLine, context_settings=RUN_CONTEXT)
@add_options(JOB_OPTIONS + COMMAND_OPTIONS)
@click.option("--id", "job_id", metavar="ID", help="The job's id; default: a random one.")
@click.option("--cwd", metavar="DIR", help="The folder to run in; default: the home directory.")
@click.option("--shell", metavar="PATH", help="The shell; default: the login shell.")
@click.option(
    "--run-timeout",
    type=Seconds(),
    metavar="SECONDS",
    help="The time limit of the job, which its host enforces.",
)
@click.option(
    "--args",
    "as_args",
    is_flag=True,
    help="Take the words as one command with its arguments, which no shell interprets.",
)
@click.argument("command", metavar="COMMAND...", nargs=-1, type=click.UNPROCESSED)
def job_start_command(
    command: Tuple[str, ...], shell: Optional[str], as_args: bool, **options: Any
) -> int:
    """
    Start a command as a job on every host, once for an id.

    The words of COMMAND are joined by spaces and run by the user's login shell on the host.  With
    --script, they are the arguments of a script.
    """
    from ssh_service.cli import inputs, jobs

    what = inputs.command_of(command, options, shell=shell, as_args=as_args)
    return jobs.start(what, **options)


@job_commands.command("list", context_settings=CONTEXT)
@add_options(JOB_OPTIONS)
def job_list_command(**options: Any) -> int:
    """List the jobs of every host, and what became of them."""
    from ssh_service.cli import jobs

    return jobs.list_(**options)


@job_commands.command("status", context_settings=CONTEXT)
@add_options(JOB_OPTIONS)
@_JOB_IDS
def job_status_command(**options: Any) -> int:
    """Print what became of jobs of every host; the exit status is 0 if all were found."""
    from ssh_service.cli import jobs

    return jobs.status(**options)


@job_commands.command("logs", context_settings=CONTEXT)
@add_options(JOB_LOGS_OPTIONS)
@click.option("-f", "--follow", is_flag=True, help="Wait for more until the job is over.")
@click.option("--stderr", is_flag=True, help="Print standard error instead.")
@click.argument("job_ids", metavar="ID", nargs=-1, required=True)
def job_logs_command(**options: Any) -> int:
    """Print what the job ID of every host has written."""
    from ssh_service.cli import jobs

    return jobs.logs(**options)


@job_commands.command("wait", context_settings=CONTEXT)
@add_options(JOB_OPTIONS)
@_JOB_IDS
def job_wait_command(**options: Any) -> int:
    """
    Wait for jobs of every host; the exit status is 0 if all ended with exit status 0.

    Ctrl-C, and --timeout, end only the waiting: the jobs keep running.
    """
    from ssh_service.cli import jobs

    return jobs.wait(**options)


@job_commands.command("kill", context_settings=CONTEXT)
@add_options(JOB_OPTIONS)
@click.option(
    "-s",
    "--signal",
    metavar="SIGNAL",
    help="A signal to send, such as INT or 2; default: TERM, then KILL.",
)
@_JOB_IDS
def job_kill_command(**options: Any) -> int:
    """End jobs of every host with all their processes."""
    from ssh_service.cli import jobs

    return jobs.kill(**options)


@job_commands.command("remove", context_settings=CONTEXT)
@add_options(JOB_OPTIONS)
@_JOB_IDS
def job_remove_command(**options: Any) -> int:
    """Remove jobs of every host that have ended."""
    from ssh_service.cli import jobs

    return jobs.remove(**options)


@job_commands.command("clean", context_settings=CONTEXT)
@add_options(JOB_OPTIONS)
@click.option(
    "--older",
    required=True,
    metavar="TIME",
    help="How long ago they ended, with a unit (s, m, h, d, w), such as 7d, 12h or 90m.",
)
def job_clean_command(**options: Any) -> int:
    """Remove the jobs of every host that ended some time ago; never one that runs."""
    from ssh_service.cli import jobs

    return jobs.clean(**options)
