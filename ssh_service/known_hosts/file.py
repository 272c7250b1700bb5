"""
known_hosts files: parsing them, and finding the lines for a host.

Why not paramiko's parser: see docs/paramiko_repairs.md#known-hosts-lines.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import hmac
import logging
import os
import re
import struct
from typing import Iterable, List, NamedTuple, Optional, Sequence, Tuple

from ssh_service.errors import SshConfigError
from ssh_service.patterns import is_match_list
from ssh_service.user_files import file_version, read_file

__all__ = ["KnownHosts", "KnownKey", "fingerprint", "hashed_name", "host_name"]

_log = logging.getLogger(__name__)

_BLANKS = re.compile(r"[ \t\r]+")
# The number of parts of a public key, its type included; each is preceded by its length.
_PARTS = {
    "ssh-ed25519": 2,
    "ssh-rsa": 3,
    "ssh-dss": 5,
    "ecdsa-sha2-nistp256": 3,
    "ecdsa-sha2-nistp384": 3,
    "ecdsa-sha2-nistp521": 3,
    "sk-ssh-ed25519@openssh.com": 3,
    "sk-ecdsa-sha2-nistp256@openssh.com": 4,
}


def fingerprint(blob: bytes) -> str:
    """Return the fingerprint of a public key in ssh's format."""
    digest = hashlib.sha256(blob).digest()
    return "SHA256:" + base64.b64encode(digest).decode("ascii").rstrip("=")


def host_name(host: str, port: int) -> str:
    """Return a host and port in the format of known_hosts files."""
    host = host.lower()
    return host if port == 22 else f"[{host}]:{port}"


def hashed_name(name: str) -> str:
    """Return the hash of a name, as for ssh's ``HashKnownHosts``."""
    salt = os.urandom(hashlib.sha1().digest_size)
    parts = (salt, _digest(salt, name))
    return "|1|" + "|".join(base64.b64encode(part).decode("ascii") for part in parts)


def _digest(salt: bytes, name: str) -> bytes:
    return hmac.new(salt, name.encode("utf-8", "surrogateescape"), hashlib.sha1).digest()


class KnownKey(NamedTuple):
    """One usable line of a known_hosts file."""

    marker: str  # "", "@revoked" or "@cert-authority"
    hosts: str
    key_type: str
    blob: bytes
    file: str
    line: int

    @property
    def origin(self) -> str:
        """The position of the line: ``file:line``."""
        return f"{self.file}:{self.line}"

    def is_for(self, name: str) -> bool:
        """Return whether the line applies to a host."""
        if self.hosts.startswith("|1|"):
            return _is_hashed(name, self.hosts)
        return is_match_list(name, self.hosts.lower().split(","))


def _is_hashed(name: str, field: str) -> bool:
    try:
        _, _, salt, digest = field.split("|")
        wanted = base64.b64decode(digest, validate=True)
        return hmac.compare_digest(_digest(base64.b64decode(salt, validate=True), name), wanted)
    except ValueError:
        return False


class KnownHosts:
    """
    The keys in one or more known_hosts files.

    Notes
    -----
    *Thread safety*: immutable.
    """

    def __init__(self, keys: Iterable[KnownKey] = ()) -> None:
        self._keys = tuple(keys)

    @classmethod
    def load(cls, files: Sequence[str]) -> KnownHosts:
        """
        Read known_hosts files.

        An invalid line is skipped, with a warning that names the file and line.

        Raises
        ------
        SshConfigError
            A file exists but cannot be read.
        """
        keys: List[KnownKey] = []
        for path in files:
            try:
                keys.extend(_parse(path, file_version(os.stat(path))))
            except FileNotFoundError:
                continue
            except OSError as error:
                raise SshConfigError(
                    f"known_hosts {path!r} cannot be read: {error.strerror}"
                ) from error
        return cls(keys)

    def __len__(self) -> int:
        return len(self._keys)

    def lookup(self, names: Iterable[str]) -> List[KnownKey]:
        """Return the lines that apply to a host with these names."""
        wanted = tuple(names)
        return [key for key in self._keys if any(key.is_for(name) for name in wanted)]


@functools.lru_cache(maxsize=16)
def _parse(path: str, version: Tuple[int, ...]) -> Tuple[KnownKey, ...]:
    text = read_file(path).decode("utf-8", "surrogateescape")
    keys = []
    for number, line in enumerate(text.split("\n"), 1):
        try:
            key = _parse_line(line, path, number)
        except ValueError as error:
            _log.warning("%s:%d: line skipped: %s", path, number, error)
            continue
        if key is not None:
            keys.append(key)
    return tuple(keys)


def _parse_line(text: str, path: str, number: int) -> Optional[KnownKey]:
    # `str.split` also splits at characters that are not blanks for ssh.
    fields = [field for field in _BLANKS.split(text) if field]
    if not fields or fields[0].startswith("#"):
        return None
    marker = ""
    if fields[0].startswith("@"):
        marker = fields.pop(0)
        if marker not in ("@revoked", "@cert-authority"):
            raise ValueError(f"unknown marker {marker!r}")
    if len(fields) < 3:
        raise ValueError("needs host names, a key type and a key")
    hosts, key_type, encoded = fields[:3]
    try:
        blob = base64.b64decode(encoded, validate=True)
        (length,) = struct.unpack(">I", blob[:4])
    except (binascii.Error, struct.error):
        raise ValueError("the key is not base64") from None
    if blob[4 : 4 + length] != key_type.encode("utf-8", "surrogateescape"):
        raise ValueError(f"the key is not of the type {key_type!r}")
    if not _is_whole(blob, key_type):
        raise ValueError("the key is not complete")
    if hosts.startswith("|") and not _is_hash(hosts):
        raise ValueError("the hashed host name is damaged")
    return KnownKey(marker, hosts, key_type, blob, path, number)


def _is_whole(blob: bytes, key_type: str) -> bool:
    """Return whether a key ends where its parts end; one of another type counts as whole."""
    count = _PARTS.get(key_type)
    if count is None:
        return True
    sizes = []
    end = 0
    while end + 4 <= len(blob):
        (size,) = struct.unpack_from(">I", blob, end)
        sizes.append(size)
        end += 4 + size
    return end == len(blob) and len(sizes) == count and min(sizes) > 0


def _is_hash(field: str) -> bool:
    parts = field.split("|")
    try:
        sizes = [len(base64.b64decode(part, validate=True)) for part in parts[2:]]
    except ValueError:
        return False
    return parts[:2] == ["", "1"] and sizes == [20, 20]
