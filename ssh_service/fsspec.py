"""
A file system of fsspec over cached SFTP sessions: pandas, dask and others read files of a host.

It is installed as the protocol ``sshservice``; `register` makes it ``ssh`` and ``sftp`` as well.
Needs the extra ``fsspec``.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import pickle
import re
import shutil
import stat
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, TypeVar, Union

from ssh_service import local_paths, params
from ssh_service.copying import temporary
from ssh_service.errors import SshConfigError
from ssh_service.host import Host
from ssh_service.paths.path import FollowedEntry, SshPath, read_range, scan_followed
from ssh_service.paths.status import FileStatus

try:
    import fsspec
    from fsspec.callbacks import DEFAULT_CALLBACK
    from fsspec.utils import isfilelike
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"No module named {error.name!r}; install it with: pip install fsspec"
        " (in a checkout: pip install '.[fsspec]')",
        name=error.name,
    ) from error

__all__ = ["SshFileSystem", "register"]

_T = TypeVar("_T")

_URL = re.compile(r"(?P<scheme>[a-z]+)://(?P<address>[^/]*)(?P<path>.*)", re.DOTALL)
_MAGIC = re.compile(r"[*?\[]")
_SCHEMES = ("sshservice", "ssh", "sftp")
# Options of fsspec's own, which are not connect parameters.
_OWN_OPTIONS = ("use_listings_cache", "listings_expiry_time", "max_paths", "asynchronous", "loop")


class SshFileSystem(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """
    The files of a host, for fsspec.

    URLs are ``sshservice://[user@]host[:port]/path``.  The path is absolute, or starts at the home
    directory if it is ``/~/...``; a path without a URL may also be relative to the home directory.

    Parameters
    ----------
    host : Union[str, Host, Mapping[str, Any]]
        The host, as for `Host`.
    **settings : Any
        Further settings, such as ``username`` and ``connect_timeout``
        (`ssh_service.params.SETTINGS` lists all).

    Attributes
    ----------
    ssh_host : Host
        The host.

    Raises
    ------
    SshConfigError
        A setting is unknown or invalid (a `ValueError`).

    Notes
    -----
    Thread safety.  Every method may be called from any thread.  All file systems of one host share
    the connection of `default_cache`.

    Host keys are checked strictly against ``known_hosts`` unless the settings say otherwise, which
    fsspec's own file system for ``ssh`` and ``sftp`` does not do.

    `pipe_file`, `put_file` and `get_file` replace a file atomically; files that are opened are
    changed in place, or replaced at the end of a transaction.  A file that is written gets its
    folder if that is missing, as on object stores.  Listings are not cached.

    A file system with the text of a password or a private key can be neither pickled nor written
    as JSON.

    Examples
    --------
    >>> pandas.read_csv("sshservice://deploy@web1/srv/data/sales.csv")
    """

    protocol = "sshservice"
    root_marker = "/"

    def __init__(self, host: Union[str, Host, Mapping[str, Any]], **settings: Any) -> None:
        if self._cached:
            return
        own = {name: settings.pop(name) for name in _OWN_OPTIONS if name in settings}
        super().__init__(**own)
        self.ssh_host = Host(host, **settings)

    def __reduce__(self) -> Any:
        self._refuse_secrets()
        return super().__reduce__()

    def to_dict(self, **options: Any) -> Dict[str, Any]:
        """
        Return the arguments of this file system, which `to_json` writes.

        Parameters
        ----------
        **options : Any
            The options of `fsspec.AbstractFileSystem.to_dict`.

        Returns
        -------
        Dict[str, Any]
            The arguments, and the class.

        Raises
        ------
        TypeError
            A setting has the text of a password or a private key.
        """
        self._refuse_secrets()
        return super().to_dict(**options)  # type: ignore[no-any-return]

    def _refuse_secrets(self) -> None:
        pickle.dumps(self.ssh_host)

    # Paths.

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        """Return the path on the host for a URL, or for a path."""
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        path = path if isinstance(path, str) else os.fspath(path)
        match = _URL.fullmatch(path)
        if match is not None and match["scheme"] in _SCHEMES:
            path = match["path"]
            path = path[1:] if path.startswith("/~") else path or "/"
        return path.rstrip("/") or "/"

    def unstrip_protocol(self, name: str) -> str:
        """
        Return the URL of a path.

        Parameters
        ----------
        name : str
            The path.

        Returns
        -------
        str
            The URL, with the host.
        """
        path = str(self._strip_protocol(name))
        if not path.startswith("/"):
            path = f"/{path}" if path.startswith("~") else f"/~/{path}"
        return f"sshservice://{self.ssh_host}{path}"

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> Dict[str, Any]:
        """Return the connect parameters that a URL contains."""
        match = _URL.fullmatch(path)
        if match is None or match["scheme"] not in _SCHEMES or not match["address"]:
            return {}
        return dict(params.settings_of(f"ssh://{match['address']}"))

    def _path(self, path: Any) -> SshPath:
        return self.ssh_host.path(self._strip_protocol(path) or ".")

    @staticmethod
    def _with_parent(path: SshPath, write: Callable[[], _T]) -> _T:
        """Call `write`, and again after creating the folder of `path` if that is missing."""
        try:
            return write()
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            return write()

    # Status.

    def info(self, path: str, **kwargs: Any) -> Dict[str, Any]:
        """
        Return the status of a file or folder; links are followed.

        Parameters
        ----------
        path : str
            The path.
        **kwargs : Any
            Without effect.

        Returns
        -------
        Dict[str, Any]
            ``name``, ``size``, ``type``, ``mtime`` (in seconds), ``mode``, ``uid`` and ``gid``.
        """
        found = self._path(path)
        return _info(str(self._strip_protocol(path)), found.stat())

    def exists(self, path: str, **kwargs: Any) -> bool:
        """
        Return whether there is a file or folder.

        Parameters
        ----------
        path : str
            The path.
        **kwargs : Any
            Without effect.

        Returns
        -------
        bool
            Whether it exists; a lost connection is an error.
        """
        return self._path(path).exists()

    def lexists(self, path: str, **kwargs: Any) -> bool:
        """
        Return whether there is a file, a folder or a link.

        Parameters
        ----------
        path : str
            The path.
        **kwargs : Any
            Without effect.

        Returns
        -------
        bool
            Whether it exists, also if it is a dangling link.
        """
        return self._path(path).exists(follow_symlinks=False)

    def isdir(self, path: str) -> bool:
        """
        Return whether this is a folder, or a link to one.

        Parameters
        ----------
        path : str
            The path.

        Returns
        -------
        bool
            Whether it is a folder; a lost connection is an error.
        """
        return self._path(path).is_dir()

    def isfile(self, path: str) -> bool:
        """
        Return whether this is a regular file, or a link to one.

        Parameters
        ----------
        path : str
            The path.

        Returns
        -------
        bool
            Whether it is a file; a lost connection is an error.
        """
        return self._path(path).is_file()

    def modified(self, path: str) -> datetime.datetime:
        """
        Return the time of the last modification.

        Parameters
        ----------
        path : str
            The path.

        Returns
        -------
        datetime.datetime
            The time in UTC, in whole seconds.
        """
        seconds = self._path(path).stat().st_mtime
        return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> List[Any]:
        """
        List a folder.

        Parameters
        ----------
        path : str
            The folder; of a file, the entry of itself is returned.
        detail : bool
            Whether to return what `info` does.  Only links to files are followed: a link to a
            folder has the type ``link``.
        **kwargs : Any
            Without effect.

        Returns
        -------
        List[Any]
            The entries, or their names.
        """
        folder = str(self._strip_protocol(path))
        try:
            found = [_entry(folder, entry) for entry in scan_followed(self._path(path))]
        except NotADirectoryError:
            found = [self.info(path)]
        return found if detail else sorted(entry["name"] for entry in found)

    # Folders and removal.

    def mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:
        """
        Create a folder.

        Parameters
        ----------
        path : str
            The folder; it must not exist.
        create_parents : bool
            Whether to create the folders that contain it.
        **kwargs : Any
            Without effect.
        """
        self._path(path).mkdir(parents=create_parents)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """
        Create a folder, and those that contain it.

        Parameters
        ----------
        path : str
            The folder.
        exist_ok : bool
            Whether a folder that exists is accepted.
        """
        self._path(path).mkdir(parents=True, exist_ok=exist_ok)

    def rmdir(self, path: str) -> None:
        """
        Remove an empty folder.

        Parameters
        ----------
        path : str
            The folder.
        """
        self._path(path).rmdir()

    def rm_file(self, path: str) -> None:
        """
        Remove a file.

        Parameters
        ----------
        path : str
            The file.
        """
        self._path(path).unlink()

    def _rm(self, path: str) -> None:
        self.rm_file(path)

    def rm(
        self, path: Union[str, List[str]], recursive: bool = False, maxdepth: Optional[int] = None
    ) -> None:
        """
        Remove files, and with `recursive` folders with everything in them.

        Parameters
        ----------
        path : Union[str, List[str]]
            One or more paths, which may be patterns, unless they exist under that name.
        recursive : bool
            Whether folders are removed; see `SshPath.rmtree`.
        maxdepth : Optional[int]
            How many levels of a pattern's ``**`` are searched; None: all.
        """
        for one in self._matches(path if isinstance(path, list) else [path], maxdepth):
            found = self._path(one)
            if recursive and stat.S_ISDIR(found.lstat().st_mode):
                found.rmtree()
            else:
                found.unlink()

    def _matches(self, paths: Iterable[str], maxdepth: Optional[int]) -> List[str]:
        """Return the paths that are given or match, each once."""
        matches: Dict[str, None] = {}
        for path in map(self._strip_protocol, paths):
            is_pattern = _MAGIC.search(path) is not None and not self.lexists(path)
            found = self.expand_path(path, maxdepth=maxdepth) if is_pattern else [path]
            matches.update(dict.fromkeys(found))
        return list(matches)

    def mv(
        self,
        path1: Any,
        path2: Any,
        recursive: bool = False,
        maxdepth: Optional[int] = None,
        **kwargs: Any,
    ) -> None:
        """
        Rename a file or folder; into a folder, if that is the target.

        Parameters
        ----------
        path1, path2 : str
            The old and the new path; lists and patterns are copied and then removed.
        recursive : bool
            Whether folders of a list or pattern are moved, too.
        maxdepth : Optional[int]
            As for `copy`.
        **kwargs : Any
            As for `copy`.
        """
        is_one = isinstance(path1, str) and isinstance(path2, str)
        if not is_one or maxdepth is not None or not self.exists(path1):
            super().mv(path1, path2, recursive=recursive, maxdepth=maxdepth, **kwargs)
            return
        target = self._path(path2)
        if path2.endswith("/") or target.is_dir():
            target = target / self._path(path1).name
        self._with_parent(target, lambda: self._path(path1).rename(target))

    # Content.

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: Any = None,
        autocommit: bool = True,
        cache_options: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Open a file; if not `autocommit`, a temporary one that replaces it at the end."""
        target = self._path(path)
        size = block_size if isinstance(block_size, int) and block_size > 1 else -1
        if "r" in mode:
            return target.open(mode, size)
        if autocommit or "a" in mode:
            return self._with_parent(target, lambda: target.open(mode, size))
        if "x" in mode and target.exists(follow_symlinks=False):
            raise FileExistsError(f"{target} exists")
        name = temporary.names.new(os.fsencode(target.name))
        unfinished = target.with_name(os.fsdecode(name))
        return self._with_parent(target, lambda: _Replacement(target, unfinished, size))

    def cat_file(
        self, path: str, start: Optional[int] = None, end: Optional[int] = None, **kwargs: Any
    ) -> bytes:
        """
        Return the content of a file, or a part of it.

        Parameters
        ----------
        path : str
            The file.
        start, end : Optional[int]
            The part, in bytes; a negative offset counts from the end of the file.
        **kwargs : Any
            Without effect.

        Returns
        -------
        bytes
            The content.
        """
        return read_range(self._path(path), start, end)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        """
        Write a file as a whole, atomically.

        Parameters
        ----------
        path : str
            The file.
        value : bytes
            The content.
        mode : str
            ``"overwrite"``, or ``"create"`` if a file that exists is an error.
        **kwargs : Any
            Without effect.
        """
        target = self._path(path)
        if mode == "create":
            with self._open(path, "xb") as file:
                file.write(value)
        else:
            self._with_parent(target, lambda: target.write_bytes(value))

    def touch(self, path: str, truncate: bool = True, **kwargs: Any) -> None:
        """
        Create an empty file.

        Parameters
        ----------
        path : str
            The file.
        truncate : bool
            Whether a file that exists becomes empty; otherwise only its times are set.
        **kwargs : Any
            Without effect.
        """
        target = self._path(path)
        if truncate:
            self._open(path, "wb").close()
        else:
            self._with_parent(target, target.touch)

    def cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        """
        Copy a file of the host, through this machine, and replace the target atomically.

        Parameters
        ----------
        path1, path2 : str
            The source and the target.
        **kwargs : Any
            Without effect.
        """
        source, target = self._path(path1), self._path(path2)
        if source.is_dir():
            target.mkdir(parents=True, exist_ok=True)
            return
        target = target.resolve()
        with source.open("rb") as reader:
            # Not in place: the target may be the source itself, by another path.
            writer = self._open(str(target), "wb", autocommit=False)
            try:
                shutil.copyfileobj(reader, writer, 1024 * 1024)
                writer.keep_mode()
                writer.commit()
            except BaseException:
                writer.discard()
                raise

    def put_file(
        self,
        lpath: Any,
        rpath: str,
        callback: Any = DEFAULT_CALLBACK,
        mode: str = "overwrite",
        **kwargs: Any,
    ) -> None:
        """
        Upload a file, atomically.

        Parameters
        ----------
        lpath, rpath : str
            The local file and the target.
        callback : Callback
            Receives the progress.
        mode : str
            ``"overwrite"``, or ``"create"`` if a file that exists is an error.
        **kwargs : Any
            Without effect.
        """
        target = self._path(rpath)
        if local_paths.is_folder(lpath):
            target.mkdir(parents=True, exist_ok=True)
            return
        if mode == "create" and target.exists(follow_symlinks=False):
            raise FileExistsError(f"{target} exists")
        callback.set_size(os.path.getsize(lpath))

        def upload() -> None:
            target.upload_from(
                lpath,
                preserve=False,
                progress=lambda progress: callback.absolute_update(progress.bytes_done),
            )

        self._with_parent(target, upload)

    def get_file(
        self,
        rpath: str,
        lpath: Any,
        callback: Any = DEFAULT_CALLBACK,
        outfile: Any = None,
        **kwargs: Any,
    ) -> None:
        """
        Download a file, atomically.

        Parameters
        ----------
        rpath : str
            The file.
        lpath : Union[str, file object]
            The local target.
        callback : Callback
            Receives the progress.
        outfile : Optional[file object]
            Instead of `lpath`, what the content is written to.
        **kwargs : Any
            Without effect.
        """
        if outfile is not None or isfilelike(lpath):
            super().get_file(rpath, lpath, callback=callback, outfile=outfile, **kwargs)
            return
        source = self._path(rpath)
        if source.is_dir():
            os.makedirs(lpath, exist_ok=True)
            return
        os.makedirs(os.path.dirname(os.path.abspath(lpath)), exist_ok=True)
        source.download_to(
            lpath,
            preserve=False,
            progress=lambda progress: callback.absolute_update(progress.bytes_done),
        )


