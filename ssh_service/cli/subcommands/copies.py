"""The subcommands ``upload`` and ``download``."""

from __future__ import annotations

import os
from typing import Any, List

import click

from ssh_service.cli.options import CONTEXT, HOST_OPTIONS, Decorator, Seconds, add_options

__all__ = ["download_command", "upload_command"]

COPY_OPTIONS: List[Decorator] = [
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


@click.command("upload", context_settings=CONTEXT)
@add_options(HOST_OPTIONS + COPY_OPTIONS)
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


@click.command("download", context_settings=CONTEXT)
@add_options(HOST_OPTIONS + COPY_OPTIONS)
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
