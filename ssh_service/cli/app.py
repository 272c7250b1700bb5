"""The commands and their options."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Any, Callable, Dict, List, Optional, Tuple

import click

from ssh_service.cli import completion
from ssh_service.cli.output import flush_or_drop

__all__ = ["commands", "run"]

_PROGRAM = "ssh-service"
# The environment variable with which a shell requests completions.
_COMPLETE = completion.VARIABLE
_CONTEXT: Dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 99}
_RUN_CONTEXT = {**_CONTEXT, "allow_interspersed_args": False}


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
        return 128 + signal.SIGPIPE  # without a message, as if SIGPIPE had ended the process
    with contextlib.suppress(OSError):  # standard error may be on the same full disk
        click.echo(f"{_PROGRAM}: cannot write the output: {problem.strerror}", err=True)
    return 1


def _run(arguments: List[str]) -> int:
    if not arguments and _COMPLETE not in os.environ:
        click.echo(
            commands.get_help(click.Context(commands, info_name=_PROGRAM, **_CONTEXT)), err=True
        )
        return 2
    try:
        status = commands.main(arguments, prog_name=_PROGRAM, standalone_mode=False)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else _PROGRAM
        text = " ".join(error.format_message().split())
        if getattr(error, "option_name", None) in ("-r", "-R", "--recursive"):
            text += " Folders are copied whole without it."
        click.echo(f"{path}: {text} (see {path} --help)", err=True)
        return 2
    except click.ClickException as error:
        click.echo(f"{_PROGRAM}: {error.format_message()}", err=True)
        return 2
    except click.Abort:
        return 130
    except SystemExit:  # click exits if a pipe is closed
        return 128 + signal.SIGPIPE
    except Exception as error:
        from ssh_service.errors import (  # imports paramiko, which --help does not need
            SshServiceError,
        )

        if not isinstance(error, SshServiceError):
            raise
        # Raised before the work started.
        click.echo(f"{_PROGRAM}: {error}", err=True)
        return 2 if isinstance(error, ValueError) else 1
    return status if isinstance(status, int) else 0


def _version(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        import ssh_service

        click.echo(f"{_PROGRAM} {ssh_service.__version__}")
        context.exit()


@click.group(context_settings=_CONTEXT)
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
    ssh-service forward -L 5432:db.internal:5432 bastion
    ssh-service job start -H 'web[01-40]' --id night-7 -- ./benchmark --hours 5

    Users, keys and jump hosts are found as ssh finds them, in ~/.ssh/config.  Host keys must be
    known, unless --host-key or that file says otherwise.

    Exit status: 0 all hosts succeeded, 1 some hosts failed, 2 wrong usage, 130 interrupted, 141
    the output was closed before the end.
    """  # noqa: D301


_Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _add_options(options: List[_Decorator]) -> _Decorator:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


class _Seconds(click.FloatRange):
    """A number of seconds, above 0."""

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True)

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"expected seconds, a number above 0, got {value!r}", param, ctx)


