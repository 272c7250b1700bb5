"""How a command is run by sudo: the options that users pass, and the commands for the shell."""

from __future__ import annotations

import re
from typing import Any, Callable, NamedTuple, Optional, Union

from ssh_service.commands.script import quote_for_any_shell
from ssh_service.errors import SshConfigError, SshSudoRefused
from ssh_service.secret import Secret

# A user's password, or a function that returns it.
SudoPassword = Union[str, bytes, Secret, Callable[[], Union[str, bytes, Secret]]]

_USER = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.@+-]*\Z|#[0-9]+\Z")
_NO_LINE = re.compile(r"[\0\r\n]")

# Runs the script `$0` in the shell `$1` or, without one, in the login shell.  The text is valid in
# single quotes in any shell, so it has no single quote, backslash or exclamation mark.
_SHELL = (
    "s=${1:-${SHELL:-/bin/sh}};"
    'case ${s##*/} in *csh|fish)printf "{start}shell>" >&2;exit 126;;esac;'
    'exec sudo {options} -- "$s" -c "$0"'
)
# Has sudo itself run a command.  (Not by `exec`: after `sudo -v`, sudo remembers the password for
# one parent process.)  The shell's own messages, such as those about a signal, would show the
# command; and a Ctrl-C is for the command alone.
_COMMAND = """\
command -v sudo >/dev/null || { echo "sudo: command not found" >&2; exit 1; }
_ssh_f() { sudo "$@"{user} -- {words}; }
set -- -n
{ask}{watch}exec 3>&2 2>/dev/null
trap : INT QUIT
_ssh_f "$@"{option} 2>&3 3>&-
_ssh_s=$?
{check}
exit $_ssh_s"""
# Asks for the password before that: only `sudo -v` reads it, so that it can never be mistaken for
# the command's input, nor the input for a password.  If sudo forgets it at once, the command can
# be run only if it has no input: then sudo asks again.
_ASK = """\
LC_ALL=C sudo -S -p "{start}ask>" -v{user} || exit
if LC_ALL=C sudo -n -v{user} 2>/dev/null; then
    printf "{start}ready>" >&2
else
    printf "{start}forgotten>" >&2
    set -- -S -p "{start}again>"
fi
IFS= read -r _ssh_s || exit 126
printf "{start}begin>" >&2
"""
# Reports whether sudo allows the command, with what sudo prints meanwhile, such as warnings: if
# the exit status is 1, it may be sudo's.
_CHECK = """\
if [ $_ssh_s = 1 ]; then
    printf "{start}check>" >&3
    if _ssh_f -n -l </dev/null >/dev/null 2>&3; then
        printf "{start}allowed>" >&3
    else
        printf "{start}denied>" >&3
    fi
fi"""
# Reports when the terminal is ready for the command's input, the end of file included: if sudo
# runs the command on another terminal (`use_pty`), only after it has made this one raw; if not, as
# soon as it has started something; and if no sudo can be seen, after a second.
_WATCH = """\
(
    IFS= read -r _l </proc/$$/stat
    set -- ${_l##*") "}
    session=$4 n=0
    while [ $n -lt 10 ]; do
        case $(stty -a </dev/tty) in *-icanon*) break ;; esac
        all=$(cat /proc/[0-9]*/stat | LC_ALL=C grep ") [A-Y] [0-9]* [0-9]* $session ")
        sudo=" "
        while IFS= read -r _l; do
            case $_l in *" (sudo) "*) sudo="$sudo${_l%% *} " ;; esac
        done <<END_OF_LIST
$all
END_OF_LIST
        while IFS= read -r _l; do
            set -- ${_l##*") "}
            case $sudo in *" $2 "*)
                case $_l in *" (sudo) "*) ;; *) n=10 ;; esac ;;
            esac
        done <<END_OF_LIST
$all
END_OF_LIST
        [ "$sudo" != " " ] || n=$((n + 1))
        sleep 0.1 || sleep 1
    done
    printf "{start}input>" >/dev/tty
) </dev/null >/dev/null 2>&1 &
"""


