"""The manual page, built from the help of all commands."""

from __future__ import annotations

import inspect
from typing import Iterable, Iterator, List, Tuple

import click

__all__ = ["manual_page"]

_EXIT_STATUS = "Exit status: "
_ENVIRONMENT_AND_FILES = r""".SH ENVIRONMENT
.TP
.B SSH_AUTH_SOCK
The socket of the agent that holds keys.
.TP
.B NO_COLOR
If it is set, and not empty, the output has no colours.
.SH FILES
.TP
\fI~/.ssh/config\fR, \fI/etc/ssh/ssh_config\fR
Users, addresses, ports, keys and jump hosts; see \fBssh_config\fR(5).
.TP
\fI~/.ssh/known_hosts\fR, \fI/etc/ssh/ssh_known_hosts\fR
The keys of hosts.
"""
_SEE_ALSO = r""".SH SEE ALSO
.BR ssh (1),
.BR scp (1),
.BR ssh_config (5)
"""


def manual_page(root: click.Command, program: str, version: str) -> str:
    """Return the manual page of a program, for ``man -l``; its sections are man-pages(7)'s."""
    context = click.Context(root, info_name=program, **(root.context_settings or {}))
    first, rest = _summary_and_rest(root.help or "")
    paragraphs = rest.split("\n\n")
    examples = [text for text in paragraphs if text.startswith("\b")]
    (statuses,) = [text for text in paragraphs if text.startswith(_EXIT_STATUS)]
    description = [text for text in paragraphs if text not in (*examples, statuses)]
    name = _escape(program)
    pieces = [
        f'.TH {_escape(program.upper())} 1 "" "{_escape(program)} {_escape(version)}"'
        ' "User Commands"\n',
        f".SH NAME\n{name} \\- {_escape(_lower(first))}\n",
        f".SH SYNOPSIS\n.B {name}\n.I COMMAND\n[\\fIARGUMENT\\fR...]\n",
        f".SH DESCRIPTION\n{_paragraphs(description)}",
        f".SH OPTIONS\n{_options(root, context)}",
        ".SH COMMANDS\n",
    ]
    for found in _commands(context):
        pieces += [
            f".SS {_escape(found.command_path)}\n",
            f"{_escape(_usage(found))}\n",
            _paragraphs(inspect.cleandoc(found.command.help or "").split("\n\n")),
            _options(found.command, found),
        ]
    pieces += [
        f".SH EXIT STATUS\n{_statuses(statuses)}",
        _ENVIRONMENT_AND_FILES,
        f".SH EXAMPLES\n{_paragraphs(examples)}",
        _SEE_ALSO,
    ]
    return "".join(pieces)


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
    pieces = context.command.collect_usage_pieces(context)
    return " ".join([context.command_path, *filter(None, pieces)])


def _options(command: click.Command, context: click.Context) -> str:
    records: List[Tuple[str, str]] = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and record[1]:  # some versions of click have arguments here
            records.append(record)
    return "".join(f".TP\n.B {_escape(names)}\n{_escape(text)}\n" for names, text in records)


def _summary_and_rest(text: str) -> Tuple[str, str]:
    first, _, rest = inspect.cleandoc(text).partition("\n\n")
    return " ".join(first.split()).rstrip("."), rest


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _statuses(text: str) -> str:
    """Return a list of the exit statuses in a text such as ``0 success, 1 failure.``."""
    entries = " ".join(text[len(_EXIT_STATUS) :].split()).rstrip(".").split(", ")
    pairs = (entry.split(" ", 1) for entry in entries)
    return "".join(f".TP\n.B {number}\n{_escape(meaning)}\n" for number, meaning in pairs)


def _paragraphs(texts: Iterable[str]) -> str:
    """Return paragraphs, of which those that begin with a backspace keep their lines."""
    found = []
    for paragraph in texts:
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
