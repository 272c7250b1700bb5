"""How a script is sent to the server: pure functions from text and environment to bytes."""

from __future__ import annotations

import collections.abc
import os
import re
import shlex
from typing import Any, Callable, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Union

from ssh_service import known_servers
from ssh_service.errors import SshConfigError, kind_of_path

Script = Union[str, Iterable[str]]
StrPath = Union[str, "os.PathLike[str]"]

_SCRIPT_LIMIT = 16 * 1024 * 1024
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")

# Reads one line from stdin and runs it, using only builtins.  The command itself is one line
# without a single quote, a backslash or an exclamation mark, so that csh and fish can pass it to
# another shell.  Its first two commands set the first positional parameter to a newline, taken
# from the shell's own IFS (to which zsh adds a NUL).
READ_AND_RUN = (
    '_ssh_n=${IFS#??};set -- "${_ssh_n%"${_ssh_n#?}"}";IFS= read -r _ssh_s;eval "$_ssh_s"'
)
# Characters of a program per shell word: in zsh, a word's cost grows with the square of its size.
_WORD_SIZE = 4096
_SPECIAL = re.compile(r'([\\"$`])')
_NEWLINE = re.compile(r"\n(?![0-9:[])")
_LINE_END = re.compile(r"\r?\n")
# The name of a command without arguments: neither a comment nor a variable.
_ONE_WORD = re.compile(r"[^\s#=]+\Z")
_NO_POSIX_SHELL = re.compile(r"(?:\A|/)(?:fish|t?csh)\Z")
# A word that was quoted by one of our functions, and what stands for a special character in it.
_QUOTED = re.compile(r"'((?:[^']|'\\[\\'!]')*)'(?: |\Z)")
_ESCAPED = re.compile(r"'\\([\\'!])'")
# Characters that are special within single quotes in some shell: any, fish, or csh.
_SPECIAL_IN_QUOTES = re.compile(r"(['\\!])")


class Delivery(NamedTuple):
    """
    The bytes that are sent to run a script.

    Attributes
    ----------
    command : bytes
        The command of the exec request.
    preamble : bytes
        The first bytes of stdin, before the caller's.
    direct : Optional[bytes]
        A longer command for the exec request, which needs no preamble, for servers that accept
        one of its length; None: there is no such alternative.
    """

    command: bytes
    preamble: bytes
    direct: Optional[bytes] = None

    def for_server(self, version: str) -> "Delivery":
        """Return the form that a server with this version string accepts."""
        direct = self.direct
        if direct is not None and len(direct) <= known_servers.exec_limit(version):
            return Delivery(direct, b"")
        return self


def one_script(script: Optional[Script], args: Optional[Sequence[Any]]) -> Script:
    """
    Return `script`, or a script that runs the command in `args`.

    Each shell takes the words of a command as they are, unless one has a line end: only a POSIX
    shell takes that.

    Raises
    ------
    SshConfigError
        Neither or both are given, or `args` is not a command with its arguments.
    """
    if args is None:
        if script is None:
            raise SshConfigError("script: missing; expected a text, lines, or args=[...]")
        return script
    if script is not None:
        raise SshConfigError("script, args: give script or args, not both")
    if isinstance(args, (str, bytes)) or not isinstance(args, collections.abc.Iterable):
        kind = type(args).__name__
        raise SshConfigError(f"args: expected a list such as ['ls', '-l'], got {kind}")
    words = []
    for number, word in enumerate(args, 1):
        if isinstance(word, os.PathLike):
            word = os.fspath(word)
        if not isinstance(word, str):
            got = kind_of_path(word)
            raise SshConfigError(f"args: item {number}: expected str or a path, got {got}")
        if "\0" in word:
            text = "an argument cannot contain a NUL character"
            raise SshConfigError(f"args: item {number}: {text}")
        check_text(f"args: item {number}", word)
        words.append(word)
    if not words or not words[0]:
        raise SshConfigError("args: the command is missing; expected a list such as ['ls', '-l']")
    return " ".join(quote(word) if "\n" in word else quote_for_any_shell(word) for word in words)


def resembles_args(script: Optional[Script]) -> bool:
    """Return whether a script is a list that looks like one command with its arguments."""
    return (
        isinstance(script, (list, tuple))
        and len(script) > 1
        and isinstance(script[0], str)
        and _ONE_WORD.match(script[0]) is not None
    )