class Sudo(NamedTuple):
    """
    Whose rights a command gets from sudo.

    Attributes
    ----------
    user : Optional[str]
        The user whose rights the command gets; None: root.
    password : Union[None, Secret, Callable[[], Any]]
        The password that sudo may ask for, or a function that returns it; None: there is none.
    """

    user: Optional[str] = None
    password: Any = None

    def wrap(self, commands: str, shell: Optional[str], start: str) -> str:
        """
        Return the command, for any login shell, that has a shell run commands under sudo.

        `commands` have no single quote, backslash or exclamation mark.  `start` begins all marks.
        """
        asks = f'-S -p "{start}ask>"' if self.password is not None else "-n"
        outer = _SHELL.replace("{options}", asks + self._user('"')).replace("{start}", start)
        # (Not the mark itself: where sudo refuses a command, it prints it.)
        command = f"""exec /bin/sh -c '{outer}' 'printf "{start}%s>" begin >&2;{commands}'"""
        return command if shell is None else f"{command} {quote_for_any_shell(shell)}"

    def script(self, words: str, has_variables: bool, start: str, terminal: bool = False) -> str:
        """
        Return the script by which sudo itself runs a command.

        `words` are the command and its arguments, quoted.  The command gets the variables of the
        script if `has_variables`.  `start` begins all marks.
        """
        # (Not --preserve-env=NAMES: sudo would log the values.)
        text = _COMMAND.replace("{option}", " -E" if has_variables else "")
        text = text.replace("{ask}", "" if self.password is None else _ASK)
        text = text.replace("{watch}", _WATCH if terminal else "").replace("{check}", _CHECK)
        text = text.replace("{user}", self._user("'")).replace("{start}", start)
        return text.replace("{words}", words)

    def _user(self, quote: str) -> str:
        return "" if self.user is None else f" -u {quote}{self.user}{quote}"

    def secret(self) -> Secret:
        """
        Return the password; this may call a user's function.

        Raises
        ------
        SshSudoRefused
            The function failed, or returned no password.
        """
        found = self.password
        if isinstance(found, Secret):
            return found
        problem: Optional[str]
        try:
            found = conceal_password(found())
            problem = _problem(found)
            problem = problem and f"returned {problem}"
        except BaseException as error:  # whose text may hold the password; also SystemExit
            problem = f"raised {type(error).__name__}"
        if problem is not None:
            raise SshSudoRefused(f"sudo_password {problem}")
        return found  # type: ignore[no-any-return]


class _Remembered:
    """A user's function for the password, which is called only once in each command or job."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._password: Any = None

    def __call__(self) -> Any:
        if self._password is None:
            self._password = conceal_password(self._function())
        return self._password

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Remembered):
            return NotImplemented
        return self._function is other._function

    def __hash__(self) -> int:
        return hash(id(self._function))

    def __reduce__(self) -> Any:
        return _Remembered, (self._function,)


def conceal_password(given: Any) -> Any:
    """Wrap a plain password; this function never raises."""
    return Secret(given) if isinstance(given, (str, bytes)) else given


def is_user(text: str) -> bool:
    """Return whether a text can be the user whose rights a command gets."""
    return _USER.match(text) is not None


def check_sudo(
    sudo: Union[None, bool, str], password: Any = None, has_useless_shell: bool = False
) -> Optional[Sudo]:
    """
    Return the parameters `sudo` and `sudo_password`, checked; None: the command runs without sudo.

    `has_useless_shell`: whether a shell was given for a command that sudo runs itself.

    Raises
    ------
    SshConfigError
        `sudo` is not a boolean or a user's name, `sudo_password` cannot be a password, or there is
        a useless shell.
    """
    password = conceal_password(password)
    if sudo is None or sudo is False:
        if password is not None:
            raise SshConfigError("sudo_password: needs sudo=True, or sudo with a user's name")
        return None
    if has_useless_shell:
        raise SshConfigError("shell: has no effect with args and sudo, which runs args itself")
    if sudo is not True and not (isinstance(sudo, str) and is_user(sudo)):
        raise SshConfigError(f"sudo: expected True, False or a user's name, got {sudo!r:.80}")
    if password is not None and not callable(password):
        problem = _problem(password)
        if problem is not None:
            raise SshConfigError(f"sudo_password: expected a password, got {problem}")
    if callable(password) and not isinstance(password, _Remembered):
        password = _Remembered(password)
    return Sudo(None if sudo is True else str(sudo), password)


_OTHER_WAYS = {
    "path": "use run(..., args=['cat', 'PATH'], sudo=True), and run(..., args=['tee', 'PATH'],"
    " input=..., sudo=True)",
    "upload": "upload to a folder of yours, then put it in place by"
    " run(..., args=['install', '-m', '644', 'FROM', 'TO'], sudo=True)",
    "download": "take a file's bytes from run(..., args=['cat', 'PATH'], sudo=True).stdout_bytes,"
    " or copy it by sudo to where you may read it",
}


def refuse_sudo(sudo: object, what: str) -> None:
    """
    Refuse `sudo` for a ``path``, an ``upload`` or a ``download``.

    Raises
    ------
    SshConfigError
        `sudo` is set.
    """
    if sudo is not None and sudo is not False:
        raise SshConfigError(
            f"sudo: {'a path' if what == 'path' else 'a copy'} has the rights of the user who logs"
            f" in: log in as another user, or {_OTHER_WAYS[what]}"
        )


def _problem(password: Any) -> Optional[str]:
    """Return why a value cannot be a password, without showing it; None if it can be one."""
    if not isinstance(password, Secret):
        return f"a value of the type {type(password).__name__}"
    if not password:
        return "an empty text"
    if not password.can_be_sent:
        return "a text with a lone surrogate"
    return "a text with a line end or NUL" if _NO_LINE.search(password.reveal()) else None
