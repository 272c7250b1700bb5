"""
Files and trees over a connection, by SFTP: no shell, no scp, no clean profile needed.

Where there is a shell with GNU tar, many small files go in one stream, which is several times as
quick; what comes of it is the same.

From the bottom up; a module imports from those above it here, never from those below:

============================= ==================================================================
sftp                          where SFTP is spoken: packets, a session, each copy's client of it
options                       how a copy is to be done
paths, temporary              names: of all files; of unfinished ones, which tell whose they are
failures                      what goes wrong, as errors that name the path and have an errno
ownership                     which files are ours, and which folders only we can change: rules
local                         where local files are read and written, and local trees are walked
new_trees                     which trees copies under way are making
open_files                    how many local files all copies of the process may hold open
pipeline, waiting             many tasks on one thread; what they wait for
replies                       what a server replies
remote_files, shell_command   what a server is asked: about its files; to run in its shell
remote_owner                  who we are on a server, and what there is ours
progress, context             what all parts of one copy share
parts, checksums              many parts of a large file at once; whether two files are the same
removal                       a tree on the server that no copy will finish, removed
stale_files, resume_marker    what dead copies left on the server: removed, or gone on with
self_copy_guard               whether a tree is copied into itself
upload_file, download_file    one file, by SFTP
upload_link                   a symbolic link, as such
tar                           a format for many small files
upload_stream, upload_merge   many small files in one stream, up; into a folder that is there
download_stream               and down
listing                       what a download accepts in a server's folders
uploading, downloading        what goes where, of a file or a tree
recoverable_lock              what one thread does at a time
channels                      where copies meet SSH: the channels they open, and keep
running                       one copy from its call to its end
============================= ==================================================================

What is tried again: opening a session where the server admits no more (`channels`), a copy that
finds a kept session dead before it got any answer (`running`), by SFTP what no stream brought.
"""

from __future__ import annotations

from typing import Optional

from ssh_service.copying.options import Options, seconds
from ssh_service.copying.progress import Meter, Progress, ProgressCallback, ProgressTo
from ssh_service.copying.running import Path, copy, run_copy
from ssh_service.copying.sftp.time_limits import TimeLimits
from ssh_service.transport import SshTransport

__all__ = [
    "Meter",
    "Options",
    "Path",
    "Progress",
    "ProgressCallback",
    "TimeLimits",
    "copy",
    "download",
    "limits_from_now",
    "run_copy",
    "upload",
]


def upload(
    transport: SshTransport,
    local_path: Path,
    remote_path: Path,
    *,
    recursive: bool = True,
    timeout: Optional[float] = None,
    stall_timeout: Optional[float] = None,
    verify: bool = False,
    resume: bool = False,
    fsync: bool = False,
    preserve: Optional[bool] = None,
    links: str = "follow",
    on_error: str = "stop",
    update: bool = False,
    contents: bool = False,
    progress: Optional[ProgressTo] = None,
) -> None:
    """
    Copy a local file or folder to the server.

    A file goes to `remote_path`, or into it if that is a folder.  A folder becomes `remote_path`,
    or goes into it if that exists: so the same call a second time makes a folder in the folder,
    unless `contents` is given.  Folders around it are not made.  Each file is complete or not
    there: it is written beside its place and renamed, wherever that is possible.

    In a folder such as ``/tmp``, nothing that other users made is used as a target; but for a
    folder of theirs, if `remote_path` ends with a slash.

    A file that grows meanwhile is copied as long as it was when it was opened, and one that is
    replaced as it was before.  One that is written into, or gets shorter, is an error, as far as
    its size and time show it.

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
        Seconds from the call for the whole copy; None: no limit.
    stall_timeout : Optional[float]
        Seconds without any progress after which to give up; None: no limit.
    verify : bool
        Whether to compare what arrived with what was sent.
    resume : bool
        Whether to go on where an earlier, interrupted copy of a file stopped.
    fsync : bool
        Whether to have each file written to the server's disk before it gets its name.  An error
        where the server cannot.
    preserve : Optional[bool]
        Modes and times.  None keeps them as far as the server allows, and logs once that
        it does not; True makes its refusal an error; False keeps neither, so that a new file has
        the mode that new files have there.
    links : str
        ``follow``: what a symbolic link leads to is copied, and a dangling link is an error.
        ``keep``: links inside a tree are copied as links, dangling ones too.
    on_error : str
        ``stop``: the first entry of a tree that cannot be copied ends the copy.  ``continue``:
        the rest is copied, and one `SshTreeError` lists what was not.
    update : bool
        Whether to pass over files that are there with the same size and time, as rsync does.
    contents : bool
        Whether to copy what is in a folder into the target, whether or not that exists, instead
        of making a folder of the same name in a target that exists.  So a second copy brings the
        target up to date.
    progress : Union[None, Callable[[Progress], None], Meter]
        Told, on this thread and a few times a second, how far it is.  What it raises ends the
        copy.  Or what is to count, to be looked at when the copy is over, or has failed.

    Raises
    ------
    SshTransferError
        An `OSError` with `errno` and `filename`; also a `FileNotFoundError`, `PermissionError`...
        as befits the errno.  Of a tree, what came before stays.
    SshTreeError
        With ``on_error="continue"``: `failures` lists all that could not be copied.
    SshTransferTimeout
        One of the two time limits was reached.
    SshConnectionLost
        The connection ended; each file is the old or the new one.
    SshConfigError
        An option is not what it may be, or contradicts another.
    """
    options = Options(
        recursive=recursive,
        verify=verify,
        resume=resume,
        fsync=fsync,
        preserve=preserve,
        links=links,
        on_error=on_error,
        update=update,
        contents=contents,
    ).check()
    limits = limits_from_now(timeout, stall_timeout)
    copy("upload", transport, local_path, remote_path, options, limits, progress)