def join(script: Script, is_command: bool = False) -> str:
    """
    Return a script as one text, with its lines joined.

    `is_command`: it is a command of `one_script`, whose line ends are part of its arguments.

    Raises
    ------
    SshConfigError
        `script` has another type, is too long, or contains a NUL character or a lone surrogate.
    """
    if isinstance(script, (bytes, bytearray)):  # iterable, but the items are integers
        raise _wrong_type(script)
    if isinstance(script, collections.abc.Mapping):
        kind = type(script).__name__
        raise SshConfigError(f"script: expected a text or lines, got {kind}; variables go to env=")
    if isinstance(script, (set, frozenset)):
        kind = type(script).__name__
        raise SshConfigError(f"script: expected a text or lines, got {kind}, which has no order")
    try:
        items = [script] if isinstance(script, str) else list(script)
    except TypeError:
        raise _wrong_type(script) from None
    lines: List[str] = []
    for number, item in enumerate(items, 1):
        if not isinstance(item, str):
            got = type(item).__name__
            raise SshConfigError(f"script: item {number}: expected str, got {got}")
        lines += [item] if is_command else _lines(item)
    text = "\n".join(lines)
    if "\0" in text:
        raise SshConfigError("script: a NUL character cannot be sent to a shell")
    size = len(_encode(text, "script"))
    if size > _SCRIPT_LIMIT:
        raise SshConfigError(f"script: {size} bytes are too many; at most {_SCRIPT_LIMIT}")
    return text


def _lines(item: str) -> List[str]:
    """Split an item into lines; a line end at the very end of it does not begin another line."""
    lines = _LINE_END.split(item) if "\n" in item else [item]
    if len(lines) > 1 and not lines[-1]:
        lines.pop()
    return lines


def is_empty(text: str) -> bool:
    """Return whether a script has nothing to run."""
    return not text.strip(" \t\n")


def _wrong_type(value: object) -> SshConfigError:
    return SshConfigError(
        f"script: expected a str or an iterable of str, got {type(value).__name__}"
    )


def check_environment(env: Optional[Mapping[str, Any]]) -> Mapping[str, str]:
    """
    Return environment variables with their values converted to text.

    Raises
    ------
    SshConfigError
        A name is not valid for a shell variable, or a value cannot be sent.  The message does not
        show the value.
    """
    if env is not None and not isinstance(env, Mapping):
        raise SshConfigError(f"env: expected a mapping, got {type(env).__name__}")
    checked = {}
    for name, value in (env or {}).items():
        if not isinstance(name, str) or not _NAME.match(name):
            raise SshConfigError(
                f"environment variable {name!r}: a name consists of letters, digits and '_', and"
                " does not begin with a digit"
            )
        if value is None:
            raise SshConfigError(
                f"environment variable {name!r}: None is not a value; leave the variable out, or"
                " give '' for an empty one"
            )
        if isinstance(value, (bytes, bytearray)):
            raise SshConfigError(
                f"environment variable {name!r}: expected text or a number, got"
                f" {type(value).__name__}; decode it first"
            )
        text = str(value)
        if "\0" in text:
            raise SshConfigError(f"environment variable {name!r}: its value holds a NUL character")
        _encode(text, f"environment variable {name!r}")
        checked[name] = text
    return checked


def needs_posix_shell(command: str, env: Mapping[str, str]) -> bool:
    """Return whether a command of `one_script` can only be run by a POSIX shell."""
    return bool(env) or "\n" in command or len(_encode(command)) > known_servers.EXEC_LIMIT


def check_posix_shell(shell: str) -> None:
    """
    Refuse a shell that is known not to be a POSIX shell.

    Raises
    ------
    SshConfigError
        It is csh or fish.
    """
    if _NO_POSIX_SHELL.search(shell):
        raise SshConfigError(f"shell: expected a POSIX shell such as '/bin/sh', got {shell!r}")


