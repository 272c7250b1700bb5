"""Shell completion: the scripts, and the hosts in ``~/.ssh/config``."""

from __future__ import annotations

from typing import List

import click

from ssh_service.user_files import expand_home, read_file

__all__ = ["VARIABLE", "hosts", "script"]

VARIABLE = "_SSH_SERVICE_COMPLETE"


def script(command: click.Command, shell: str) -> str:
    """Return the completion script for a shell."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"no completion for {shell}")
    # For bash, `source` runs bash to determine its version, and prints an error if it is too old.
    return kind(command, {}, "ssh-service", VARIABLE).source()


def hosts(context: click.Context, parameter: click.Parameter, incomplete: str) -> List[str]:
    """Complete a host from ``~/.ssh/config``; a preceding ``USER@`` is kept."""
    user, at, begin = incomplete.rpartition("@")
    return [f"{user}{at}{name}" for name in _configured_hosts() if name.startswith(begin)]


def _configured_hosts() -> List[str]:
    names: List[str] = []
    try:
        for line in read_file(expand_home("~/.ssh/config")).decode("utf-8", "replace").split("\n"):
            word, *rest = line.replace("=", " ", 1).split() or [""]
            if word.lower() == "host":
                names += [name for name in rest if not set(name) & set("*?!#")]
    except OSError:
        pass  # no hosts to offer
    return list(dict.fromkeys(names))