def download(
    transport: SshTransport,
    remote_path: Path,
    local_path: Path,
    *,
    recursive: bool = True,
    timeout: Optional[float] = None,
    stall_timeout: Optional[float] = None,
    verify: bool = False,
    resume: bool = False,
    fsync: bool = False,
    preserve: Optional[bool] = None,
    links: str = "follow",
    on_error: str = "stop",
    update: bool = False,
    contents: bool = False,
    progress: Optional[ProgressTo] = None,
) -> None:
    """
    Copy a file or folder from the server.

    The rules are those of `upload`.  Times on servers count in whole seconds, so that a file that
    is written into without changing its size may be copied as a mixture, and not be noticed; with
    `verify` it is.  Nothing that the server says can make this write outside `local_path`.

    Parameters
    ----------
    transport : SshTransport
        The connection.
    remote_path : Path
        Taken literally, but for ``~`` or ``~user`` at its start; relative to the home directory.
    local_path : Path
        Taken literally.
    recursive : bool
        Whether a folder may be copied.
    timeout : Optional[float]
        Seconds from the call for the whole copy; None: no limit.
    stall_timeout : Optional[float]
        Seconds without any progress after which to give up; None: no limit.
    verify : bool
        Whether to compare what arrived with what was sent.
    resume : bool
        Whether to go on where an earlier, interrupted copy of a file stopped.  The beginning is
        only kept where the server has a shell with ``sha256sum``, which proves it right; else
        the file is copied anew.
    fsync : bool
        Whether to have each file written to the local disk before it gets its name.
    preserve : Optional[bool]
        Modes and times.  None keeps them as far as the local system allows, but never
        lets group or others write where the umask does not; True keeps those bits, too, and makes
        a refusal an error; False keeps neither.  setuid, setgid and sticky never come down.
    links : str
        ``follow``: what a symbolic link leads to is copied, and a dangling link is an error.
        ``keep``: links inside a tree are copied as links, dangling ones too.
    on_error : str
        ``stop``: the first entry of a tree that cannot be copied ends the copy.  ``continue``:
        the rest is copied, and one `SshTreeError` lists what was not.
    update : bool
        Whether to pass over files that are there with the same size and time, as rsync does.
    contents : bool
        Whether to copy what is in a folder into the target, whether or not that exists, instead
        of making a folder of the same name in a target that exists.  So a second copy brings the
        target up to date.
    progress : Union[None, Callable[[Progress], None], Meter]
        Told, on this thread and a few times a second, how far it is.  What it raises ends the
        copy.  Or what is to count, to be looked at when the copy is over, or has failed.

    Raises
    ------
    SshTransferError
        An `OSError` with `errno` and `filename`; also a `FileNotFoundError`, `PermissionError`...
        as befits the errno.  Of a tree, what came before stays.
    SshTreeError
        With ``on_error="continue"``: `failures` lists all that could not be copied.
    SshTransferTimeout
        One of the two time limits was reached.
    SshConnectionLost
        The connection ended; each file is the old or the new one.
    SshConfigError
        An option is not what it may be, or contradicts another.
    """
    options = Options(
        recursive=recursive,
        verify=verify,
        resume=resume,
        fsync=fsync,
        preserve=preserve,
        links=links,
        on_error=on_error,
        update=update,
        contents=contents,
    ).check()
    limits = limits_from_now(timeout, stall_timeout)
    copy("download", transport, remote_path, local_path, options, limits, progress)


def limits_from_now(timeout: Optional[float], stall_timeout: Optional[float]) -> TimeLimits:
    """
    Let the time of a copy begin.

    Parameters
    ----------
    timeout, stall_timeout : Optional[float]
        As for `upload`.

    Raises
    ------
    SshConfigError
        One is no number of seconds.
    """
    return TimeLimits.from_now(
        seconds("timeout", timeout), seconds("stall_timeout", stall_timeout)
    )
