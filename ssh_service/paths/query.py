"""The part of `SshPath` that asks a host about its files."""

from __future__ import annotations

import stat as modes
from typing import Callable, Optional, TypeVar, Union

from ssh_service.copying.context import CopyContext
from ssh_service.copying.paths import to_bytes, to_text
from ssh_service.copying.replies import is_file, is_folder, is_link
from ssh_service.copying.sftp.protocol import Attributes
from ssh_service.errors import SshFileNotFoundError
from ssh_service.paths import requests
from ssh_service.paths.owners import find_owners
from ssh_service.paths.pure import PureSshPath
from ssh_service.paths.running import Task, run
from ssh_service.paths.status import FileStatus, status_of

__all__ = ["QueryPath"]

_T = TypeVar("_T")
_P = TypeVar("_P", bound="QueryPath")


class QueryPath(PureSshPath):
    """The part of `SshPath` that asks a host about its files, and changes nothing."""

    __slots__ = ()

    def _run(self, task: Task[_T], *, repeatable: bool = True) -> _T:
        return run(self._host, str(self), task, repeatable=repeatable)

    def stat(self, *, follow_symlinks: bool = True) -> FileStatus:
        """
        Return the size, the times, the owner and the permissions.

        Parameters
        ----------
        follow_symlinks : bool
            Whether to follow a link at the end of the path.

        Returns
        -------
        FileStatus
            The part of `os.stat_result` that SFTP reports.

        Raises
        ------
        OSError
            There is no such file, or it cannot be reached.
        """

        async def stat(context: CopyContext, path: bytes) -> Attributes:
            return await requests.stat(context, path, follow_symlinks)

        return status_of(self._run(stat))

    def lstat(self) -> FileStatus:
        """
        Return the status of a link itself; see `stat`.

        Returns
        -------
        FileStatus
            The status.

        Raises
        ------
        OSError
            There is no such file, or it cannot be reached.
        """
        return self.stat(follow_symlinks=False)

    def _find(self, follow: bool = True) -> Optional[Attributes]:
        async def find(context: CopyContext, path: bytes) -> Optional[Attributes]:
            return await requests.find(context, path, follow)

        try:
            return self._run(find)
        except SshFileNotFoundError:
            if not self._has_tilde:
                raise
            return None  # there is no such user

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """
        Return whether there is a file or folder.

        Parameters
        ----------
        follow_symlinks : bool
            Whether to follow a link; if so, a dangling link does not exist.

        Returns
        -------
        bool
            Whether it exists.

        Raises
        ------
        OSError
            This cannot be determined, as a folder is not accessible.
        """
        return self._find(follow_symlinks) is not None

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """
        Return whether this is a folder, or a link to one.

        Parameters
        ----------
        follow_symlinks : bool
            Whether to follow a link; if not, a link is not a folder.

        Returns
        -------
        bool
            False also if nothing is there.

        Raises
        ------
        OSError
            This cannot be determined, as a folder is not accessible.
        """
        found = self._find(follow_symlinks)
        return found is not None and is_folder(found)

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """
        Return whether this is a regular file, or a link to one.

        Parameters
        ----------
        follow_symlinks : bool
            Whether to follow a link; if not, a link is not a file.

        Returns
        -------
        bool
            False also if nothing is there.

        Raises
        ------
        OSError
            This cannot be determined, as a folder is not accessible.
        """
        found = self._find(follow_symlinks)
        return found is not None and is_file(found)

    def is_symlink(self) -> bool:
        """
        Return whether this is a symbolic link.

        Returns
        -------
        bool
            False also if nothing is there.

        Raises
        ------
        OSError
            This cannot be determined, as a folder is not accessible.
        """
        found = self._find(follow=False)
        return found is not None and is_link(found)

    def _has_mode(self, test: Callable[[int], bool]) -> bool:
        found = self._find()
        return found is not None and test(found.mode or 0)

    def is_fifo(self) -> bool:
        """
        Return whether this is a FIFO (a named pipe), or a link to one.

        Returns
        -------
        bool
            False also if nothing is there.

        Raises
        ------
        OSError
            This cannot be determined, as a folder is not accessible.
        """
        return self._has_mode(modes.S_ISFIFO)

    def is_socket(self) -> bool:
        """
        Return whether this is a Unix socket, or a link to one.

        Returns
        -------
        bool
            False also if nothing is there.

        Raises
        ------
        OSError
            This cannot be determined, as a folder is not accessible.
        """
        return self._has_mode(modes.S_ISSOCK)

    def is_block_device(self) -> bool:
        """
        Return whether this is a block device, or a link to one.

        Returns
        -------
        bool
            False also if nothing is there.

        Raises
        ------
        OSError
            This cannot be determined, as a folder is not accessible.
        """
        return self._has_mode(modes.S_ISBLK)

    def is_char_device(self) -> bool:
        """
        Return whether this is a character device, or a link to one.

        Returns
        -------
        bool
            False also if nothing is there.

        Raises
        ------
        OSError
            This cannot be determined, as a folder is not accessible.
        """
        return self._has_mode(modes.S_ISCHR)

    def _name(self, name: str, number: str) -> str:
        if name.isdigit():
            raise KeyError(f"{self._host}: no name for the {number} {name}, of {str(self)!r}")
        return name

    def owner(self) -> str:
        """
        Return the name of the user who owns the file; a link is followed.

        SFTP reports only numbers.  The name is taken from the server's long listing, like that of
        ``ls -l``, for which the folder of the file is listed; ``stat().st_uid`` costs less.

        Returns
        -------
        str
            The name.

        Raises
        ------
        KeyError
            The server knows no name for the number.
        OSError
            There is no such file, or the server has no such listing.
        """
        return self._name(self._run(find_owners).user, "user number")

    def group(self) -> str:
        """
        Return the name of the file's group; a link is followed.

        It is found as in `owner`; ``stat().st_gid`` costs less.

        Returns
        -------
        str
            The name.

        Raises
        ------
        KeyError
            The server knows no name for the number.
        OSError
            There is no such file, or the server has no such listing.
        """
        return self._name(self._run(find_owners).group, "group number")

    def samefile(self, other: Union[str, PureSshPath]) -> bool:
        """
        Return whether another path leads to the same file.

        Parameters
        ----------
        other : Union[str, SshPath]
            A path on the same host.

        Returns
        -------
        bool
            Whether both paths are the same after links were followed.  Two hard links to one file
            are not recognized, as SFTP does not report the number of a file.

        Raises
        ------
        SshConfigError
            `other` is on another host (a `ValueError`).
        OSError
            One of the paths does not exist, or cannot be reached.
        """
        second = to_bytes(str(self._parse(other)))

        async def compare(context: CopyContext, path: bytes) -> bool:
            expanded = await context.remote.expand_home(second)
            real = await requests.resolve(context, path, True)
            return real == await requests.resolve(context, expanded, True)

        return self._run(compare)

    # Where the path leads.

    def absolute(self: _P) -> _P:
        """
        Return the path from the root, without following links or removing ``..``.

        Returns
        -------
        SshPath
            The path, in which the home directory stands before a relative path, and in place of
            ``~``.

        Raises
        ------
        OSError
            There is no such user, or the server cannot find other users' home directories.
        """
        if self.is_absolute():
            return self
        return type(self)(self._host, to_text(self._run(requests.expand)))

    def resolve(self: _P, strict: bool = False) -> _P:
        """
        Return the absolute path, without links and ``..``.

        Parameters
        ----------
        strict : bool
            Whether the path must exist.

        Returns
        -------
        SshPath
            The path; what does not exist at its end is kept.

        Raises
        ------
        OSError
            The path cannot be resolved.
        """

        async def resolve(context: CopyContext, path: bytes) -> bytes:
            return await requests.resolve(context, path, strict)

        return type(self)(self._host, to_text(self._run(resolve)))

    def expanduser(self: _P) -> _P:
        """
        Return the path with the home directory in place of ``~`` or ``~user``.

        Returns
        -------
        SshPath
            The absolute path; this path if it has no ``~``.

        Raises
        ------
        OSError
            There is no such user, or the server cannot find other users' home directories.
        """
        if not self._has_tilde:
            return self
        return type(self)(self._host, to_text(self._run(requests.expand)))
