"""What the command line sends to the hosts: a command or a script, variables, and the input."""

from __future__ import annotations

import os
import secrets
import shlex
import sys
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence

import click

from ssh_service.commands.script import check_environment
from ssh_service.errors import SshConfigError
from ssh_service.user_files import expand_home

__all__ = ["CommandToRun", "command_of"]

# Reads a script without a first line that names an interpreter, as execvp(3) does.
_DEFAULT_INTERPRETER = "/bin/sh"


class CommandToRun(NamedTuple):
    """What to run on every host."""

    text: str
    shell: Optional[str]
    env: Dict[str, str]
    stdin: bytes
    # For a dry run.
    description: str
    # The words of one command, in place of `text`.
    args: Optional[List[str]] = None

    def arguments(self) -> Dict[str, Any]:
        """Return the keyword arguments for `fleet.run` and `start_job`, without the script."""
        return {"shell": self.shell, "env": self.env, "stdin": self.stdin}


def command_of(
    words: Sequence[str],
    options: Mapping[str, Any],
    *,
    shell: Optional[str] = None,
    as_args: bool = False,
) -> CommandToRun:
    """
    Return the command that the words, ``--script``, ``--env`` and ``--stdin`` describe.

    With `as_args`, the words are one command, which no shell interprets.

    Raises
    ------
    click.UsageError
        A file cannot be read, a variable is invalid, or two options read standard input.
    """
    script, stdin = options["script"], options["stdin"]
    readers = [f"-f {name}" for name in options["files"] if name == "-"]
    readers += [f"--{name} -" for name in ("script", "stdin") if options[name] == "-"]
    if len(readers) > 1:
        raise click.UsageError(f"standard input can be read only once: {' and '.join(readers)}")
    env = _environment(options["env"])
    data = b"" if stdin is None else _read("--stdin", stdin)
    if as_args:
        if script is not None:
            raise click.UsageError("--args, --script: give at most one of them")
        quoted = " ".join(map(shlex.quote, words))
        return CommandToRun(quoted, shell, env, data, quoted, list(words))
    if script is None:
        text = " ".join(words)
        return CommandToRun(text, shell, env, data, text)
    if shell is not None:
        raise click.UsageError("--script, --shell: the script's first line names its interpreter")
    text = _run_script(_read_script(script), words)
    return CommandToRun(text, "/bin/sh", env, data, " ".join([script, *map(shlex.quote, words)]))


def _environment(values: Sequence[str]) -> Dict[str, str]:
    found = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not equals:
            try:
                value = os.environ[name]
            except KeyError:
                raise click.UsageError(
                    f"--env {name}: there is no such variable here; give its value with"
                    f" {name}=VALUE"
                ) from None
        found[name] = value
    try:
        return dict(check_environment(found))
    except SshConfigError as error:
        raise click.UsageError(f"--env: {error}") from error


def _read(option: str, name: str) -> bytes:
    try:
        if name == "-":
            return sys.stdin.buffer.read()
        with open(expand_home(name), "rb") as file:
            return file.read()
    except OSError as error:
        raise click.UsageError(f"{option} {name}: {error.strerror or error}") from error


def _read_script(name: str) -> str:
    data = _read("--script", name)
    if b"\0" in data:
        raise click.UsageError(
            f"--script {name}: expected a text; a program can be copied with `ssh-service upload`"
        )
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise click.UsageError(f"--script {name}: expected UTF-8: {error}") from error


def _run_script(text: str, words: Sequence[str]) -> str:
    # From a here-document, so that no file is left behind on the host, and the script's standard
    # input is that of --stdin.
    end = f"SCRIPT_{secrets.token_hex(8)}"
    command: List[str] = [*_interpreter(text), "/dev/fd/3", *words]
    quoted = " ".join(map(shlex.quote, command))
    return f"exec {quoted} 3<<'{end}'\n{text.rstrip(chr(10))}\n{end}"


def _interpreter(text: str) -> List[str]:
    """Return the interpreter with its argument, of which Linux takes at most one."""
    first = text.split("\n", 1)[0]
    words = first[2:].strip().split(None, 1) if first.startswith("#!") else []
    return words or [_DEFAULT_INTERPRETER]
