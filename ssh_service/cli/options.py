"""Options that several subcommands share, and the types of their values."""

from __future__ import annotations

from typing import Any, Callable, Dict, List

import click

from ssh_service.cli import completion

__all__ = [
    "COMMAND_OPTIONS",
    "CONNECTION_OPTIONS",
    "CONTEXT",
    "HOSTS_FILE_OPTION",
    "HOST_OPTIONS",
    "JOB_LOGS_OPTIONS",
    "JOB_OPTIONS",
    "ROUTE_OPTIONS",
    "RUN_CONTEXT",
    "SUDO_OPTIONS",
    "TARGET_OPTIONS",
    "VERBOSE_OPTION",
    "Count",
    "Decorator",
    "Seconds",
    "add_options",
]

CONTEXT: Dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 99}
RUN_CONTEXT = {**CONTEXT, "allow_interspersed_args": False}

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def add_options(options: List[Decorator]) -> Decorator:
    """Return a decorator that adds the options, in this order."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


class Seconds(click.FloatRange):
    """A number of seconds, above 0."""

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True)

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the number, or report what was expected."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"expected seconds, a number above 0, got {value!r}", param, ctx)


class Count(click.IntRange):
    """An integer whose error message describes the valid range."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the number, or report what was expected."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            end = f"{self.min} or more" if self.max is None else f"{self.min} to {self.max}"
            self.fail(f"expected a whole number, {end}, got {value!r}", param, ctx)


# What a host is resolved to.
ROUTE_OPTIONS: List[Decorator] = [
    click.option(
        "-l",
        "--user",
        metavar="USER",
        help="The user to log in as, on hosts given without USER@.",
    ),
    click.option(
        "-P",
        "--port",
        type=Count(1, 65535),
        metavar="PORT",
        help="The port to connect to, on hosts given without :PORT.",
    ),
    click.option(
        "-J",
        "--jump",
        metavar="[USER@]HOST[:PORT]",
        shell_complete=completion.hosts,
        help="Connect through this jump host, or through several, joined by commas; 'none': not"
        " even through that of ~/.ssh/config.",
    ),
    click.option(
        "-F",
        "--config",
        metavar="FILE",
        type=click.Path(),
        help="An ssh_config file to read instead of the usual ones; 'none' reads no file.",
    ),
]
# How to connect to it, besides.
CONNECTION_OPTIONS: List[Decorator] = [
    *ROUTE_OPTIONS,
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
        "--ask-password",
        is_flag=True,
        help="Ask once for the password of the user on the hosts.",
    ),
    click.option(
        "--host-key",
        type=click.Choice(["strict", "accept-new", "off"]),
        help="Which host keys to trust: only known ones (strict), new ones too, which are then"
        " recorded (accept-new), or any (off).  Default: what ~/.ssh/config says, else strict.",
    ),
]
_HOST = click.option(
    "-H",
    "--host",
    "hosts",
    multiple=True,
    metavar="[USER@]HOST[:PORT]",
    shell_complete=completion.hosts,
    help="A host; repeatable.  It may be an alias from ~/.ssh/config, or a range of hosts:"
    " 'web[01-40]', 'db[1,3,7-9]'.",
)
_PARALLEL = click.option(
    "-p",
    "--parallel",
    type=Count(min=1),
    default=32,
    show_default=True,
    metavar="N",
    help="How many hosts to work on at once.  (The port is -P.)",
)
# What a command gets on every host, besides its words.
COMMAND_OPTIONS: List[Decorator] = [
    click.option(
        "--script",
        metavar="FILE",
        type=click.Path(),
        help="Run this local script on every host; the words are its arguments.  Its first line"
        " (#!) names its interpreter there, else it is /bin/sh.  - is standard input.",
    ),
    click.option(
        "--stdin",
        metavar="FILE",
        type=click.Path(),
        help="The standard input of the command, the same on every host; - is that of this"
        " program.  Default: empty.",
    ),
    click.option(
        "--env",
        multiple=True,
        metavar="NAME[=VALUE]",
        help="An environment variable for the command; repeatable.  Without =VALUE, it takes its"
        " value from your own environment, so that no process list shows it.",
    ),
]


def _sudo_options(what: str) -> List[Decorator]:
    return [
        click.option("--sudo", is_flag=True, help=f"{what}, as root."),
        click.option("--sudo-user", metavar="USER", help=f"{what}, as this user."),
        click.option(
            "--ask-sudo-password",
            is_flag=True,
            help="Ask once for the password for sudo; this implies --sudo.",
        ),
    ]


SUDO_OPTIONS = _sudo_options("Have sudo run the command on the hosts")
VERBOSE_OPTION = click.option(
    "-v", "--verbose", count=True, help="Log more to standard error; -vv: still more."
)


def _hosts_file(*names: str, note: str = "") -> Decorator:
    return click.option(
        *names,
        "files",
        multiple=True,
        metavar="FILE",
        type=click.Path(),
        help="A file with one host or range per line; # starts a comment.  - is standard input."
        f"{note}",
    )


def _timeout(text: str) -> Decorator:
    return click.option(
        "-t",
        "--timeout",
        type=Seconds(),
        metavar="SECONDS",
        help=f"{text}  Without it, only connecting is limited, to 30 s.",
    )


# Which hosts, and how many at once.
HOSTS_FILE_OPTION = _hosts_file("-f", "--hosts-file")
TARGET_OPTIONS: List[Decorator] = [_HOST, HOSTS_FILE_OPTION, _PARALLEL]
HOST_OPTIONS: List[Decorator] = [
    *TARGET_OPTIONS,
    _timeout("The time limit for each host, from connecting to the end."),
    *CONNECTION_OPTIONS,
    click.option(
        "--json",
        "as_json",
        is_flag=True,
        help="Write one JSON object for each host as soon as it is done.",
    ),
    click.option(
        "--fail-fast",
        is_flag=True,
        help="After the first failure, start no more hosts and end the others.",
    ),
    click.option(
        "--retry",
        "retries",
        type=Count(min=0),
        default=0,
        metavar="N",
        help="Try hosts again, up to N times, to which nothing was sent, such as those that"
        " refused the connection; after 1, 2, 4, ... seconds.  Nothing is done twice.",
    ),
    click.option(
        "-n",
        "--dry-run",
        is_flag=True,
        help="Print what would be done on each host, and do nothing.",
    ),
    VERBOSE_OPTION,
]
_OF_JOBS: List[Decorator] = [
    _timeout("The time limit of this command for each host, not of its jobs."),
    *CONNECTION_OPTIONS,
    *_sudo_options("For jobs that sudo starts on the hosts"),
    click.option("--json", "as_json", is_flag=True, help="Write JSON, one object on each line."),
]
JOB_OPTIONS: List[Decorator] = [*TARGET_OPTIONS, *_OF_JOBS]
# `-f` is `--follow` there.
JOB_LOGS_OPTIONS: List[Decorator] = [
    _HOST,
    _hosts_file("--hosts-file", note="  (-f is --follow here.)"),
    _PARALLEL,
    *_OF_JOBS,
]
