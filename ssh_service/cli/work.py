"""The commands ``run``, ``upload`` and ``download``, after the command line was parsed."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
import tempfile
from typing import Any, Callable, List, Optional, Tuple

import click

from ssh_service import fleet, params
from ssh_service.cli.files import OutputFiles
from ssh_service.cli.groups import Groups
from ssh_service.cli.hosts_run import HostsRun
from ssh_service.cli.inputs import CommandToRun
from ssh_service.cli.rates import Copied
from ssh_service.cli.report import Reporter
from ssh_service.cli.targets import (
    check_parallel,
    collect,
    connect_parameters,
    sudo_parameters,
)
from ssh_service.copying import Progress
from ssh_service.errors import SshConfigError
from ssh_service.fleet import Results
from ssh_service.fleet.hosts import connect_params
from ssh_service.fleet.result import one_line

__all__ = ["copy", "run"]

# The maximum size of one host's output with --json or --group, in bytes.
_MAX_OUTPUT = 64 * 1024 * 1024
# A remote path as scp takes it.
_HOST_AND_PATH = re.compile(r"[^/:]+:(?!:)")


def run(
    command: CommandToRun,
    output_dir: Optional[str],
    *,
    group: bool,
    hosts: Tuple[str, ...],
    files: Tuple[str, ...],
    as_json: bool,
    parallel: int,
    timeout: Optional[float],
    cwd: Optional[str],
    pty: bool,
    **options: Any,
) -> int:
    """Run a command on every host, and return the exit status."""
    for given, option in ((as_json, "--json"), (output_dir, "--output-dir")):
        if group and given:
            raise click.UsageError(f"--group, {option}: give at most one of them")
    chosen = collect(hosts, files, ", before the command")
    check_parallel(parallel, len(chosen), "hosts")
    connect = _connect_params(options, chosen)
    if options["dry_run"]:
        return _dry_run(chosen, connect, f"run: {command.description}", as_json)
    sudo = sudo_parameters(options, chosen)
    output_files = OutputFiles(output_dir, chosen) if output_dir else None

    def start(hosts: List[str], reporter: Callable[[], Reporter]) -> Results:
        def output(host: str, stream: str, piece: bytes) -> None:
            if output_files:
                output_files.write(host, stream, piece)
            else:
                reporter().on_output(host, stream, piece)

        return fleet.run(
            hosts,
            command.text if command.args is None else None,
            args=command.args,
            **command.arguments(),
            connect=connect,
            parallel=parallel,
            timeout=timeout,
            cwd=cwd,
            pty=pty,
            **sudo,
            max_output=_MAX_OUTPUT if as_json or group else None,
            on_output=None if as_json or group else output,
        )

    groups = Groups() if group else None
    return HostsRun(chosen, start, as_json, options, output_files, groups).run()


def copy(
    direction: str,
    *,
    local: str,
    remote: str,
    hosts: Tuple[str, ...],
    files: Tuple[str, ...],
    as_json: bool,
    parallel: int,
    timeout: Optional[float],
    stall_timeout: Optional[float],
    verify: bool,
    resume: bool,
    update: bool,
    contents: bool,
    preserve: Optional[bool],
    links: str,
    keep_going: bool,
    fsync: bool,
    exclude: Tuple[str, ...],
    exclude_from: Tuple[str, ...],
    dry_run: bool,
    delete: bool,
    delete_even_if_empty: bool,
    bwlimit: Optional[float],
    **options: Any,
) -> int:
    """Copy to or from every host, and return the exit status."""
    if update and preserve is False:  # the library's own error names keywords, not options
        raise click.UsageError("--update compares times, and --no-preserve keeps none: give one")
    if (delete or delete_even_if_empty) and not contents:
        raise click.UsageError(
            "--delete needs --contents; without it, a folder is copied into the target"
        )
    if dry_run and resume:
        raise click.UsageError(
            "--dry-run does not look for the interrupted copies that --resume continues: give one"
        )
    if not hosts and not files and _HOST_AND_PATH.match(remote):
        host, _, path = remote.partition(":")
        raise click.UsageError(f"no hosts: {remote!r} is written -H {host} and {path or '.'!r}")
    chosen = collect(hosts, files)
    check_parallel(parallel, len(chosen), "hosts")
    several = len(chosen) > 1
    if direction == "download" and several and os.path.exists(local) and not os.path.isdir(local):
        raise click.UsageError(f"{local!r} is not a folder, which several hosts need")
    connect = _connect_params(options, chosen)
    patterns = (*exclude, *(line for path in exclude_from for line in _read_patterns(path)))

    copied = Copied()

    def start(hosts: List[str], reporter: Callable[[], Reporter]) -> Results:
        def on_progress(host: str, progress: Progress) -> None:
            copied.add(host, progress)
            reporter().on_progress(host, progress)

        shared = {
            "connect": connect,
            "parallel": parallel,
            "timeout": timeout,
            "stall_timeout": stall_timeout,
            "on_progress": on_progress,
            "verify": verify,
            "resume": resume,
            "update": update,
            "contents": contents,
            "preserve": preserve,
            "links": links,
            "on_error": "continue" if keep_going else "stop",
            "fsync": fsync,
            "exclude": patterns,
            "dry_run": dry_run,
            "delete": "even-if-empty" if delete_even_if_empty else delete,
            "max_rate": bwlimit,
        }
        if direction == "upload":
            return fleet.upload(hosts, local, remote, **shared)
        return fleet.download(hosts, remote, local, folder_per_host=several, **shared)

    is_new = (
        direction == "download" and (several or local.endswith("/")) and not os.path.isdir(local)
    )
    if dry_run and is_new and not several:
        with tempfile.TemporaryDirectory() as empty:  # in place of the folder to be created
            target, local = local.rstrip("/"), empty
            moved = HostsRun(chosen, start, as_json, options, None)
            moved.replace_in_plans(empty, target)
            return moved.run()
    if dry_run:
        return HostsRun(chosen, start, as_json, options, None).run()
    if is_new and not several:
        _make_folder(local)
    status = HostsRun(chosen, start, as_json, options, copied=copied).run()
    if is_new and status:
        with contextlib.suppress(OSError):  # the folder is not empty: something was copied
            os.rmdir(local)
    return status


def _read_patterns(path: str) -> List[str]:
    """Return the patterns in a file, as rsync's ``--exclude-from`` reads it."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.rstrip("\r\n") for line in file]
    except OSError as error:
        raise click.UsageError(f"--exclude-from {path}: {error.strerror}") from error
    return [line for line in lines if line and line[0] not in "#;"]


def _make_folder(path: str) -> None:
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise click.UsageError(f"{path}: cannot create the folder: {error.strerror}") from error


def _connect_params(options: Any, hosts: List[str]) -> Any:
    if options["verbose"]:
        level = logging.INFO if options["verbose"] == 1 else logging.DEBUG
        logging.basicConfig(level=level, format="%(name)s: %(message)s")
        logging.getLogger("paramiko").setLevel(logging.WARNING)
        if options["verbose"] == 1:  # the host's own line contains the reason
            logging.getLogger("ssh_service.connections.dials").setLevel(logging.WARNING)
    return connect_parameters(options, hosts, ask=not options.get("dry_run"))


def _dry_run(hosts: List[str], connect: Any, what: str, as_json: bool) -> int:
    status = 0
    for host in hosts:
        try:
            target = params.resolve(connect_params(host, connect))
        except SshConfigError as error:
            print(f"{host}: {one_line(error)}", file=sys.stderr)
            status = 1
            continue
        address = params.connection_id(target.username, target.hostname, target.port)
        if as_json:
            print(json.dumps({"host": host, "address": address, "would": what}))
        else:
            print(f"{host}: {address}: {what}")
    return status
