"""`SshPath`: the path of a file on a host, with `pathlib`'s methods."""

from __future__ import annotations

import io
import stat as modes
from pathlib import PurePath
from typing import IO, Any, Callable, Iterable, Iterator, List, NamedTuple, Optional, Tuple, Union

from ssh_service import api
from ssh_service.commands.script import StrPath
from ssh_service.copying.context import CopyContext
from ssh_service.copying.options import Options
from ssh_service.copying.paths import to_bytes, to_text
from ssh_service.copying.sftp.protocol import Attributes, FolderEntry
from ssh_service.errors import SshConfigError, SshTransferError
from ssh_service.paths import content, listing, opening, removal, requests
from ssh_service.paths.pure import PureSshPath
from ssh_service.paths.query import QueryPath
from ssh_service.paths.running import run
from ssh_service.paths.status import FileStatus, status_of
from ssh_service.settings import check_encodable, invalid_setting

__all__ = ["FollowedEntry", "SshPath", "read_range", "scan_followed"]

_ALL_MODE_BITS = 0o7777


class SshPath(QueryPath):
    """
    The path of a file or folder on a host, with the methods of `pathlib.Path`.

    ``host.path("/etc/hosts")`` returns one.  A relative path starts at the home directory, and
    ``~`` or ``~user`` at its start is expanded.

    It is no `os.PathLike`, so that no function for local files takes it: ``open(path)``,
    ``os.remove(path)`` and ``shutil.rmtree(path)`` raise a `TypeError`.  ``str(path)`` is the path
    on the host, without the host.

    Parameters
    ----------
    host : Host
        The host.
    *segments : Union[str, PurePath, SshPath]
        The path, or parts of it, which are joined by slashes.

    Attributes
    ----------
    host : Host
        The host.
    parts, root, anchor, drive, name, stem, suffix, suffixes, parent, parents
        As in `pathlib.PurePosixPath`; paths in them are on the same host.

    Raises
    ------
    SshConfigError
        The path is empty, contains a NUL character or belongs to another host (a `ValueError`).

    Notes
    -----
    Thread safety.  A path is immutable and may be used from any thread.  All threads share one
    SFTP session of the host's connection.

    Errors.  Each method that uses the host raises the `OSError` that `pathlib` would raise, with
    `errno` and `filename`, such as `SshFileNotFoundError` (a `FileNotFoundError`); and
    `SshConnectError` if no connection could be made, `SshConnectionLost` if it was lost.  A lost
    connection is not retried, unless nothing was sent.

    Two paths are equal if their hosts are equal and their parts are the same.  A path can be
    pickled if its host can.

    Examples
    --------
    >>> etc = ssh_service.Host("deploy@web1").path("/etc")
    >>> (etc / "hosts").read_text()
    >>> [path.name for path in etc.glob("*.conf")]
    """

    __slots__ = ()

    def _child(self, *names: str) -> SshPath:
        return self._derive(self._pure.joinpath(*names))

    # Content.

    def read_bytes(self) -> bytes:
        """
        Return the content of the file.

        Returns
        -------
        bytes
            The content, which is requested in many parts at once.

        Raises
        ------
        OSError
            The file cannot be read.
        """
        return self._run(content.read_whole)

    def read_text(
        self,
        encoding: Optional[str] = None,
        errors: Optional[str] = None,
        newline: Optional[str] = None,
    ) -> str:
        """
        Return the content of the file as a text.

        Parameters
        ----------
        encoding : Optional[str]
            The encoding; None: UTF-8.
        errors : Optional[str]
            What happens to bytes that cannot be decoded, as in `open`; None: ``"strict"``.
        newline : Optional[str]
            How line ends are translated, as in `open`; None: all become LF.

        Returns
        -------
        str
            The content.

        Raises
        ------
        OSError
            The file cannot be read.
        UnicodeDecodeError
            It is not a text in this encoding.
        """
        decoder = io.TextIOWrapper(io.BytesIO(), encoding or "utf-8", errors, newline)
        decoder.close()  # the arguments are right
        data = io.BytesIO(self.read_bytes())
        with io.TextIOWrapper(data, encoding or "utf-8", errors, newline) as file:
            return file.read()

    def write_bytes(self, data: Any, *, mode: Optional[int] = None) -> int:
        """
        Write the file as a whole, atomically.

        The content is written under a temporary name and then renamed, so that the file is never
        seen incomplete, and the old file stays if this fails or is interrupted.  A link is
        followed.  A file that cannot be replaced, such as another user's in a sticky folder, is
        overwritten in place if that is allowed, or refused as in `ssh_service.upload`.

        Parameters
        ----------
        data : Union[bytes, bytearray, memoryview]
            The content.
        mode : Optional[int]
            The permissions of the file, such as ``0o600``.  None: those of the file that is
            replaced; for a new file, 0o666 without the bits of the server's umask.

        Returns
        -------
        int
            The number of bytes.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        plain = memoryview(data).tobytes()
        if mode is not None:
            _check_mode(mode)
        options = Options(preserve=False if mode is None else True)

        async def write(context: CopyContext, path: bytes) -> None:
            await content.write_whole(context, path, plain, mode)

        run(self._host, str(self), write, options=options, repeatable=True)
        return len(plain)

    def write_text(
        self,
        data: str,
        encoding: Optional[str] = None,
        errors: Optional[str] = None,
        newline: Optional[str] = None,
        *,
        mode: Optional[int] = None,
    ) -> int:
        """
        Write a text file as a whole, atomically; see `write_bytes`.

        Parameters
        ----------
        data : str
            The content.
        encoding : Optional[str]
            The encoding; None: UTF-8.
        errors : Optional[str]
            What happens to characters that cannot be encoded, as in `open`; None: ``"strict"``.
        newline : Optional[str]
            What a line end (LF) becomes; None: it stays, as the file is for the host.
        mode : Optional[int]
            The permissions of the file; None: as in `write_bytes`.

        Returns
        -------
        int
            The number of characters.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        if not isinstance(data, str):
            raise TypeError(f"data: expected a str, got {type(data).__name__}")
        encoded = io.BytesIO()
        newline = "" if newline is None else newline
        with io.TextIOWrapper(encoded, encoding or "utf-8", errors, newline) as file:
            file.write(data)
            file.flush()
            plain = encoded.getvalue()
        self.write_bytes(plain, mode=mode)
        return len(data)

    def open(
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: Optional[str] = None,
        errors: Optional[str] = None,
        newline: Optional[str] = None,
    ) -> IO[Any]:
        """
        Open the file, like the function `open`.

        What is read in order is requested ahead; what is written is confirmed later, at the latest
        by ``flush()`` and ``close()``.  Unlike `write_bytes`, this changes the file in place.

        Parameters
        ----------
        mode : str
            ``"r"`` (read), ``"w"`` (create or truncate, and write), ``"x"`` (create and write) or
            ``"a"`` (create, and append); with ``"+"`` for both reading and writing; with ``"b"``
            for bytes.
        buffering : int
            The size of the buffer in bytes; -1: 256 KiB; 0: no buffer (only for bytes); 1: a text
            is written with each line.
        encoding : Optional[str]
            The encoding of a text; None: UTF-8.
        errors : Optional[str]
            What happens to what cannot be encoded or decoded; None: ``"strict"``.
        newline : Optional[str]
            How line ends are translated, as in `open`.

        Returns
        -------
        IO[Any]
            The file; a context manager.  Until it is closed, it keeps the connection.  Threads may
            share a file of bytes, not a text file, as in `io`.

        Raises
        ------
        SshConfigError
            An argument is invalid (a `ValueError`).
        OSError
            The file cannot be opened.  FIFOs and sockets are refused.
        """
        return opening.open_path(self._host, str(self), mode, buffering, encoding, errors, newline)

    # Folders.

    def iterdir(self) -> Iterator[SshPath]:
        """
        Return the entries of the folder.

        Returns
        -------
        Iterator[SshPath]
            Their paths, in the order of the server.  The whole folder is listed by this call.

        Raises
        ------
        OSError
            The folder cannot be listed.
        """
        return iter([path for path, _ in self._list()])

    def scandir(self) -> Iterator[Tuple[SshPath, FileStatus]]:
        """
        Return the entries of the folder with their status, which costs no more than `iterdir`.

        Returns
        -------
        Iterator[Tuple[SshPath, FileStatus]]
            Each path, and its status as returned by `lstat`.

        Raises
        ------
        OSError
            The folder cannot be listed.
        """
        return iter([(path, status_of(attributes)) for path, attributes in self._list()])

    def walk(
        self,
        top_down: bool = True,
        on_error: Optional[Callable[[OSError], Any]] = None,
        follow_symlinks: bool = False,
    ) -> Iterator[Tuple[SshPath, List[str], List[str]]]:
        """
        Walk through the folder and all folders below it, as `pathlib.Path.walk` does.

        Each folder is listed when the iterator reaches it, so on a slow network, ``rglob("*")`` is
        faster.

        Parameters
        ----------
        top_down : bool
            Whether a folder comes before those in it.  If so, folders that are removed from the
            list of names are not visited.
        on_error : Optional[Callable[[OSError], Any]]
            Called with the error of a folder that cannot be listed; it may raise it.  None: such
            folders are left out.
        follow_symlinks : bool
            Whether links to folders are visited as folders; if they lead back, the walk does not
            end.

        Returns
        -------
        Iterator[Tuple[SshPath, List[str], List[str]]]
            Each folder, the names of the folders in it, and all other names in it.

        Raises
        ------
        SshConnectionLost
            The connection was lost, raised by the iterator.
        """
        pending: List[Tuple[SshPath, Optional[Tuple[List[str], List[str]]]]] = [(self, None)]
        while pending:
            path, found = pending.pop()
            if found is not None:
                yield (path, *found)
                continue
            try:
                folders, others = path._split(follow_symlinks)
            except SshTransferError as error:
                if on_error is not None:
                    on_error(error)
                continue
            if top_down:
                yield path, folders, others
            else:
                pending.append((path, (folders, others)))
            pending += [(path._child(name), None) for name in reversed(folders)]

    def _split(self, follow: bool) -> Tuple[List[str], List[str]]:
        """Return the names of the folders in this folder, and the other names."""
        entries: Iterable[Tuple[SshPath, FileStatus]]
        if follow:
            entries = [(entry.path, entry.target or entry.status) for entry in scan_followed(self)]
        else:
            entries = self.scandir()
        folders: List[str] = []
        others: List[str] = []
        for path, status in entries:
            (folders if modes.S_ISDIR(status.st_mode) else others).append(path.name)
        return folders, others

    def _list(self) -> List[Tuple[SshPath, Attributes]]:
        async def list_folder(context: CopyContext, path: bytes) -> List[FolderEntry]:
            return await listing.list_folder(context, path)

        return [
            (self._child(to_text(entry.filename)), entry.attributes)
            for entry in self._run(list_folder)
        ]

    def glob(self, pattern: str) -> Iterator[SshPath]:
        """
        Return the paths below the folder that match a pattern.

        Parameters
        ----------
        pattern : str
            A relative pattern with ``*``, ``?`` and ``[...]``; ``**`` stands for any number of
            folders.  A slash at the end selects folders.  Names that start with a dot match, and
            upper and lower case differ.

        Returns
        -------
        Iterator[SshPath]
            The paths, sorted; nothing if there is no match, or no such folder.  The search is
            complete when this returns.  Folders that cannot be listed are left out, and ``**``
            does not follow links.

        Raises
        ------
        SshConfigError
            The pattern is empty or absolute (a `ValueError`).
        """
        return self._glob(listing.parse_pattern(pattern))

    def rglob(self, pattern: str) -> Iterator[SshPath]:
        """
        Return the paths below the folder, at any depth, that match a pattern.

        Parameters
        ----------
        pattern : str
            A pattern as for `glob`; the same as ``glob("**/" + pattern)``.

        Returns
        -------
        Iterator[SshPath]
            The paths, as from `glob`.

        Raises
        ------
        SshConfigError
            The pattern is empty or absolute (a `ValueError`).
        """
        return self._glob(listing.parse_pattern(pattern, recursive=True))

    def _glob(self, pattern: Tuple[listing.PatternPart, ...]) -> Iterator[SshPath]:
        async def search(context: CopyContext, path: bytes) -> List[Tuple[str, ...]]:
            return await listing.find_matches(context, path, pattern)

        return iter([self._child(*names) for names in self._run(search)])

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """
        Create the folder.

        Parameters
        ----------
        mode : int
            Its permissions, without the bits of the server's umask.
        parents : bool
            Whether to create the folders that contain it, with default permissions.
        exist_ok : bool
            Whether a folder that exists is accepted.

        Raises
        ------
        OSError
            The folder cannot be created, such as a `FileExistsError`.
        """
        _check_mode(mode)

        async def make(context: CopyContext, path: bytes) -> None:
            await requests.make_folder(context, path, mode, parents, exist_ok)

        self._run(make, repeatable=False)

    def rmdir(self) -> None:
        """
        Remove the folder, which must be empty.

        Raises
        ------
        OSError
            The folder cannot be removed.
        """
        self._run(requests.remove_folder, repeatable=False)

    def rmtree(self, *, missing_ok: bool = False) -> None:
        """
        Remove the folder with everything in it.

        Links are removed, never followed.  The host's ``rm`` removes the folder, if the host has a
        shell; otherwise SFTP does, which works by path: then a folder that other users may change
        is refused, as they could redirect the removal.  The root, the home directory and what
        contains them are refused.

        Parameters
        ----------
        missing_ok : bool
            Whether it is accepted that the folder does not exist.

        Raises
        ------
        OSError
            The path is not a folder, or not everything could be removed.
        """

        async def remove(context: CopyContext, path: bytes) -> None:
            await removal.remove_tree(context, path, missing_ok)

        self._run(remove)

    # Changes.

    def unlink(self, missing_ok: bool = False) -> None:
        """
        Remove the file or link.

        Parameters
        ----------
        missing_ok : bool
            Whether it is accepted that the file does not exist.

        Raises
        ------
        OSError
            The file cannot be removed.
        """

        async def remove(context: CopyContext, path: bytes) -> None:
            await requests.remove_file(context, path, missing_ok)

        self._run(remove, repeatable=False)

    def rename(self, target: Union[str, PureSshPath]) -> SshPath:
        """
        Rename the file or folder, and replace a file (or an empty folder) at the target.

        Parameters
        ----------
        target : Union[str, SshPath]
            The new path on the same host.  A relative one starts at the home directory, not in the
            folder of this path.

        Returns
        -------
        SshPath
            The new path.

        Raises
        ------
        SshConfigError
            `target` is on another host (a `ValueError`).
        OSError
            It cannot be renamed.  Servers other than OpenSSH may refuse to replace a file, and
            proftpd cannot rename links.
        """
        new = self._parse(target)

        async def rename(context: CopyContext, path: bytes) -> None:
            await requests.rename(context, path, to_bytes(str(new)))

        self._run(rename, repeatable=False)
        return new

    def replace(self, target: Union[str, PureSshPath]) -> SshPath:
        """
        Do the same as `rename`.

        Parameters
        ----------
        target : Union[str, SshPath]
            The new path on the same host.

        Returns
        -------
        SshPath
            The new path.

        Raises
        ------
        SshConfigError
            `target` is on another host (a `ValueError`).
        OSError
            It cannot be renamed.
        """
        return self.rename(target)

    def touch(self, mode: int = 0o666, exist_ok: bool = True) -> None:
        """
        Create an empty file, or set the times of one that exists to the current time.

        Parameters
        ----------
        mode : int
            The permissions of a new file, without the bits of the server's umask.
        exist_ok : bool
            Whether a file that exists is accepted.

        Raises
        ------
        OSError
            The file cannot be created or changed.
        """
        _check_mode(mode)

        async def touch(context: CopyContext, path: bytes) -> None:
            await requests.touch(context, path, mode, exist_ok)

        self._run(touch, repeatable=False)

    def chmod(self, mode: int) -> None:
        """
        Set the permissions; a link is followed.

        Parameters
        ----------
        mode : int
            The permissions, such as ``0o640``.

        Raises
        ------
        OSError
            They cannot be set.
        """
        _check_mode(mode)

        async def chmod(context: CopyContext, path: bytes) -> None:
            await requests.chmod(context, path, mode)

        self._run(chmod, repeatable=False)

    # Links.

    def symlink_to(
        self, target: Union[str, PurePath, PureSshPath], target_is_directory: bool = False
    ) -> None:
        """
        Create a symbolic link at this path.

        Parameters
        ----------
        target : Union[str, PurePath, SshPath]
            What the link points to.  A relative path starts in the folder of the link, and ``~``
            is not expanded.
        target_is_directory : bool
            Without effect, as in `pathlib` on POSIX.

        Raises
        ------
        OSError
            The link cannot be created, such as a `FileExistsError`.
        """
        text = str(self._parse(target)) if isinstance(target, PureSshPath) else target
        text = text.as_posix() if isinstance(text, PurePath) else text
        if not isinstance(text, str) or not text or "\0" in text:
            raise invalid_setting("target", text, "a path")
        check_encodable("target", text)
        plain = to_bytes(text)

        async def link(context: CopyContext, path: bytes) -> None:
            await requests.make_link(context, path, plain)

        self._run(link, repeatable=False)

    def readlink(self) -> SshPath:
        """
        Return what the symbolic link points to.

        Returns
        -------
        SshPath
            The target as it is stored.  A relative one is relative to the link's folder:
            ``link.parent / link.readlink()``.

        Raises
        ------
        OSError
            This is not a link, or it cannot be read.
        """
        text = to_text(self._run(requests.read_link))
        return type(self)(self._host, f"./{text}" if text.startswith("~") else text)

    # Copies.

    def upload_from(self, local_path: StrPath, **options: Any) -> None:
        """
        Copy a local file or folder to this path, or into it if it is a folder.

        Parameters
        ----------
        local_path : Union[str, os.PathLike]
            The local file or folder.
        **options : Any
            The options of `ssh_service.upload`, such as ``contents=True`` and ``timeout=60``.

        Raises
        ------
        OSError
            Something cannot be copied; see `ssh_service.upload`.
        """
        self._check_options(options)
        api.upload(self._host, local_path, str(self), cache=self._host.cache, **options)

    def download_to(self, local_path: StrPath, **options: Any) -> None:
        """
        Copy this file or folder to a local path, or into it if it is a folder.

        Parameters
        ----------
        local_path : Union[str, os.PathLike]
            The local target.
        **options : Any
            The options of `ssh_service.download`, such as ``contents=True`` and ``timeout=60``.

        Raises
        ------
        OSError
            Something cannot be copied; see `ssh_service.download`.
        """
        self._check_options(options)
        api.download(self._host, str(self), local_path, cache=self._host.cache, **options)

    @staticmethod
    def _check_options(options: Any) -> None:
        if "cache" in options:
            raise SshConfigError("cache: expected none here; a Host takes one")


