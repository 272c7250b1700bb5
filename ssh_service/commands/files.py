"""Users' files as a command's stdin, stdout and stderr."""

from __future__ import annotations

import errno
import io
import subprocess
from typing import IO, Any, Callable, Optional, Union

from ssh_service import threads
from ssh_service.commands.output import CallbackOutput
from ssh_service.commands.stdin import Stdin, as_input
from ssh_service.errors import SshConfigError, SshServiceError, SshStdioError, stdio_error

__all__ = ["FileOutput", "feed"]

# Bytes of one read of a binary file.
_READ_SIZE = 64 * 1024

OnFailure = Callable[[SshStdioError], None]


class FileOutput(CallbackOutput):
    """
    Writes a stream to a user's file, on a callback thread.

    Parameters
    ----------
    name : str
        ``stdout`` or ``stderr``, for messages.
    file : IO
        A file that is open for writing; a text file gets decoded text, any other gets bytes.
    encoding : Optional[str]
        The encoding of the stream.

    Attributes
    ----------
    on_failure : Callable[[SshStdioError], None]
        Called if the file cannot be written; the command sets it.  The rest of the stream is
        dropped.

    Raises
    ------
    SshConfigError
        `file` cannot be written to, or is a text file and `encoding` is None or unknown.
    """

    def __init__(self, name: str, file: Union[int, IO[Any]], encoding: Optional[str]) -> None:
        if isinstance(file, int):
            got = "subprocess.STDOUT" if file == subprocess.STDOUT else repr(file)
            raise SshConfigError(
                f"{name}: expected a file that is open for writing, PIPE or DEVNULL, got {got};"
                " `2>&1` in the script merges both streams"
            )
        if not callable(getattr(file, "write", None)):
            raise SshConfigError(
                f"{name}: expected a file that is open for writing, got {type(file).__name__}"
            )
        is_text = _is_text(file)
        if is_text and encoding is None:
            raise SshConfigError(f"{name}: a text file needs an encoding, or open it with 'wb'")
        super().__init__(self._write, encoding if is_text else None)
        self.on_failure: OnFailure = lambda error: None
        self._name = name
        self._file = file
        self._has_failed = False  # callback threads only, one at a time

    def _write(self, piece: Any) -> None:
        if self._has_failed:
            return
        try:
            self._write_all(piece)
        except BaseException as error:  # SystemExit too: nobody else would see it
            self._has_failed = True
            self.on_failure(stdio_error(f"{self._name} cannot be written", self._file, error))

    def _write_all(self, piece: Any) -> None:
        while piece:
            written = self._file.write(piece)
            if written is None and isinstance(self._file, io.RawIOBase):
                raise BlockingIOError(errno.EAGAIN, "the file is in non-blocking mode, and full")
            if written == 0:
                raise OSError(errno.EIO, "the file takes no data")
            if isinstance(written, int) and written < 0:
                text = f"the file says that it has written {written} of {len(piece)}"
                raise OSError(errno.EIO, text)
            # A raw file may write only a part, and then returns how much.
            piece = piece[written:] if isinstance(written, int) else None


def feed(stdin: Stdin, file: IO[Any], on_failure: OnFailure) -> None:
    """
    Send a file's content to a command, from its current position, on a thread of its own.

    Raises
    ------
    SshServiceError
        The system refuses a thread.
    """

    def run() -> None:
        try:
            _copy(file, stdin)
        except BrokenPipeError:
            pass  # the command has ended, and need not have read everything
        except BaseException as error:  # SystemExit too: the command would wait forever
            # Without an end of file, which the command would take for the end of its input.
            on_failure(stdio_error("stdin cannot be read", file, error))
        else:
            stdin.close()

    try:
        threads.start_thread(run, "ssh-service-stdin")
    except threads.NoMoreThreads as error:
        raise SshServiceError(f"stdin: the file cannot be read: {error}") from error


def _is_text(file: IO[Any]) -> bool:
    # The wrappers of `tempfile` have the attributes of the file, but are no `TextIOBase`.
    return isinstance(file, io.TextIOBase) or hasattr(file, "encoding")


def _copy(file: IO[Any], stdin: Stdin) -> None:
    for data in iter(lambda: _read(file), b""):
        stdin.write(data)


def _read(file: IO[Any]) -> bytes:
    """Return the next bytes, as soon as there are any; b"" at the end of the file."""
    if _is_text(file):
        return as_input(file.readline())
    read = getattr(file, "read1", file.read)  # which does not wait for more than there is
    data: Union[None, str, bytes] = read(_READ_SIZE)
    if data is None:
        raise BlockingIOError(0, "the file is in non-blocking mode, and has no data yet")
    return as_input(data)
