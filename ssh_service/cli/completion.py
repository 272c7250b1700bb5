"""Shell completion: the scripts, and the hosts that the user's files name."""

from __future__ import annotations

import glob
import os
import re
from typing import Any, Iterator, List, Tuple

import click

from ssh_service.user_files import expand_home, read_file, system_folder

__all__ = ["VARIABLE", "hosts", "prepare", "script"]

VARIABLE = "_SSH_SERVICE_COMPLETE"

# ssh's own limit for files that include files.
_MAX_INCLUDE_DEPTH = 16
# The maximum number of hosts of a range that are offered.
_MAX_OF_RANGE = 1000
# A host that is offered: a shell would show the control characters of any other name as they are,
# or run what is in it, and what begins with "-" is an option.
_OFFERED = re.compile(r"[\w.:][\w.:%+@-]*\Z")

# click takes the words from bash, which ends a word at @, : and =, as in root@web:22.  Here, the
# text up to the cursor is completed; bash replaces only the end of its last word, which is $2.
_BASH = """\
%(complete_func)s() {
    local line=${COMP_LINE:0:COMP_POINT} before type value
    before=${line##*[[:space:]]}
    before=${before%%"$2"}
    COMPREPLY=()
    while IFS=, read -r type value; do
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("${value#"$before"}") ;;
        esac
    done < <(env COMP_WORDS="$line" %(complete_var)s=bash_complete "$1")
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


def prepare() -> None:
    """Let click use this module's scripts for bash and fish."""
    from click.shell_completion import (
        BashComplete,
        FishComplete,
        add_completion_class,
        split_arg_string,
    )

    class _BashComplete(BashComplete):
        source_template = _BASH

        def get_completion_args(self) -> Tuple[List[str], str]:
            line = os.environ["COMP_WORDS"]
            words = split_arg_string(line)
            incomplete = "" if line[-1:].isspace() or len(words) < 2 else words.pop()
            return words[1:], incomplete

    class _FishComplete(FishComplete):
        # click's script ends a description at its first comma.
        source_template = FishComplete.source_template.replace(
            'string split ","', 'string split --max 1 ","'
        )

    add_completion_class(_BashComplete, "bash")
    add_completion_class(_FishComplete, "fish")


def script(command: click.Command, shell: str) -> str:
    """Return the completion script for a shell."""
    from click.shell_completion import get_completion_class

    prepare()
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"no completion for {shell}")
    # For bash, `source` runs bash to determine its version, and prints an error if it is too old.
    return kind(command, {}, "ssh-service", VARIABLE).source()


def hosts(context: click.Context, parameter: click.Parameter, incomplete: str) -> List[str]:
    """
    Complete a host; a preceding ``USER@`` is kept.

    The hosts are those of ssh_config, known_hosts, and the files given with ``-f``.
    """
    user, at, begin = incomplete.rpartition("@")
    names = dict.fromkeys([*_listed(context), *_configured(context), *_known()])
    return [
        f"{user}{at}{name}" for name in names if name.startswith(begin) and _OFFERED.match(name)
    ]


def _lines(path: str) -> List[str]:
    try:
        return read_file(expand_home(path)).decode("utf-8", "replace").split("\n")
    except (OSError, ValueError):
        return []  # no hosts to offer


def _listed(context: click.Context) -> Iterator[str]:
    """Yield the hosts in the files of ``-f``."""
    for path in context.params.get("files") or ():
        for line in _lines(path) if path != "-" else ():
            name = line.split("#", 1)[0].strip()
            if "[" in name:
                yield from _expanded(name)
            elif name:
                yield name.rpartition("@")[2]


def _expanded(pattern: str) -> List[str]:
    from ssh_service.errors import SshConfigError  # imports paramiko, which takes a while
    from ssh_service.fleet.hosts import expand

    try:
        return [name.rpartition("@")[2] for name in expand(pattern)[:_MAX_OF_RANGE]]
    except SshConfigError:
        return []


def _configured(context: click.Context) -> Iterator[str]:
    """Yield the hosts of ssh_config that have a name of their own."""
    given: Any = context.params.get("config")
    if given == "none":
        return
    yield from _of_config(given or "~/.ssh/config", 0)
    if not given:
        yield from _of_config(os.path.join(system_folder(), "ssh_config"), 0)


def _of_config(path: str, depth: int) -> Iterator[str]:
    for line in _lines(path) if depth <= _MAX_INCLUDE_DEPTH else ():
        word, *rest = line.replace("=", " ", 1).replace('"', "").split() or [""]
        if word.lower() == "host":
            yield from (name for name in rest if not set(name) & set("*?!#"))
        elif word.lower() == "include":
            is_systems = path.startswith(system_folder() + os.sep)
            folder = system_folder() if is_systems else expand_home("~/.ssh")
            for pattern in rest:
                for found in sorted(glob.glob(os.path.join(folder, expand_home(pattern)))):
                    yield from _of_config(found, depth + 1)


def _known() -> Iterator[str]:
    """Yield the hosts of known_hosts that are not hashed."""
    for line in _lines("~/.ssh/known_hosts"):
        words = line.split()
        if words and not words[0].startswith(("#", "@", "|")):
            for name in words[0].split(","):
                if not set(name) & set("*?!"):
                    yield name.replace("[", "").replace("]", "")