class FollowedEntry(NamedTuple):
    """
    An entry of a folder, and what it leads to.

    Attributes
    ----------
    path : SshPath
        The path of the entry.
    status : FileStatus
        The status of the entry itself.
    target : Optional[FileStatus]
        The status of what a link leads to; None if the entry is not a link, or leads nowhere.
    """

    path: SshPath
    status: FileStatus
    target: Optional[FileStatus]


def scan_followed(folder: SshPath) -> List[FollowedEntry]:
    """Return the entries of a folder, with what links lead to."""
    return [
        FollowedEntry(
            folder._child(to_text(entry.filename)),
            status_of(entry.attributes),
            None if target is None else status_of(target),
        )
        for entry, target in folder._run(listing.list_followed)
    ]


def read_range(path: SshPath, start: Optional[int], end: Optional[int]) -> bytes:
    """Return a part of a file; a negative offset counts from its end."""
    if start is None and end is None:
        return path.read_bytes()

    async def read(context: CopyContext, plain: bytes) -> bytes:
        return await content.read_range(context, plain, start, end)

    return path._run(read)


def _check_mode(mode: Any) -> None:
    if isinstance(mode, bool) or not isinstance(mode, int) or not 0 <= mode <= _ALL_MODE_BITS:
        raise invalid_setting("mode", mode, "permissions from 0 to 0o7777, such as 0o644")
