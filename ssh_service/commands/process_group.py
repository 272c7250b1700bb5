"""The remote process group of a command: found when it is needed, signalled, and ended."""

from __future__ import annotations

import re
import threading
from typing import Callable, List, Optional

from ssh_service import known_servers
from ssh_service.commands import processes
from ssh_service.commands.census import Census, Helper, OnHelperOutput
from ssh_service.commands.marks import Marks
from ssh_service.commands.processes import Process
from ssh_service.errors import SshConfigError
from ssh_service.transport import SshChannel

_SIGNAL = re.compile(r"(?!SIG)[A-Z][A-Z0-9]{0,15}\Z")
# Of a process id.
_MAX_DIGITS = 10
# Seconds that the processes have to end after TERM, and after KILL.
_END_TIMEOUT = 0.6

Then = Callable[[Optional[Process]], None]


def check_signal(name: str) -> None:
    """
    Refuse a value that is not the name of a signal, without ``SIG``.

    Raises
    ------
    SshConfigError
        It is not one.

    """
    if not isinstance(name, str) or not _SIGNAL.match(name):
        raise SshConfigError(f"signal: expected a name such as TERM, got {name!r:.40}")


class RemoteGroup:
    """
    The processes of a command, where the server does not signal them all itself.

    OpenSSH before 9.8 signals no process of root's, and dropbear signals the shell alone, see
    `ssh_service.known_servers`.  There the processes are signalled by a script over another
    session, which has to know the command's process.  A script that goes over stdin tells it
    (`prologue`), in a form that nobody else writes; it is taken out again before anyone sees it.
    Of others, whose login shell may be no POSIX shell, it is found out when it is needed.

    Attributes
    ----------
    process : Optional[Process]
        The command's process, once it is known.

    Notes
    -----
    Thread safety.  `strip` and `flush` are for the reader thread, all else for any.

    """

    def __init__(self, root: bool) -> None:
        self._marks = Marks()
        self.needs_script = False  # by a script of ours; from `start` on
        self.process: Optional[Process] = None
        self._root = root
        self._server = ""
        self._channel: Optional[SshChannel] = None
        self._lock = threading.Lock()
        self._awaits_mark = False  # guarded by _lock
        self._is_running = False  # guarded by _lock: the server has said that it is
        self._waiting: List[Then] = []  # guarded by _lock
        self._is_being_ended = False  # guarded by _lock

    def prologue(self) -> str:
        """Write what a script that goes over stdin does first."""
        # By builtins alone, and quoted, as the caller's environment may hold an IFS with digits.
        return (
            "{ IFS= read -r _ssh_s </proc/$$/stat;"
            "IFS= read -r _ssh_n </proc/sys/kernel/random/boot_id;} 2>/dev/null;"
            f'printf \'{self._marks.start}%s %s %s>\' "$$" "${{_ssh_n:--}}"'
            ' "${_ssh_s##*") "}" >&2;unset _ssh_n _ssh_s;'
        )

    def begin(self, channel: SshChannel, awaits_mark: bool) -> None:
        """Take note that the command is being sent."""
        self._channel, self._server = channel, channel.get_transport().remote_version
        self.needs_script = known_servers.needs_script_to_signal(self._server, self._root)
        with self._lock:
            self._awaits_mark, self._is_running = awaits_mark, False

    def strip(self, chunk: bytes) -> bytes:
        """Take the mark out of a piece of stderr, and what may be its beginning for now."""
        if not self._awaits_mark:
            return chunk
        shown, words = self._marks.extract(chunk)
        for word in words:
            process = _read_mark(word.decode("ascii").split())
            if process is not None:
                self._set_process(process)
        return shown

    def flush(self) -> bytes:
        """Return what was held back, at the end of stderr."""
        return self._marks.flush()

    def on_started(self, channel: SshChannel, run_helper: Helper) -> None:
        """Take note that the server has started the command."""
        with self._lock:
            self._is_running = True
            waiting, self._waiting = (
                ([], self._waiting) if self._awaits_mark else (self._waiting, [])
            )
        for then in waiting:
            self._find(channel, run_helper, then)

    def signal(self, channel: SshChannel, name: str, run_helper: Helper) -> None:
        """Send a signal to all processes of the command."""
        if not self.needs_script:
            channel.send_signal(name)
            return

        def send(process: Optional[Process]) -> None:
            if process is not None:
                run_helper(processes.end_script(process, [name]), _ignore)
            elif self._is_shell_signalled():
                channel.send_signal(name)  # its shell, at least

        self._find(channel, run_helper, send)

    def end(self, channel: SshChannel, run_helper: Helper, ended: Callable[[], None]) -> None:
        """End all processes of the command, by TERM and then KILL; once more where that failed."""
        with self._lock:
            again, self._is_being_ended = self._is_being_ended, True
        if again:
            return

        def on_output(output: Optional[bytes]) -> None:
            if output is not None and processes.ENDED.encode() in output.split():
                ended()
            elif output is None:  # it was not run
                failed()

        def failed() -> None:
            with self._lock:
                self._is_being_ended = False

        def end(process: Optional[Process]) -> None:
            if process is not None:
                run_helper(
                    processes.end_script(process, ["TERM", "KILL"], _END_TIMEOUT), on_output
                )
                return
            failed()
            if self._is_shell_signalled():
                channel.send_signal("TERM")

        self._find(channel, run_helper, end)

    @property
    def may_outlive_shell(self) -> bool:
        """Whether the end of the command's own process says nothing about its children."""
        return known_servers.is_dropbear(self._server)

    def _is_shell_signalled(self) -> bool:
        return known_servers.is_dropbear(self._server)

    def _find(self, channel: SshChannel, run_helper: Helper, then: Then) -> None:
        with self._lock:
            known = self.process
            if known is None and (self._awaits_mark or not self._is_running):
                self._waiting.append(then)
                return

        def found(process: Optional[Process]) -> None:
            if process is not None:
                self.process = process
            then(process)

        if known is not None:
            then(known)
        else:
            Census.of(channel.get_transport()).find(channel, run_helper, found)

    def _set_process(self, process: Process) -> None:
        if self._channel is not None:
            self._channel.process = process  # it helps to tell others apart, see `Census`
        with self._lock:
            self.process, waiting = process, self._waiting
            self._waiting = []
        for then in waiting:
            then(process)


def _read_mark(fields: List[str]) -> Optional[Process]:
    """Read the process that `RemoteGroup.prologue` tells; a server may write anything there."""
    if len(fields) < 2 or not (fields[0].isdigit() and len(fields[0]) <= _MAX_DIGITS):
        return None
    pid, boot = int(fields[0]), "" if fields[1] == "-" else fields[1]
    return processes.parse_stat(pid, fields[2:], boot) or Process(pid, leads=True)


def _ignore(output: Optional[bytes]) -> None:
    """Want to know nothing of it."""


__all__ = ["Helper", "RemoteGroup", "OnHelperOutput", "check_signal"]
