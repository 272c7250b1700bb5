"""The folder that a script runs in: any login shell enters it, or nothing runs."""

from __future__ import annotations

import errno
import os
import re
from typing import Dict, Optional, Tuple

from ssh_service.commands.marks import Marks
from ssh_service.commands.script import check_text, quote_for_any_shell
from ssh_service.errors import SshConfigError, SshCwdError, cwd_error, kind_of_path

_HOME = re.compile(r"~([A-Za-z0-9._][A-Za-z0-9._@-]*)?\Z")
# Writes a mark with the reason unless the folder can be entered and, with `{same}`, is the current
# one.  Another process judges, because shells differ: csh goes on with the next line after a `cd`
# that failed, and zsh ends at once if `~user` is unknown.
_CHECK = (
    "h=$(pwd -P);t=$(cd {folder} 2>/dev/null&&pwd -P){same}&&exit;"
    "w=denied;[ -d {folder} ]||w=file;[ -e {folder} ]||w=missing;"
    'printf "{mark}%s>" $w >&2;exit 1'
)
_SAME = '&&[ "$h" = "$t" ]'
# Ends a restricted shell, such as rbash, which can neither start /bin/sh nor replace itself.
_RESTRICTED = 'printf "{mark}restricted>" >&2;exit 126'
_REASONS: Dict[bytes, Tuple[int, str]] = {
    b"missing": (errno.ENOENT, "does not exist"),
    b"file": (errno.ENOTDIR, "is not a folder"),
    b"denied": (errno.EACCES, "may not be entered"),
    b"restricted": (errno.EACCES, "cannot be entered: the login shell is restricted"),
}


def check_cwd(cwd: object) -> str:
    """
    Return the path of a folder to run in.

    Raises
    ------
    SshConfigError
        `cwd` is not an absolute path, and does not begin with ``~`` or ``~user``.
    """
    if isinstance(cwd, os.PathLike):
        cwd = os.fspath(cwd)
    if not isinstance(cwd, str):
        raise SshConfigError(f"cwd: expected a path on the server, got {kind_of_path(cwd)}")
    if "\0" in cwd or "\n" in cwd:
        raise SshConfigError(f"cwd: a path cannot contain NUL or a line end, got {cwd!r:.80}")
    check_text("cwd", cwd)
    if not cwd.startswith("/") and not _HOME.match(cwd.partition("/")[0]):
        raise SshConfigError(
            "cwd: expected an absolute path, or one that begins with '~' or '~user',"
            f" got {cwd!r:.80}"
        )
    return cwd


class WorkingDirectory:
    """
    Has a script run in a folder, and reports why that is impossible.

    The first lines of the script enter the folder; they are valid in sh, bash, zsh, csh and fish.
    If that fails, they write a mark with the reason, which is removed from the output, and end the
    shell.  The server needs ``/bin/sh``.

    Parameters
    ----------
    cwd : str
        The path, as `check_cwd` returns it.

    Notes
    -----
    Thread safety.  `strip`, `flush` and `error` must be called on the reader thread.
    """

    def __init__(self, cwd: str) -> None:
        self._cwd = cwd
        self._marks = Marks()
        self._reason: Optional[bytes] = None

    def enter(self, script: str) -> str:
        """Return the script, preceded by the lines that enter the folder."""
        folder = _as_word(self._cwd)
        check = _CHECK.replace("{folder}", folder)
        lines = [f"cd {folder}", self._or_end(check.replace("{same}", _SAME))]
        if self._cwd.partition("/")[0] not in ("", "~"):  # a user's name, which may be unknown
            lines.insert(0, self._or_end(check.replace("{same}", "")))
        return "\n".join([*lines, script])

    def _or_end(self, check: str) -> str:
        """Return a line that ends the shell, whichever it is, unless the check succeeds."""
        check, restricted = (
            quote_for_any_shell(text.replace("{mark}", self._marks.start))
            for text in (check, _RESTRICTED)
        )
        return f'/bin/sh -c {check} || exec /bin/sh -c "exit 126" || eval {restricted}'

    def strip(self, chunk: bytes) -> bytes:
        """Remove the mark from a chunk of output; hold back a possible beginning of the mark."""
        shown, words = self._marks.extract(chunk)
        for word in words:
            self._reason = self._reason or word
        return shown

    def flush(self) -> bytes:
        """Return the bytes that were held back; call this at the end of the output."""
        return self._marks.flush()

    def error(self, connection_id: str) -> Optional[SshCwdError]:
        """Return the error if the folder could not be entered, and None if it could."""
        if self._reason is None:
            return None
        code, text = _REASONS.get(self._reason, _REASONS[b"denied"])
        return cwd_error(code, self._cwd, text, connection_id)


def _as_word(path: str) -> str:
    """Return a path as a word for any shell; ``~`` and ``~user`` are left to be expanded."""
    if not path.startswith("~"):
        return quote_for_any_shell(path)
    home, slash, rest = path.partition("/")
    return home + slash + (quote_for_any_shell(rest) if rest else "")