class _Count(click.IntRange):
    """An integer whose error message describes the valid range."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            end = f"{self.min} or more" if self.max is None else f"{self.min} to {self.max}"
            self.fail(f"expected a whole number, {end}, got {value!r}", param, ctx)


class _RunCommand(click.Command):
    """A command line that ends with the words of a remote command."""

    def parse_args(self, ctx: click.Context, args: List[str]) -> List[str]:
        given = list(args)
        rest = super().parse_args(ctx, args)
        words = list(ctx.params.get("command") or ())
        options = given[: len(given) - len(words)]
        # click removes a `--` before the words, and keeps one between them.
        if "--" in words and options[-1:] != ["--"] and _ends_with_host(options):
            extra = words[: words.index("--")]
            hosts = " ".join(f"-H {word}" for word in extra)
            raise click.UsageError(
                f"{' '.join(extra)!r} stands between the options and '--': each host needs its own"
                f" -H ({hosts}); if it belongs to the command, write '--' before it, too",
                ctx,
            )
        return rest


def _ends_with_host(options: List[str]) -> bool:
    last, before = options[-1:], options[-2:-1]
    return before in (["-H"], ["--host"]) or any(
        word.startswith("--host=") or (word.startswith("-H") and len(word) > 2) for word in last
    )


_CONNECTION_OPTIONS: List[_Decorator] = [
    click.option(
        "-l",
        "--user",
        metavar="USER",
        help="The user to log in as, on hosts given without USER@.",
    ),
    click.option(
        "-P",
        "--port",
        type=_Count(1, 65535),
        metavar="PORT",
        help="The port to connect to, on hosts given without :PORT.",
    ),
    click.option(
        "--host-key",
        type=click.Choice(["strict", "accept-new", "off"]),
        help="Which host keys to trust: only known ones (strict), new ones too, which are then"
        " recorded (accept-new), or any (off).  Default: what ~/.ssh/config says, else strict.",
    ),
    click.option(
        "-i",
        "--key",
        "keys",
        multiple=True,
        metavar="FILE",
        type=click.Path(),
        help="A private key file; repeatable.  Default: the keys that ssh would use.",
    ),
    click.option(
        "-F",
        "--config",
        metavar="FILE",
        type=click.Path(),
        help="An ssh_config file to read instead of the usual ones; 'none' reads no file.",
    ),
]


def _timeout_option(text: str) -> _Decorator:
    return click.option(
        "-t",
        "--timeout",
        type=_Seconds(),
        metavar="SECONDS",
        help=f"{text}  Without it, only connecting is limited, to 30 s.",
    )


_HOST_OPTIONS: List[_Decorator] = [
    click.option(
        "-H",
        "--host",
        "hosts",
        multiple=True,
        metavar="[USER@]HOST[:PORT]",
        shell_complete=completion.hosts,
        help="A host; repeatable.  It may be an alias from ~/.ssh/config, or a range of hosts:"
        " 'web[01-40]', 'db[1,3,7-9]'.",
    ),
    click.option(
        "-f",
        "--hosts-file",
        "files",
        multiple=True,
        metavar="FILE",
        type=click.Path(),
        help="A file with one host or range per line; # starts a comment.  - is standard input.",
    ),
    click.option(
        "-p",
        "--parallel",
        type=_Count(min=1),
        default=32,
        show_default=True,
        metavar="N",
        help="How many hosts to work on at once.  (The port is -P.)",
    ),
    _timeout_option("The time limit for each host, from connecting to the end."),
    *_CONNECTION_OPTIONS,
    click.option(
        "--json",
        "as_json",
        is_flag=True,
        help="Write one JSON object for each host as soon as it is done.",
    ),
]
_JOB_OPTIONS: List[_Decorator] = [
    *_HOST_OPTIONS[:3],
    _timeout_option("The time limit of this command for each host, not of its jobs."),
    *_HOST_OPTIONS[4:-1],
    click.option("--json", "as_json", is_flag=True, help="Write JSON, one object on each line."),
]
_HOST_OPTIONS += [
    click.option(
        "--fail-fast",
        is_flag=True,
        help="After the first failure, start no more hosts and end the others.",
    ),
    click.option(
        "-n",
        "--dry-run",
        is_flag=True,
        help="Print what would be done on each host, and do nothing.",
    ),
    click.option(
        "-v", "--verbose", count=True, help="Log more to standard error; -vv: still more."
    ),
]

_COPY_OPTIONS: List[_Decorator] = [
    click.option(
        "--stall-timeout",
        type=_Seconds(),
        metavar="SECONDS",
        help="Fail on a host after this long without any progress.",
    ),
    click.option("--verify", is_flag=True, help="Compare checksums after copying."),
    click.option("--resume", is_flag=True, help="Continue an interrupted copy where it stopped."),
    click.option(
        "--update",
        is_flag=True,
        help="Skip files that exist already with the same size and time.",
    ),
    click.option(
        "--contents",
        is_flag=True,
        help="Copy the contents of a folder into the target, not the folder itself.",
    ),
    click.option(
        "--preserve/--no-preserve",
        default=None,
        help="Keep modes and times and fail where that is impossible, or keep neither.  Default:"
        " keep them where both sides allow it.",
    ),
    click.option(
        "--links",
        type=click.Choice(["follow", "keep"]),
        default="follow",
        show_default=True,
        help="Copy what symbolic links in a tree point to, or the links themselves.",
    ),
    click.option(
        "--keep-going",
        is_flag=True,
        help="Copy the rest of a tree when an entry cannot be copied.",
    ),
    click.option(
        "--fsync", is_flag=True, help="Flush each file to the disk before it gets its final name."
    ),
]


@commands.command("run", cls=_RunCommand, context_settings=_RUN_CONTEXT)
@_add_options(_HOST_OPTIONS)
@click.option(
    "-o",
    "--output-dir",
    metavar="DIR",
    type=click.Path(),
    help="Write each host's output to DIR/HOST.stdout and DIR/HOST.stderr, and the reason for a"
    " failure to DIR/HOST.error.  Files of an earlier run are removed first.",
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run_command(command: Tuple[str, ...], output_dir: Optional[str], **options: Any) -> int:
    """
    Run a command on every host.

    The words of COMMAND are joined by spaces and run by the user's login shell on the host; quote
    what your own shell must not expand.  The command's standard input is empty.

    \b
    ssh-service run -H 'web[01-40]' -- uptime
    ssh-service run -f hosts.txt --json -- 'df -P / | tail -1' | jq -r '[.host, .stdout] | @tsv'
    ssh-service run -H db1 -H db2 -o logs -- journalctl -b
    """  # noqa: D301
    from ssh_service.cli import work

    return work.run(" ".join(command), output_dir, **options)


@commands.group("job", context_settings=_CONTEXT, invoke_without_command=True)
@click.pass_context
def job_commands(context: click.Context) -> int:
    """
    Run commands that outlive the connection and this program.

    \b
    ssh-service job start -H 'web[01-40]' --id night-7 -- ./benchmark --hours 5
    ssh-service job logs -H web01 -f night-7
    ssh-service job wait -H 'web[01-40]' night-7
    ssh-service job clean -H 'web[01-40]' --older 7d
    """  # noqa: D301
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
    return 2


_JOB_IDS = click.argument("job_ids", metavar="ID...", nargs=-1, required=True)


@job_commands.command("start", context_settings=_RUN_CONTEXT)
@_add_options(_JOB_OPTIONS)
@click.option("--id", "job_id", metavar="ID", help="The job's name; default: a random one.")
@click.option("--cwd", metavar="DIR", help="The folder to run in; default: the home directory.")
@click.option("--shell", metavar="PATH", help="The shell; default: the login shell.")
@click.option(
    "--run-timeout",
    type=_Seconds(),
    metavar="SECONDS",
    help="The time limit of the job, which its host enforces.",
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def job_start_command(command: Tuple[str, ...], **options: Any) -> int:
    """
    Start a command as a job on every host, once for an id.

    The words of COMMAND are joined by spaces and run by the user's login shell on the host.
    """
    from ssh_service.cli import jobs

    return jobs.start(" ".join(command), **options)


@job_commands.command("list", context_settings=_CONTEXT)
@_add_options(_JOB_OPTIONS)
def job_list_command(**options: Any) -> int:
    """List the jobs of every host, and what became of them."""
    from ssh_service.cli import jobs

    return jobs.list_(**options)


@job_commands.command("logs", context_settings=_CONTEXT)
@_add_options(_JOB_OPTIONS[:1] + _JOB_OPTIONS[2:])
@click.option("--hosts-file", "files", multiple=True, metavar="FILE", type=click.Path(),
              help="A file with one host or range per line; - is standard input.  (-f is"
              " --follow here.)")  # fmt: skip
@click.option("-f", "--follow", is_flag=True, help="Wait for more until the job is over.")
@click.option("--stderr", is_flag=True, help="Print standard error instead.")
@click.argument("job_ids", metavar="ID", nargs=-1, required=True)
def job_logs_command(**options: Any) -> int:
    """Print what the job ID of every host has written."""
    from ssh_service.cli import jobs

    return jobs.logs(**options)


@job_commands.command("wait", context_settings=_CONTEXT)
@_add_options(_JOB_OPTIONS)
@_JOB_IDS
def job_wait_command(**options: Any) -> int:
    """
    Wait for jobs of every host; the status is 0 if all ended with status 0.

    Ctrl-C, and --timeout, end only the waiting: the jobs keep running.
    """
    from ssh_service.cli import jobs

    return jobs.wait(**options)


@job_commands.command("kill", context_settings=_CONTEXT)
@_add_options(_JOB_OPTIONS)
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


@job_commands.command("remove", context_settings=_CONTEXT)
@_add_options(_JOB_OPTIONS)
@_JOB_IDS
def job_remove_command(**options: Any) -> int:
    """Remove jobs of every host that have ended."""
    from ssh_service.cli import jobs

    return jobs.remove(**options)


@job_commands.command("clean", context_settings=_CONTEXT)
@_add_options(_JOB_OPTIONS)
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


@commands.command("upload", context_settings=_CONTEXT)
@_add_options(_HOST_OPTIONS + _COPY_OPTIONS)
@click.argument("local", type=click.Path())
@click.argument("remote")
def upload_command(**options: Any) -> int:
    """
    Copy the file or folder LOCAL to every host.

    As with cp, LOCAL becomes REMOTE, or goes into it if REMOTE is a folder.  So a folder that is
    copied a second time ends up inside the first copy, unless --contents is given.

    \b
    ssh-service upload -H 'web[01-40]' site.conf /etc/nginx/conf.d/
    ssh-service upload -H 'web[01-40]' --contents --update site /srv/www/site
    ssh-service upload -H build01 src '~/work'
    """  # noqa: D301
    from ssh_service.cli import work

    local = options["local"]
    if not os.path.exists(local):
        raise click.UsageError(f"{local!r}: no such file or folder")
    return work.copy("upload", **options)


@commands.command("download", context_settings=_CONTEXT)
@_add_options(_HOST_OPTIONS + _COPY_OPTIONS)
@click.argument("remote")
@click.argument("local", type=click.Path())
def download_command(**options: Any) -> int:
    """
    Copy the file or folder REMOTE from every host.

    From one host, REMOTE becomes LOCAL, or goes into it if LOCAL is a folder.  From several hosts,
    it goes into LOCAL/HOST/.  With several hosts, or a slash at the end of LOCAL, missing folders
    are created.

    \b
    ssh-service download -H web01 /etc/hosts hosts.web01
    ssh-service download -H 'web[01-40]' /var/log/nginx logs
    """  # noqa: D301
    from ssh_service.cli import work

    return work.copy("download", **options)


@commands.command("forward", context_settings=_CONTEXT)
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
@_add_options(_CONNECTION_OPTIONS)
@click.option("-v", "--verbose", count=True, help="Log more to standard error; -vv: still more.")
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


@commands.command(
    "demo",
    context_settings={**_CONTEXT, "ignore_unknown_options": True},
    add_help_option=False,
    short_help="Watch the library work, without a server.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def demo_command(arguments: Tuple[str, ...]) -> int:
    """Watch the library work, without a server or on one of yours (needs the extra demo)."""
    from ssh_service import demo

    return demo.main(list(arguments))


@commands.command("bench", context_settings=_CONTEXT, short_help="Measure a host.")
@click.option(
    "-H", "--host", metavar="[USER@]HOST[:PORT]",
    help="The host.  Without it, in a checkout: compare this package with others, on loopback.",
)  # fmt: skip
@click.option(
    "-c", "--commands", "count", type=_Count(min=1), default=200, show_default=True,
    help="How many commands to run.",
)  # fmt: skip
@click.option(
    "-p", "--parallel", type=_Count(min=1), default=16, show_default=True,
    help="How many of them to run at once.  (The port is -P.)",
)  # fmt: skip
@click.option(
    "-m", "--mebibytes", type=_Count(min=0), default=16, show_default=True,
    help="How much to copy in each direction; 0: nothing.",
)  # fmt: skip
@_add_options(_CONNECTION_OPTIONS)
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
def bench_command(**options: Any) -> int:
    """
    Measure a host: connecting, one command, many commands at once, a copy in each direction.

    It runs the command true, and copies one file to a temporary folder, which it then removes.
    Without a host, in a checkout, it compares this package with other SSH libraries, and draws the
    pictures of the documentation.
    """
    from ssh_service.cli import bench

    if options["host"] is None:
        status = bench.compare_packages()
        if status is None:
            raise click.UsageError(
                "--host is needed: the comparison with other packages works only in a checkout"
            )
        return status
    return bench.run(**options)


@commands.command("completion", context_settings=_CONTEXT)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """
    Print a script for shell completion.

    \b
    bash: eval "$(ssh-service completion bash)"        in ~/.bashrc
    zsh:  eval "$(ssh-service completion zsh)"         in ~/.zshrc, after `compinit`
    fish: ssh-service completion fish | source         in ~/.config/fish/config.fish
    """  # noqa: D301
    click.echo(completion.script(commands, shell))
