"""
Files and trees over a connection, by SFTP: no shell, no scp, no clean profile needed.

Where there is a shell with GNU tar, many small files go in one stream, which is several times as
quick; what comes of it is the same.

From the bottom up; a module imports from those above it here, never from those below:

============================= ==================================================================
sftp                          where SFTP is spoken: packets, a session, each copy's lane on it
paths, temporary              names: of all files; of unfinished ones, which tell whose they are
failures                      what goes wrong, as errors that name the path and have an errno
local                         where local files are read and written, and local trees are walked
pipeline, waiting             many tasks on one thread; what they wait for
remote_files, remote_process  what a server is asked: about its files; to run in its shell
progress, job                 what all parts of one copy share
parts, checksums              many parts of a large file at once; whether two files are the same
leftovers                     what dead copies left on the server: removed, or gone on with
upload_file, download_file    one file, by SFTP
tar                           a format for many small files
upload_stream                 many small files in one stream, up
download_stream               and down
uploading, downloading        what goes where, of a file or a tree; a server's tree is walked
channels                      where copies meet SSH: the channels they open, and keep
============================= ==================================================================

What is tried again: opening a session where the server admits no more (`channels`), a copy that
finds a kept session dead before it got any answer (here), what a stream did not bring, by SFTP.
"""

from __future__ import annotations

import errno
import functools
import os
import threading
from typing import Any, Callable, Coroutine, Optional, Union

from ssh_service.copying.channels import session_on, start_command
from ssh_service.copying.downloading import Download
from ssh_service.copying.failures import copy_error, shown
from ssh_service.copying.job import CommandStarter, Job, Options
from ssh_service.copying.progress import Meter, Progress, ProgressCallback, ProgressTo
from ssh_service.copying.sftp.lane import Lane
from ssh_service.copying.sftp.session import SessionEnded, SftpSession
from ssh_service.copying.uploading import Upload
from ssh_service.errors import SshConfigError, transfer_error
from ssh_service.transport import SshTransport

__all__ = ["Meter", "Progress", "ProgressCallback", "download", "upload"]

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
    progress: Optional[ProgressTo] = None,
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
    progress : Union[None, Callable[[Progress], None], Meter]
        Told, on this thread and a few times a second, how far it is.  What it raises ends the
        copy.  Or what is to count, to be looked at when the copy is over, or has failed.

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
    progress: Optional[ProgressTo] = None,
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
    progress : Union[None, Callable[[Progress], None], Meter]
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
    progress: Optional[ProgressTo],
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
    progress: Optional[ProgressTo] = None,
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
    progress : Union[None, Callable[[Progress], None], Meter]
        Told how far it is, or counting it.
    commands : Optional[Callable[[bytes, RemoteProcess], None]]
        Starts a command in the server's shell; None where there is only SFTP.
    """
    with Lane(session) as lane:
        job = Job(lane, options, timeout, progress, commands)
        with job.closing:
            job.pipeline.run(begin(job))
        job.progress.finish()