class _Replacement:
    """A file of a transaction: it replaces its target when it is committed."""

    def __init__(self, target: SshPath, unfinished: SshPath, buffering: int) -> None:
        self._target = target
        self._unfinished = unfinished
        self._file = unfinished.open("xb", buffering)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _Replacement:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()

    def keep_mode(self) -> None:
        """Give the file the permissions of its target, if that exists."""
        with contextlib.suppress(FileNotFoundError):
            self._unfinished.chmod(stat.S_IMODE(self._target.stat().st_mode))

    def commit(self) -> None:
        """Replace the target."""
        self._file.close()
        self._unfinished.replace(self._target)
        self._release()

    def discard(self) -> None:
        """Remove the file."""
        self._file.close()
        self._unfinished.unlink(missing_ok=True)
        self._release()

    def _release(self) -> None:
        temporary.names.release(os.fsencode(self._unfinished.name))


def register(protocols: Iterable[str] = ("ssh", "sftp")) -> contextlib.ExitStack:
    """
    Replace fsspec's own file system for ``ssh://`` and ``sftp://`` URLs by `SshFileSystem`.

    This is for the whole process.  Unlike fsspec's, this file system checks host keys: a host that
    ``known_hosts`` does not have is refused (`SshHostKeyError`).  Options other than those of
    `SshFileSystem` are refused, too.

    Parameters
    ----------
    protocols : Iterable[str]
        The protocols to replace.

    Returns
    -------
    contextlib.ExitStack
        Its ``close()``, or the end of a ``with`` block, registers what was registered before.

    Examples
    --------
    >>> with ssh_service.fsspec.register():
    ...     pandas.read_csv("ssh://deploy@web1/srv/data/sales.csv")
    """
    undoing = contextlib.ExitStack()
    names = [protocols] if isinstance(protocols, str) else list(protocols)
    unknown = [name for name in names if name not in _SCHEMES]
    if unknown:
        raise SshConfigError(f"protocols: expected some of {_SCHEMES}, got {unknown[0]!r}")
    for name in names:
        before = fsspec.get_filesystem_class(name)
        undoing.callback(fsspec.register_implementation, name, before, clobber=True)
        fsspec.register_implementation(name, SshFileSystem, clobber=True)
    return undoing


def _info(name: str, status: FileStatus) -> Dict[str, Any]:
    kind = "other"
    for test, text in (
        (stat.S_ISDIR, "directory"),
        (stat.S_ISREG, "file"),
        (stat.S_ISLNK, "link"),
    ):
        if test(status.st_mode):
            kind = text
    return {
        "name": name,
        "size": status.st_size,
        "type": kind,
        "mtime": status.st_mtime,
        "mode": status.st_mode,
        "uid": status.st_uid,
        "gid": status.st_gid,
    }


def _entry(folder: str, entry: FollowedEntry) -> Dict[str, Any]:
    name = f"{folder.rstrip('/')}/{entry.path.name}" if folder != "." else entry.path.name
    target = entry.target
    if target is not None and stat.S_ISREG(target.st_mode):
        return {**_info(name, target), "islink": True}
    return _info(name, entry.status)
