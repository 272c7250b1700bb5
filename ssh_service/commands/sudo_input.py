"""The input of a command under sudo: the password when sudo asks for it, and then the rest."""

from __future__ import annotations

import re
from typing import Callable, Dict, List, Optional, Set

from ssh_service.commands.marks import Marks
from ssh_service.commands.script import unquote
from ssh_service.commands.stdin import InputSource, Stdin
from ssh_service.commands.sudo import Sudo
from ssh_service.errors import SshSudoRefused
from ssh_service.locks import Lock
from ssh_service.secret import Secret
from ssh_service.transport import SshChannel
from ssh_service.transport.text import printable

# Seconds in which sudo must ask for the password or begin, and in which it must accept it.
_ANSWER_TIMEOUT = 30.0
# More marks than a script writes: sudo may ask again, but gets no second answer.
_MAX_MARKS = 100
# The most bytes of sudo's own output that are kept; the most of a command's output in which sudo's
# refusal is looked for; and the most characters that a message shows.
_MAX_KEPT, _MAX_SEARCHED, _MAX_SHOWN = 64 * 1024, 4096, 300
_FAILURES: Dict[bytes, str] = {
    b"ask": "sudo asked a second time: the password is wrong, or it wants something else as well",
    b"shell": "the shell is csh or fish, but sudo needs a POSIX shell: pass shell='/bin/sh'",
    b"forgotten": "sudo forgets the password at once on this host (timestamp_timeout=0), so a"
    " command of args cannot have input: pass a script instead of args, or no input",
}
_HINTS = (
    ("tty", "; if sudo requires a terminal, pass pty=True"),
    ("password is required", "; pass sudo_password"),
)
# For a script, which needs a rule for its shell.
HINT_AT_ARGS = ", or args if the rules allow only this one command"
# How each line begins that sudo prints if it refuses to run a command.
_REFUSALS = (b"sudo: ", b"Sorry, ")
# The commands by which a shell under sudo reads a script, as sudo prints them.
_SHELL_COMMANDS = re.compile(rb'printf "[^"]*" begin >&2;.*?eval "\$_ssh_s"', re.DOTALL)


