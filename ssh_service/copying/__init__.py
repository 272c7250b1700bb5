"""
Files and trees over a connection, by SFTP: no shell, no scp, no clean profile needed.

Where there is a shell with GNU tar, many small files go in one stream, which is several times as
quick; what comes of it is the same.
"""

from __future__ import annotations

import errno
import functools
import os
import threading
from typing import Any, Callable, Coroutine, Optional, Union

from ssh_service.copying.channel import session_on, start_command
from ssh_service.copying.downloading import Download
from ssh_service.copying.failures import copy_error, shown
from ssh_service.copying.job import CommandStarter, Job, Options, Progress, ProgressCallback
from ssh_service.copying.session import SessionEnded, SftpSession
from ssh_service.copying.uploading import Upload
from ssh_service.errors import SshConfigError, transfer_error
from ssh_service.transport import SshTransport

__all__ = ["Progress", "ProgressCallback", "download", "upload"]

Path = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]


def upload(
    transport: SshTransport,
    local_path: Path,
    remote_path: Path,
    *,
    recursive: bool = True,
    timeout: Optional[float] = None,
    verify: bool = False,
    resume: bool = False,
    fsync: bool = False,
    progress: Optional[ProgressCallback] = None,
) -> None:
    """
    Copy a local file or folder to the server.

    A file goes to `remote_path`, or into it if that is a folder.  A folder becomes `remote_path`,
    or goes into it if that exists.  Folders around it are not made.  Modes and times are kept,
    symbolic links followed.  Each file is complete or not there: it is written beside its place
    and renamed, wherever that is possible.

    Parameters
    ----------
    transport : SshTransport
        The connection.
    local_path : Path
        Taken literally.
    remote_path : Path
        Taken literally, but for ``~`` or ``~user`` at its start; relative to the home directory.
    recursive : bool
        Whether a folder may be copied.
    timeout : Optional[float]
        Seconds without any progress after which to give up; None: never.
    verify : bool
        Whether to compare what arrived with what was sent.
    resume : bool
        Whether to go on where an earlier, interrupted copy stopped.
    fsync : bool
        Whether to have the data written to the server's disk.
    progress : Optional[Callable[[Progress], None]]
        Told, on this thread and a few times a second, how far it is.  What it raises ends the
        copy.

    Raises
    ------
    SshTransferError
        An `OSError` with `errno` and `filename`; also a `FileNotFoundError`, `PermissionError`...
        as befits the errno.  Of a tree, what came before stays.
    SshConnectionLost
        The connection ended; each file is the old or the new one.
    SshConfigError
        `timeout` is no number of seconds.
    """
    options = Options(recursive, verify, resume, fsync)
    source, target = _bytes(local_path), _bytes(remote_path)
    _copy(
        transport,
        lambda job: Upload(job).run(source, target),
        target,
        options,
        timeout,
        progress,
    )


def download(
    transport: SshTransport,
    remote_path: Path,
    local_path: Path,
    *,
    recursive: bool = True,
    timeout: Optional[float] = None,
    verify: bool = False,
    resume: bool = False,
    fsync: bool = False,
    progress: Optional[ProgressCallback] = None,
) -> None:
    """
    Copy a file or folder from the server.

    The rules are those of `upload`.  Nothing that the server says can make this write outside
    `local_path`.

    Parameters
    ----------
    transport : SshTransport
        The connection.
    remote_path : Path
        As in `upload`.
    local_path : Path
        Taken literally.
    recursive : bool
        Whether a folder may be copied.
    timeout : Optional[float]
        Seconds without any progress after which to give up; None: never.
    verify : bool
        Whether to compare what arrived with what was sent.
    resume : bool
        Whether to go on where an earlier, interrupted copy stopped.
    fsync : bool
        Whether to have the data written to the local disk.
    progress : Optional[Callable[[Progress], None]]
        As in `upload`.

    Raises
    ------
    SshTransferError
        As in `upload`.
    SshConnectionLost
        As in `upload`.
    SshConfigError
        As in `upload`.
    """
    options = Options(recursive, verify, resume, fsync)
    source, target = _bytes(remote_path), _bytes(local_path)
    _copy(
        transport,
        lambda job: Download(job).run(source, target),
        source,
        options,
        timeout,
        progress,
    )


def _bytes(path: Path) -> bytes:
    plain = os.fsencode(path)
    if b"\0" in plain:  # no system knows such a name, and OpenSSH ends the session over it
        raise transfer_error(errno.EINVAL, shown(plain), "a path cannot hold a NUL character")
    return plain


def _copy(
    transport: SshTransport,
    begin: Callable[[Job], Coroutine[Any, Any, None]],
    remote_path: bytes,
    options: Options,
    timeout: Optional[float],
    progress: Optional[ProgressCallback],
) -> None:
    if timeout is not None:
        if not (isinstance(timeout, (int, float)) and timeout >= 0):
            raise SshConfigError(f"timeout: expected seconds, got {timeout!r}")
        timeout = min(timeout, threading.TIMEOUT_MAX)
    commands = functools.partial(start_command, transport)
    try:
        known = session_on(transport, timeout)
        try:
            run_copy(known, begin, options, timeout, progress, commands)
        except SessionEnded as ended:
            # One kept from an earlier copy may have died since, which may show only now.  What
            # was never answered has changed nothing: a copy begins by asking.
            fresh = None if ended.answered else session_on(transport, timeout)
            if fresh is None or fresh is known:
                raise
            run_copy(fresh, begin, options, timeout, progress, commands)
    except Exception as error:
        told = copy_error(error, shown(remote_path), transport.connection_id, timeout)
        if told is error:
            raise
        raise told from error


def run_copy(
    session: SftpSession,
    begin: Callable[[Job], Coroutine[Any, Any, None]],
    options: Options,
    timeout: Optional[float] = None,
    progress: Optional[ProgressCallback] = None,
    commands: Optional[CommandStarter] = None,
) -> None:
    """
    Run one copy on a session that is ready.

    Parameters
    ----------
    session : SftpSession
        The session.
    begin : Callable[[Job], Coroutine]
        Gives the first task.
    options : Options
        How to copy.
    timeout : Optional[float]
        Seconds without any progress after which to give up.
    progress : Optional[Callable[[Progress], None]]
        Told how far it is.
    commands : Optional[Callable[[bytes, Reply], None]]
        Starts a command in the server's shell; None where there is only SFTP.
    """
    with session.lane() as lane:
        job = Job(lane, options, timeout, progress, commands)
        try:
            job.pipeline.run(begin(job))
        finally:
            job.files.give_all()
            job.folders.give_all()
        job.finish()
