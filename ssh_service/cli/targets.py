"""The hosts of a command line, and their connect parameters."""

from __future__ import annotations

import os
import sys
from typing import Any, Dict, List, Mapping, Optional, Sequence

import click

from ssh_service import params
from ssh_service.cli.asking import ask_secret
from ssh_service.cli.report import in_options
from ssh_service.commands.sudo import is_user
from ssh_service.errors import SshConfigError
from ssh_service.fleet.hosts import expand, parse, unique
from ssh_service.user_files import expand_home

__all__ = ["check_parallel", "collect", "connect_parameters"]

# A limit in this range was probably meant as a port.
_PORT_NUMBERS = range(1024, 65536)


def collect(hosts: Sequence[str], files: Sequence[str], where: str = "") -> List[str]:
    """
    Return the hosts of a command line without duplicates; `where` names the options' place.

    Raises
    ------
    click.UsageError
        There are no hosts, a file cannot be read, or a pattern is invalid.
    """
    found: List[str] = []
    for pattern in hosts:
        try:
            found += expand(pattern.strip())
        except SshConfigError as error:
            raise click.UsageError(in_options(str(error))) from error
    for name in files:
        of_file = _read_hosts(name)
        if not of_file:
            raise click.UsageError(f"{_file_name(name)}: no hosts in it")
        found += of_file
    if not found:
        raise click.UsageError(f"no hosts: name them with -H HOST or -f FILE{where}")
    once, dropped = unique(found)
    if dropped:
        hosts_ = "host" if dropped == 1 else "hosts"
        click.echo(f"ssh-service: {dropped} duplicate {hosts_} ignored", err=True)
    return once


def _file_name(name: str) -> str:
    return "standard input" if name == "-" else name


def _read_hosts(name: str) -> List[str]:
    try:
        if name == "-":
            lines = sys.stdin.read().splitlines()
        else:
            with open(name, encoding="utf-8", errors="replace") as file:
                lines = file.read().splitlines()
    except OSError as error:
        raise click.UsageError(f"{_file_name(name)}: {error.strerror or error}") from error
    found: List[str] = []
    for number, line in enumerate(lines, 1):
        pattern = line.split("#", 1)[0].strip()
        if pattern:
            try:
                found += expand(pattern)
            except SshConfigError as error:
                text = in_options(str(error))
                raise click.UsageError(f"{_file_name(name)}:{number}: {text}") from error
    return found


def check_parallel(parallel: int, count: int, what: str) -> None:
    """
    Raise an error if ``-p`` seems to be a port, as for ssh; here it means ``--parallel``.

    Raises
    ------
    click.UsageError
        The value exceeds `count`, and is in the range of ports.
    """
    if parallel > count and parallel in _PORT_NUMBERS:
        raise click.UsageError(
            f"-p {parallel} means {parallel} {what} at once, of {count}; the port is -P {parallel}"
        )


def connect_parameters(
    options: Mapping[str, Any], hosts: Sequence[str], *, ask: bool = True
) -> Dict[str, Any]:
    """
    Return the connect parameters for the options of a connection.

    `hosts` is for the prompt of ``--ask-password``; unless `ask`, nothing is asked.

    Raises
    ------
    click.UsageError
        A file does not exist, a jump host is invalid, or there is no terminal to ask on.
    """
    config = options["config"]
    host_key, keys = options.get("host_key"), options.get("keys", ())
    found: Dict[str, Any] = {}
    if host_key == "off":
        found.update(known_hosts=None, host_key_policy="off")
    elif host_key:
        found["host_key_policy"] = host_key
    for key in keys:
        if not os.path.isfile(expand_home(key)):
            raise click.UsageError(f"--key {key}: no such file")
    if keys:
        found["client_keys"] = [expand_home(key) for key in keys]
    if options["user"] is not None:
        found["username"] = _checked_user(options["user"])
    if options["port"] is not None:
        found["port"] = options["port"]
    if config == "none":
        found["config"] = None
    elif config is not None:
        path = expand_home(config)
        if not os.path.exists(path) or os.path.isdir(path):
            raise click.UsageError(f"--config {config}: no such file")
        found["config"] = [config]
    if options["jump"] is not None:
        found["tunnel"] = _jump_hosts(options["jump"])
    if options.get("ask_password") and ask:
        whose = _whom(options["user"], hosts)
        found["password"] = ask_secret("--ask-password", f"Password for {whose}: ")
    return found


def sudo_parameters(options: Mapping[str, Any], hosts: Sequence[str]) -> Dict[str, Any]:
    """
    Return the keyword arguments for the options of sudo; this may ask for the password.

    Raises
    ------
    click.UsageError
        There is no terminal to ask on.
    """
    user = options["sudo_user"]
    if user is not None and not is_user(user):
        raise click.UsageError(f"--sudo-user: expected a user's name, got {user!r}")
    asks = options["ask_sudo_password"]
    found: Dict[str, Any] = {"sudo": options["sudo"] or asks if user is None else user}
    if asks:
        whose = _whom(options["user"], hosts)
        found["sudo_password"] = ask_secret(
            "--ask-sudo-password", f"Password for sudo on {whose}: "
        )
    return found


def _checked_user(name: str) -> str:
    try:
        params.resolve({"host": "host", "username": name, "config": None})
    except SshConfigError as error:
        raise click.UsageError(str(error).replace("username", "--user", 1)) from error
    return name


def _jump_hosts(text: str) -> str:
    for host in text.split(","):
        try:
            parse(host)
        except SshConfigError as error:
            raise click.UsageError(f"--jump: {in_options(str(error))}") from error
    return text


def _whom(user: Optional[str], hosts: Sequence[str]) -> str:
    if len(hosts) > 1:
        return f"{len(hosts)} hosts"
    (host,) = hosts
    return f"{user}@{host}" if user is not None and "@" not in host else host