class SudoInput:
    """
    Answers sudo's prompt, and holds back all other input until sudo can ask for nothing more.

    Marks in the output report the progress: ``ask`` is sudo's prompt, and ``begin`` is written as
    soon as the command itself runs.  The output before ``begin`` is sudo's own; it is kept for the
    message of an error.  A command of `args` has further marks, see `Sudo.script`: sudo may still
    refuse to run it.

    Parameters
    ----------
    sudo : Sudo
        The options.
    source : InputSource
        Sends the script and the command's stdin.
    held : Optional[HeldInput]
        The part of `source` that is held back; None: all of it.
    connection_id : str
        ``user@host:port``, for messages.
    terminal : bool
        Whether the command has a terminal.
    waits_for_sudo : bool
        Whether the script writes the mark ``begin``.  If not, sudo reads no input.
    refuse : Callable[[SshSudoRefused], None]
        Ends the command with an error.
    run_callback : Callable[..., None]
        Runs a user's function.
    set_timer : Callable[[float, Callable[[], None]], None]
        Calls a function after some seconds, unless the command is done.

    Notes
    -----
    Thread safety.  `strip`, `flush` and `error_at_end` must be called on the reader thread, all
    other methods may be called from any thread.

    Guarantees.  The password is sent at most once, and only after sudo's prompt.
    """

    def __init__(
        self,
        sudo: Sudo,
        source: InputSource,
        held: Optional[HeldInput],
        connection_id: str,
        *,
        terminal: bool,
        waits_for_sudo: bool,
        refuse: Callable[[SshSudoRefused], None],
        run_callback: Callable[..., None],
        set_timer: Callable[[float, Callable[[], None]], None],
    ) -> None:
        self._sudo, self._source, self._held = sudo, source, held
        self._connection_id, self._terminal = connection_id, terminal
        self._refuse, self._run_callback, self._set_timer = refuse, run_callback, set_timer
        self._marks = Marks(_MAX_MARKS)
        # Reader thread only: the output that is sudo's, or may be; what sudo printed when it was
        # asked whether it allows the command, None if it was not; and its answer.
        self._printed = b""
        self._checked: Optional[bytes] = None
        self._verdict = b""
        self._command = ""  # of args, quoted
        self._answers: List[Stdin] = []  # `append` is atomic
        self._secret: Optional[Secret] = None  # the password, once it is known
        self._channel: Optional[SshChannel] = None
        self._preamble = b""
        self._has_given_up = False
        self._lock = Lock()
        # Guarded by _lock: "waiting", "asked", "answered", "starting", "begun", or "over" if sudo
        # gets no input any more.
        self._phase = "waiting" if waits_for_sudo else "begun"
        # Guarded by _lock: the marks that must arrive before the command's input is sent.
        self._awaited: Set[bytes] = {b"begin"} if waits_for_sudo else set()
        if held is not None and terminal:
            self._awaited.add(b"input")

    @property
    def mark_start(self) -> str:
        """The beginning of the marks that the script should write."""
        return self._marks.start

    def hide(self, words: str) -> None:
        """Show no argument of a command, which is given as quoted words, in an error."""
        self._command = words

    @property
    def has_begun(self) -> bool:
        """Whether the command itself runs; if sudo is not waited for, it is assumed to."""
        return self._phase == "begun"

    @property
    def may_run(self) -> bool:
        """Whether the command itself may run, so that it takes more than `give_up` to end it."""
        return self._phase in ("starting", "begun")

    # Input.

    def start(self, channel: SshChannel, preamble: bytes = b"") -> None:
        """Begin to send what need not be held back."""
        self._channel, self._preamble = channel, preamble
        if self.has_begun:
            self._release()
        else:
            self._expect("waiting", "sudo did not ask for the password")
        if self._held is not None:
            self._source.start(channel, preamble)

    def _release(self, mark: bytes = b"") -> None:
        """Send the command's input if this was the last mark that it waited for."""
        with self._lock:
            self._awaited.discard(mark)
            if self._awaited:
                return
        if self._held is not None:
            self._held.release()
        elif self._channel is not None:
            self._source.start(self._channel, self._preamble)

    def _send(self, answer: Stdin) -> None:
        self._answers.append(answer)
        if self._channel is not None:
            answer.start(self._channel)

    def _input(self, data: bytes, more: bool = True) -> Stdin:
        return Stdin(data, more, self._connection_id, terminal=self._terminal)

    def pump(self) -> None:
        """Send as much as the peer's window allows."""
        for answer in list(self._answers):
            answer.pump()
        self._source.pump()

    def end(self) -> None:
        """Drop unsent data: the command has ended and will not read it."""
        for answer in list(self._answers):
            answer.end()
        self._source.end()

    def give_up(self) -> None:
        """Let sudo read the end of file instead of a password, unless the command may run."""
        self._advance("over", "waiting", "asked", "answered")
        if not self.may_run and not self._has_given_up:
            self._has_given_up = True
            self._send(self._input(b"", more=False))

    # Output.

    def strip(self, chunk: bytes) -> bytes:
        """Remove the marks from a chunk of output, and act on them; keep back sudo's output."""
        while not self.has_begun:
            before, word, chunk = self._marks.take(chunk)
            self._printed = (self._printed + before)[-_MAX_KEPT:]
            if word is None:
                return b""
            self._on_mark(word)
        if self._held is None:  # the marks of scripts end here
            return chunk
        shown = b""
        while True:
            before, word, chunk = self._marks.take(chunk)
            shown += self._note(before)
            if word is None:
                return shown
            self._on_mark(word)

    def _note(self, chunk: bytes) -> bytes:
        """Note what may be sudo's refusal of a command of args; return the command's output."""
        if self._checked is not None:
            self._checked = (self._checked + chunk)[:_MAX_KEPT]
            return b""
        self._printed += chunk[: max(0, _MAX_SEARCHED - len(self._printed))]
        return chunk

    def flush(self) -> bytes:
        """Return the bytes that were held back; call this at the end of the output."""
        rest = self._marks.flush()
        if self.has_begun:
            return self._note(rest)
        self._printed += rest
        return self._redacted()

    def _on_mark(self, word: bytes) -> None:
        if word == b"ask" and self._advance("asked", "waiting"):
            if isinstance(self._sudo.password, Secret):
                self._answer()
            else:
                self._run_callback(self._answer)
        elif word == b"ready":
            if self._advance("starting", "waiting", "answered"):
                self._send(self._input(b"\n"))
        elif word == b"forgotten" and self._held is not None and self._held.is_empty():
            if self._advance("starting", "waiting", "answered"):
                with self._lock:
                    self._awaited.add(b"again")
                self._send(self._input(b"\n"))
        elif word == b"begin":
            if self._advance("begun", "waiting", "answered", "starting"):
                self._printed = b""
                self._release(b"begin")
                if b"again" in self._awaited:  # rules may need no password for the command
                    self._set_timer(_ANSWER_TIMEOUT, lambda: self._release(b"again"))
        elif word == b"again" and self._secret is not None and word in self._awaited:
            self._send(self._input(self._secret.reveal_bytes() + b"\n"))
            self._release(b"again")
        elif word == b"again":
            self._refuse(self._error(_FAILURES[b"ask"]))
        elif word == b"input":
            self._release(b"input")
        elif word == b"check":
            self._checked = b""
        elif word in (b"allowed", b"denied"):
            self._verdict = word
        elif word in _FAILURES:
            self._fail(_FAILURES[word])

    def _answer(self) -> None:
        try:
            self._secret = self._sudo.secret()
        except SshSudoRefused as error:
            self._fail(str(error))
            return
        if self._advance("answered", "asked"):
            self._send(self._input(self._secret.reveal_bytes() + b"\n"))
            self._expect("answered", "sudo did not accept the password")

    def _expect(self, phase: str, problem: str) -> None:
        def check() -> None:
            if self._phase == phase:
                self._fail(f"{problem} within {_ANSWER_TIMEOUT:g} s")

        self._set_timer(_ANSWER_TIMEOUT, check)

    def _advance(self, phase: str, *earlier: str) -> bool:
        with self._lock:
            if self._phase not in earlier:
                return False
            self._phase = phase
        return True

    # Errors.

    def _fail(self, problem: str) -> None:
        if self._advance("over", "waiting", "asked", "answered"):
            self._refuse(self._error(problem))

    def error_at_end(self, status: Optional[int], has_output: bool) -> Optional[SshSudoRefused]:
        """
        Return the error if the command has ended because sudo did not run it.

        `has_output` is whether there is output apart from the stream with the marks.
        """
        problem = f"sudo did not run the command (exit status {status})"
        if not self.has_begun:
            return self._error(problem)
        may_be = self._held is not None and status == 1 and not has_output
        return self._error(problem) if may_be and self._is_refusal() else None

    def _is_refusal(self) -> bool:
        """Return whether the output of a command of args is sudo's refusal to run it."""
        # The command's locale is not ours to change, so what sudo says may be in any language.
        printed, checked = _lines(self._printed), _lines(self._checked or b"")
        if self._verdict == b"denied" and printed and set(checked) <= set(printed):
            return True
        # Lines that sudo prints each time, such as that it cannot resolve the name of its host.
        own = [line for line in printed if line not in checked]
        return bool(own) and all(line.startswith(_REFUSALS) for line in own)

    def _error(self, problem: str) -> SshSudoRefused:
        lines = self._redacted().decode("utf-8", "replace").splitlines()
        text = " / ".join(line.strip() for line in lines if line.strip())
        shown = printable(text[-_MAX_SHOWN:])
        hint = next((hint for word, hint in _HINTS if word in shown.lower()), "")
        if self._held is None and hint.endswith("sudo_password"):
            hint += HINT_AT_ARGS
        printed = f": {shown!r}" if shown else ""
        error = SshSudoRefused(
            f"{self._connection_id}: {problem}{printed}{hint}",
            ended=True,
            connection_id=self._connection_id,
        )
        error.printed = shown
        return error

    def _redacted(self) -> bytes:
        """Return sudo's output without the password, the script's commands, and arguments."""
        text = _SHELL_COMMANDS.sub(b"...", self._printed.replace(b"\r\n", b"\n"))
        text = _without_arguments(text, unquote(self._command))
        if self._secret is None:
            return text
        # A terminal may have echoed it; a strange sudo may break the line in it.
        return _without_secret(text, self._secret.reveal_bytes())