def deliver(
    script: str,
    env: Optional[Mapping[str, str]] = None,
    shell: Optional[str] = None,
    prologue: Callable[[], str] = str,
    before: str = "",
    always_stdin: bool = False,
    wrap: Optional[Callable[[str], str]] = None,
) -> Delivery:
    """
    Return the bytes to send so that the server runs a script.

    Parameters
    ----------
    script : str
        The script.
    env : Optional[Mapping[str, str]]
        Environment variables, which the script exports.
    shell : Optional[str]
        Path of the shell that runs the script; None: the user's login shell.
    prologue : Callable[[], str]
        Returns commands that run before the script; called only if the script goes over stdin.
    before : str
        Commands that the shell runs before it reads the script from stdin.
    always_stdin : bool
        Whether to send the script over stdin even if it fits into the exec request.
    wrap : Optional[Callable[[str], str]]
        Returns the command that has a shell run the commands which read the script; it replaces
        `shell`, and the script goes over stdin.

    Raises
    ------
    SshConfigError
        `shell` is not the path of a POSIX shell.
    """
    # (A server ends the whole connection if an exec request contains a NUL character.)
    if shell is not None and (not isinstance(shell, str) or not shell or "\0" in shell):
        raise SshConfigError(f"shell: expected a path on the server, got {shell!r}")
    check_text("shell", shell or "")
    if shell is not None and wrap is None:
        check_posix_shell(shell)
    direct: Optional[bytes] = None
    short = not env and shell is None and not always_stdin and wrap is None
    if short and len(script) <= known_servers.OPENSSH_EXEC_LIMIT:
        data = _encode(script)
        if len(data) <= known_servers.EXEC_LIMIT:
            return Delivery(data, b"")
        direct = data if len(data) <= known_servers.OPENSSH_EXEC_LIMIT else None
    command = before + READ_AND_RUN
    if wrap is not None:
        command = wrap(command)
    elif shell is not None:
        command = f"exec {shlex.quote(shell)} -c '{command}'"
    else:  # fish fails to parse it, and would report success without `eval`
        command = f"eval '{command}'"
    exports = "".join(f"export {name}={quote(value)}\n" for name, value in (env or {}).items())
    # (After a value of many kilobytes was exported, no program can be started any more.)
    program = f"set --;unset _ssh_n _ssh_s;{prologue()}\n{exports}{script}"
    return Delivery(_encode(command), _encode(_evaluate(program)), direct)


def _evaluate(program: str) -> str:
    """Return a line that evaluates a program, which is split into words if it is long."""
    if len(program) <= _WORD_SIZE:
        return f'eval "{_on_one_line(program)}"\n'
    program = f"IFS=$_ssh_i;unset _ssh_i;{program}"
    parts = [program[at : at + _WORD_SIZE] for at in range(0, len(program), _WORD_SIZE)]
    words = " ".join(f'"{_on_one_line(part)}"' for part in parts)
    # With an empty IFS, `$*` joins the words without a separator.
    return f'_ssh_i=$IFS;IFS=;set -- {words};eval "$*"\n'


def _on_one_line(program: str) -> str:
    """
    Return a program for use in double quotes, with each newline as the first parameter.

    Measurements show that in bash, this is the only form whose cost does not grow with the square
    of the length; that of ``'a'"$n"'b'`` and ``${n}`` does.  ``${1}`` is used if the next
    character would be taken as part of ``$1`` (a digit, or in zsh a subscript or a modifier).
    """
    return _NEWLINE.sub("$1", _SPECIAL.sub(r"\\\1", program)).replace("\n", "${1}")


def quote(text: str) -> str:
    """Quote a text for a POSIX shell."""
    return "'" + text.replace("'", "'\\''") + "'"


def unquote(words: str) -> List[str]:
    """Return words that were quoted by `one_script`."""
    return [_ESCAPED.sub(r"\1", word) for word in _QUOTED.findall(words)]


def quote_for_any_shell(text: str) -> str:
    """Quote a text of one line for sh, csh and fish alike."""
    return "'" + _SPECIAL_IN_QUOTES.sub(r"'\\\1'", text) + "'"


def check_text(what: str, text: str) -> None:
    """
    Refuse a text that cannot be sent.

    Raises
    ------
    SshConfigError
        The text contains a lone surrogate that does not stand for a byte.
    """
    _encode(text, what)


def _encode(text: str, what: str = "script") -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # its message would show the whole text
        raise SshConfigError(f"{what}: a lone surrogate cannot be encoded in UTF-8") from None
