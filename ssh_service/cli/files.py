"""The files of ``--output-dir``."""

from __future__ import annotations

import contextlib
import os
from typing import BinaryIO, Dict, Sequence, Tuple

import click

from ssh_service.errors import SshServiceError
from ssh_service.fleet.hosts import folder_name
from ssh_service.locks import Lock

__all__ = ["OutputFiles"]

_STREAMS = ("stdout", "stderr", "error")


class OutputFiles:
    """
    A folder with two files for each host, and a third if the host failed.

    Raises
    ------
    click.UsageError
        The folder cannot be created, or an earlier file cannot be removed.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.
    """

    def __init__(self, folder: str, hosts: Sequence[str]) -> None:
        if folder == "-":
            raise click.UsageError(
                "--output-dir must be a folder, got '-'; without it the output goes to standard"
                " output"
            )
        self._folder = folder
        try:
            os.makedirs(folder, exist_ok=True)
            for host in hosts:
                for stream in _STREAMS:
                    with contextlib.suppress(FileNotFoundError):
                        os.remove(self._path(host, stream))  # of a link, not what it leads to
        except FileExistsError as error:
            raise click.UsageError(f"--output-dir {folder}: is a file, not a folder") from error
        except OSError as error:
            path = error.filename or folder
            raise click.UsageError(f"--output-dir {path}: {error.strerror}") from error
        self._lock = Lock()
        self._files: Dict[Tuple[str, str], BinaryIO] = {}  # guarded by _lock

    def _path(self, host: str, stream: str) -> str:
        return os.path.join(self._folder, f"{folder_name(host)}.{stream}")

    def write(self, host: str, stream: str, data: bytes) -> None:
        """
        Append to a host's file ``stdout``, ``stderr`` or ``error``, created when first used.

        Raises
        ------
        SshServiceError
            The file cannot be written.
        """
        path = self._path(host, stream)
        try:
            with self._lock:
                file = self._files.get((host, stream))
                if file is None:
                    # Unbuffered, so that a full disk is reported immediately, not on closing.
                    # A new one: somebody else who may write to the folder could have put a link
                    # there since the earlier one was removed.
                    file = self._files[host, stream] = open(path, "xb", buffering=0)
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) or 0 :]
        except OSError as error:
            raise SshServiceError(f"{host}: cannot write {path}: {error.strerror}") from error

    def close(self, host: str) -> None:
        """Close the files of a host."""
        with self._lock:
            files = [self._files.pop((host, stream), None) for stream in _STREAMS]
        for file in files:
            if file is not None:
                file.close()