def _lines(text: bytes) -> List[bytes]:
    """Return the lines that are not empty, without a line that was cut off."""
    lines = [line.strip() for line in text.splitlines()]
    if len(text) >= _MAX_SEARCHED:
        del lines[-1:]
    return [line for line in lines if line]


def _without_arguments(text: bytes, words: List[str]) -> bytes:
    """Replace a command's arguments, also at the end, where the text may have been cut off."""
    if len(words) < 2:
        return text
    first = words[0].rpartition("/")[2]
    name, command = (
        one.encode("utf-8", "surrogateescape") for one in (first, " ".join([first, *words[1:]]))
    )
    text = text.replace(command, name + b" ...")
    size = min(len(command), len(text)) if len(text) >= _MAX_SEARCHED else 0
    for length in range(size, len(name) + 1, -1):
        if text.endswith(command[:length]):
            return text[:-length] + name + b" ..."
    return text


def _without_secret(text: bytes, secret: bytes) -> bytes:
    """Replace a secret in a text, also where white space or control characters are in it."""
    places = [at for at, byte in enumerate(text) if byte > 0x20]
    dense, wanted = (bytes(byte for byte in one if byte > 0x20) for one in (text, secret))
    shown, shown_to, at = b"", 0, dense.find(wanted) if wanted else -1
    while at >= 0:
        shown += text[shown_to : places[at]] + b"***"
        shown_to = places[at + len(wanted) - 1] + 1
        at = dense.find(wanted, at + len(wanted))
    return (shown + text[shown_to:]).replace(secret, b"***")


