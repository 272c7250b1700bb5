"""The subcommands ``upload`` and ``download``."""

from __future__ import annotations

import os
import re
from typing import Any, List, Tuple

import click

from ssh_service.cli.options import CONTEXT, HOST_OPTIONS, Decorator, Seconds, add_options

__all__ = ["download_command", "upload_command"]


class Rate(click.types.FloatParamType):
    """A rate as rsync's ``--bwlimit`` reads it, as bytes per second; None for 0."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the number, or report what was expected."""
        match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)([KMGT]?)", str(value).upper())
        if match is None:
            self.fail(f"expected a rate such as 500, 500K or 1.5M, got {value!r}", param, ctx)
        number, unit = match.groups()
        return float(number) * 1024 ** ("KMGT".index(unit or "K") + 1) or None


def _refuse_sudo(context: click.Context, option: click.Parameter, value: bool) -> None:
    if value:
        raise click.UsageError(
            "--sudo: a copy has the rights of the user who logs in: log in as another user (-l),"
            " or use a folder of yours and `ssh-service run --sudo -- install -m 644 FROM TO`",
            context,
        )


COPY_OPTIONS: List[Decorator] = [
    click.option(
        "--sudo",
        "--ask-sudo-password",
        is_flag=True,
        hidden=True,
        expose_value=False,
        callback=_refuse_sudo,
    ),
    click.option(
        "--stall-timeout",
        type=Seconds(),
        metavar="SECONDS",
        help="Fail on a host after this long without any progress.",
    ),
    click.option("--verify", is_flag=True, help="Compare checksums after copying."),
    click.option("--resume", is_flag=True, help="Continue an interrupted copy where it stopped."),
    click.option(
        "-u",
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
        "--exclude",
        multiple=True,
        metavar="PATTERN",
        help="Leave out entries of a folder that match, as with rsync; repeatable: '*.pyc',"
        " '/build/'.",
    ),
    click.option(
        "--exclude-from",
        multiple=True,
        metavar="FILE",
        type=click.Path(),
        help="Read such patterns from a file, one per line; # and ; start comments.",
    ),
    click.option(
        "--delete",
        is_flag=True,
        help="With --contents: delete what the target has and the source does not, after copying;"
        " see it first with -n.  Nothing is deleted after a failure, or if the source is empty.",
    ),
    click.option(
        "--delete-even-if-empty",
        is_flag=True,
        help="Like --delete, and an empty source empties the target.",
    ),
    click.option(
        "--bwlimit",
        type=Rate(),
        metavar="RATE",
        help="The limit for each host, in KiB per second; with a suffix, such as 500K or 1.5M, in"
        " units of 1024 bytes.  0: no limit.",
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


def _hint_at_hosts(context: click.Context, path: str = "") -> str:
    """Return how to name hosts, if there are none, or a path begins with one as for scp."""
    if ":" in path:
        return "; hosts are named with -H HOST, not before a colon"
    named = context.params.get("hosts") or context.params.get("files")
    return "" if named else "; hosts are named with -H HOST"


def _refuse_more(context: click.Context, argument: click.Parameter, more: Tuple[str, ...]) -> None:
    if more:
        raise click.UsageError(
            f"expected one source and one target, got {2 + len(more)} paths: copy several sources"
            " one by one, or the folder that holds them with --contents (and --exclude)"
            f"{_hint_at_hosts(context)}",
            context,
        )


_MORE_PATHS = click.argument(
    "more", nargs=-1, metavar="", expose_value=False, callback=_refuse_more
)


@click.command("upload", context_settings=CONTEXT)
@add_options(HOST_OPTIONS + COPY_OPTIONS)
@click.argument("local", type=click.Path())
@click.argument("remote")
@_MORE_PATHS
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
        if set(local) & set("*?["):
            raise click.UsageError(f"{local!r}: no file matches this pattern")
        hint = _hint_at_hosts(click.get_current_context(), local)
        raise click.UsageError(f"{local!r}: no such file or folder{hint}")
    return work.copy("upload", **options)


@click.command("download", context_settings=CONTEXT)
@add_options(HOST_OPTIONS + COPY_OPTIONS)
@click.argument("remote")
@click.argument("local", type=click.Path())
@_MORE_PATHS
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
