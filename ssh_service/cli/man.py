"""The manual page, built from the help of all commands."""

from __future__ import annotations

import inspect
from typing import Iterator, List, Tuple

import click

__all__ = ["manual_page"]

_END = r"""
.SH FILES
.TP
\fI~/.ssh/config\fR, \fI/etc/ssh/ssh_config\fR
Users, addresses, ports, keys and jump hosts; see \fBssh_config\fR(5).
.TP
\fI~/.ssh/known_hosts\fR, \fI/etc/ssh/ssh_known_hosts\fR
The keys of hosts.
.SH ENVIRONMENT
.TP
.B SSH_AUTH_SOCK
The socket of the agent that holds keys.
.TP
.B NO_COLOR
If it is set, and not empty, the output has no colours.
.SH SEE ALSO
.BR ssh (1),
.BR ssh_config (5)
"""


def manual_page(root: click.Command, program: str, version: str) -> str:
    """Return the manual page of a program, for ``man -l``."""
    context = click.Context(root, info_name=program, **(root.context_settings or {}))
    first, rest = _summary_and_rest(root.help or "")
    name = _escape(program)
    pieces = [
        f'.TH {_escape(program.upper())} 1 "" "{_escape(program)} {_escape(version)}"\n',
        f".SH NAME\n{name} \\- {_escape(_lower(first))}\n",
        f".SH SYNOPSIS\n.B {name}\n.I COMMAND\n[\\fIARGUMENT\\fR...]\n",
        f".SH DESCRIPTION\n{_paragraphs(rest)}",
        _options(root, context),
        ".SH COMMANDS\n",
    ]
    for found in _commands(context):
        pieces += [
            f".SS {_escape(found.command_path)}\n",
            f"{_escape(_usage(found))}\n",
            _paragraphs(inspect.cleandoc(found.command.help or "")),
            _options(found.command, found),
        ]
    return "".join(pieces).rstrip("\n") + _END


def _commands(context: click.Context) -> Iterator[click.Context]:
    """Yield a context for each command, in the order of the help."""
    group = context.command
    if not isinstance(group, click.Group):
        return
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is not None and not command.hidden:
            inner = click.Context(command, parent=context, info_name=name)
            yield inner
            yield from _commands(inner)


def _usage(context: click.Context) -> str:
    return " ".join([context.command_path, *context.command.collect_usage_pieces(context)])


def _options(command: click.Command, context: click.Context) -> str:
    records: List[Tuple[str, str]] = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            records.append(record)
    return "".join(f".TP\n.B {_escape(names)}\n{_escape(text)}\n" for names, text in records)


def _summary_and_rest(text: str) -> Tuple[str, str]:
    first, _, rest = inspect.cleandoc(text).partition("\n\n")
    return " ".join(first.split()).rstrip("."), rest


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _paragraphs(text: str) -> str:
    """Return paragraphs, of which those that begin with a backspace keep their lines."""
    found = []
    for paragraph in text.split("\n\n"):
        lines = paragraph.strip("\n").split("\n")
        if lines[0].strip() == "\b":
            found.append(".PP\n.RS 4\n.nf\n" + "".join(map(_line, lines[1:])) + ".fi\n.RE\n")
        elif any(lines):
            found.append(".PP\n" + "".join(map(_line, lines)))
    return "".join(found)


def _line(text: str) -> str:
    return f"{_escape(text)}\n"


def _escape(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("~", "\\(ti")
    text = text.replace("'", "\\(aq").replace("^", "\\(ha").replace("`", "\\(ga")
    return f"\\&{text}" if text.startswith(".") else text