class HeldInput:
    """
    Sends a preamble at once, and the command's stdin as soon as it is released.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.
    """

    def __init__(self, stdin: Stdin, connection_id: str) -> None:
        self._stdin, self._connection_id = stdin, connection_id
        self._first: Optional[Stdin] = None
        self._lock = Lock()
        self._channel: Optional[SshChannel] = None  # guarded by _lock
        self._is_released = False  # guarded by _lock

    def is_empty(self) -> bool:
        """Return whether there is nothing to send but the end of file."""
        return self._stdin.is_empty()

    def start(self, channel: SshChannel, preamble: bytes = b"") -> None:
        """Send the preamble; send stdin, too, if it was released."""
        with self._lock:
            self._channel, is_released = channel, self._is_released
        if is_released:
            self._stdin.start(channel, preamble)
        else:
            self._first = Stdin(preamble, True, self._connection_id)
            self._first.start(channel)

    def release(self) -> None:
        """Send stdin now, or with the preamble; the shell has read a preamble sent before."""
        with self._lock:
            channel = None if self._is_released else self._channel
            self._is_released = True
        if channel is not None:
            self._stdin.start(channel)

    def pump(self) -> None:
        """Send as much as the peer's window allows."""
        if self._first is not None:
            self._first.pump()
        self._stdin.pump()

    def end(self) -> None:
        """Drop unsent data."""
        if self._first is not None:
            self._first.end()
        self._stdin.end()
