"""ssh-python: libssh with as little Python around it as can be."""

from __future__ import annotations

import importlib.metadata
import os
import stat
from typing import Any, List

from ssh import options
from ssh.key import import_privkey_file
from ssh.session import Session
from ssh.sftp_attributes import SFTPAttributes

from benchmarks.peers.base import Peer
from benchmarks.target import CIPHER

__all__ = ["PEERS"]

_CHUNK = 256 * 1024
# One request; it was quicker with this than with more.
_BLOCK = 32 * 1024
# SSH_FILEXFER_ATTR_PERMISSIONS and SSH_FILEXFER_ATTR_ACMODTIME.
_PERMISSIONS, _TIMES = 4, 8


class _Libssh(Peer):
    """Session, with TCP_NODELAY; threads have a connection each, as libssh demands."""

    name = "ssh-python"
    serves_threads = False

    @staticmethod
    def version() -> str:
        """Tell which version is measured."""
        return importlib.metadata.version("ssh-python")

    def connect(self) -> None:
        """Make the connection."""
        target = self.target
        self._session = session = Session()
        session.options_set(options.HOST, target.host)
        session.options_set_port(target.port)
        session.options_set(options.USER, target.username)
        session.options_set(options.CIPHERS_C_S, CIPHER)
        session.options_set(options.CIPHERS_S_C, CIPHER)
        session.options_set_int_val(options.NODELAY, 1)
        session.options_set_int_val(options.PROCESS_CONFIG, 0)
        session.connect()
        session.userauth_publickey(import_privkey_file(target.client_key))

    def close(self) -> None:
        """End the connection."""
        self._session.disconnect()

    def run(self, command: str) -> str:
        """Run a command."""
        return b"".join(_pieces(self._session, command)).decode()

    def read(self, command: str) -> int:
        """Keep the output as bytes."""
        return len(b"".join(_pieces(self._session, command)))

    def upload(self, local: str, remote: str) -> None:
        """Copy there by SFTP, one file after the other."""
        sftp = self._sftp()
        if not os.path.isdir(local):
            return _put(sftp, local, remote)
        sftp.mkdir(remote, _mode(local))
        for name in os.listdir(local):
            _put(sftp, f"{local}/{name}", f"{remote}/{name}")
        _describe(sftp, local, remote)

    def download(self, remote: str, local: str) -> None:
        """Copy here by SFTP, one file after the other."""
        sftp = self._sftp()
        status = sftp.stat(remote)
        if not stat.S_ISDIR(status.permissions):
            return _get(sftp, remote, local)
        os.mkdir(local)
        with sftp.opendir(remote) as folder:
            names = [entry.name.decode() for entry in folder]
        for name in names:
            if name not in (".", ".."):
                _get(sftp, f"{remote}/{name}", f"{local}/{name}")
        _describe_here(status, local)

    def _sftp(self) -> Any:
        sftp = self._session.sftp_new()
        sftp.init()
        return sftp


def _pieces(session: Any, command: str) -> List[bytes]:
    channel = session.channel_new()
    channel.open_session()
    channel.request_exec(command)
    pieces = []
    count, data = channel.read(_CHUNK)
    while count > 0:
        pieces.append(data)
        count, data = channel.read(_CHUNK)
    channel.close()
    return pieces


def _mode(path: str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def _put(sftp: Any, local: str, remote: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    with open(local, "rb") as source, sftp.open(remote, flags, _mode(local)) as target:
        for data in iter(lambda: source.read(_BLOCK), b""):
            target.write(data)
    _describe(sftp, local, remote)


def _describe(sftp: Any, local: str, remote: str) -> None:
    status = os.stat(local)
    wanted = SFTPAttributes.new_attrs(sftp)
    wanted.flags = _PERMISSIONS | _TIMES  # its `utimes` sets another time than it is given
    wanted.permissions = stat.S_IMODE(status.st_mode)
    wanted.atime, wanted.mtime = int(status.st_atime), int(status.st_mtime)
    sftp.setstat(remote, wanted)


def _get(sftp: Any, remote: str, local: str) -> None:
    with sftp.open(remote, os.O_RDONLY, 0) as source, open(local, "wb") as target:
        count, data = source.read(_BLOCK)
        while count > 0:
            target.write(data)
            count, data = source.read(_BLOCK)
    _describe_here(sftp.stat(remote), local)


def _describe_here(status: Any, local: str) -> None:
    os.chmod(local, stat.S_IMODE(status.permissions))
    os.utime(local, (status.atime, status.mtime))


PEERS = [_Libssh]
