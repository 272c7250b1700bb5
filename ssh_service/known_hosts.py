"""
Whom we trust: known_hosts files, fingerprint pins, and the policies over them.

The parser is our own because paramiko's refuses a whole file over one line it does not know
(``@revoked``, ``@cert-authority``), and matches neither wildcards nor negation.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import hmac
import logging
import os
import struct
from dataclasses import dataclass
from typing import Iterable, List, NamedTuple, Optional, Sequence, Set, Tuple

from ssh_service.errors import SshConfigError, SshHostKeyError
from ssh_service.patterns import is_match_list

__all__ = ["POLICIES", "HostKeyTrust", "KnownHosts", "KnownKey", "fingerprint", "host_name"]

_log = logging.getLogger(__name__)

POLICIES = ("strict", "accept-new", "off")

_RSA_ALGORITHMS = ("rsa-sha2-512", "rsa-sha2-256")
_CERTIFICATE = "-cert-v01@openssh.com"


def fingerprint(blob: bytes) -> str:
    """
    Show a public key as ssh does.

    Parameters
    ----------
    blob : bytes
        The public key in SSH wire format.

    Returns
    -------
    str
        ``SHA256:`` and 43 characters of base64.
    """
    digest = hashlib.sha256(blob).digest()
    return "SHA256:" + base64.b64encode(digest).decode("ascii").rstrip("=")


def host_name(host: str, port: int) -> str:
    """
    Write an address as it stands in a known_hosts file.

    Parameters
    ----------
    host : str
        A name or an address.
    port : int
        The TCP port.

    Returns
    -------
    str
        ``host``, or ``[host]:port`` where the port is not 22; in lower case.
    """
    host = host.lower()
    return host if port == 22 else f"[{host}]:{port}"


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
        """Where it stands: ``file:line``."""
        return f"{self.file}:{self.line}"

    def is_for(self, name: str) -> bool:
        """
        Tell whether the line speaks of a host.

        Parameters
        ----------
        name : str
            As `host_name` writes it.

        Returns
        -------
        bool
            Whether the name is hashed here, or matched by the line's patterns.
        """
        if self.hosts.startswith("|1|"):
            return _is_hashed(name, self.hosts)
        return is_match_list(name, self.hosts.lower().split(","))


def _is_hashed(name: str, field: str) -> bool:
    try:
        _, _, salt, digest = field.split("|")
        wanted = base64.b64decode(digest, validate=True)
        key = base64.b64decode(salt, validate=True)
    except ValueError:
        return False
    return hmac.compare_digest(hmac.new(key, name.encode("utf-8"), hashlib.sha1).digest(), wanted)


class KnownHosts:
    """
    The keys on file, of one file or several.

    Parameters
    ----------
    keys : Iterable[KnownKey]
        In the order of the files.

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

        A line that cannot be used is a warning with file and line, and is passed over.

        Parameters
        ----------
        files : Sequence[str]
            Paths; a file that does not exist holds no keys.

        Returns
        -------
        KnownHosts
            The keys of all files.

        Raises
        ------
        SshConfigError
            A file exists and cannot be read.
        """
        keys: List[KnownKey] = []
        for path in files:
            try:
                facts = os.stat(path)
                keys.extend(_parse(path, facts.st_mtime_ns, facts.st_size, facts.st_ino))
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
        """
        Find the lines that speak of a host.

        Parameters
        ----------
        names : Iterable[str]
            The names the host goes by, as `host_name` writes them.

        Returns
        -------
        List[KnownKey]
            Matching lines of every marker, in order.
        """
        wanted = tuple(names)
        return [key for key in self._keys if any(key.is_for(name) for name in wanted)]


@functools.lru_cache(maxsize=16)
def _parse(path: str, mtime_ns: int, size: int, inode: int) -> Tuple[KnownKey, ...]:
    with open(path, "rb") as file:
        text = file.read().decode("utf-8", "surrogateescape")
    keys = []
    for number, line in enumerate(text.split("\n"), 1):
        try:
            key = _parse_line(line, path, number)
        except ValueError as error:
            _log.warning("%s:%d: line passed over: %s", path, number, error)
            continue
        if key is not None:
            keys.append(key)
    return tuple(keys)


def _parse_line(text: str, path: str, number: int) -> Optional[KnownKey]:
    fields = text.split()
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
    if hosts.startswith("|") and not _is_hash(hosts):
        raise ValueError("the hashed host name is damaged")
    return KnownKey(marker, hosts, key_type, blob, path, number)


def _is_hash(field: str) -> bool:
    parts = field.split("|")
    try:
        sizes = [len(base64.b64decode(part, validate=True)) for part in parts[2:]]
    except ValueError:
        return False
    return parts[:2] == ["", "1"] and sizes == [20, 20]


@dataclass(frozen=True)
class HostKeyTrust:
    """
    How the host key of one connection is judged.

    Parameters
    ----------
    policy : str
        ``strict``: only keys on file.  ``accept-new``: a host without any key on file is
        believed once, and its key written to the first file.  ``off``: any key.
    files : Tuple[str, ...]
        known_hosts files, the user's first.
    pins : Tuple[str, ...]
        ``SHA256:...`` fingerprints; where given, they alone decide (besides ``@revoked``).

    Notes
    -----
    *Thread safety*: immutable; `verify` may be called by many threads and processes at once.
    """

    policy: str = "strict"
    files: Tuple[str, ...] = ()
    pins: Tuple[str, ...] = ()

    def algorithms(self, offered: Sequence[str], names: Sequence[str]) -> Tuple[str, ...]:
        """
        Order host-key algorithms by the keys on file.

        A server with several keys must be asked for one that is known, else it looks changed.

        Parameters
        ----------
        offered : Sequence[str]
            The algorithms to offer, in order of preference.
        names : Sequence[str]
            The names the host goes by.

        Returns
        -------
        Tuple[str, ...]
            The same algorithms, those of known keys first.
        """
        if self.policy == "off" or self.pins:
            return tuple(offered)
        known: Set[str] = set()
        for key in KnownHosts.load(self.files).lookup(names):
            if not key.marker:
                known.update(_RSA_ALGORITHMS if key.key_type == "ssh-rsa" else (key.key_type,))
        return tuple(sorted(offered, key=lambda name: name not in known))

    def verify(
        self,
        key_type: str,
        blob: bytes,
        names: Sequence[str],
        *,
        certificate: Optional[bytes] = None,
        connection_id: Optional[str] = None,
    ) -> None:
        """
        Judge the key a server proved to hold.

        Parameters
        ----------
        key_type : str
            Its type, such as ``ssh-ed25519``.
        blob : bytes
            The plain public key in wire format.
        names : Sequence[str]
            The names the host goes by: first the one a new key would be filed under.
        certificate : Optional[bytes]
            The host certificate in wire format, where the server showed one.
        connection_id : Optional[str]
            For the error.

        Raises
        ------
        SshHostKeyError
            The key is not trusted.  Nothing secret has been sent.
        """
        known = KnownHosts.load(self.files).lookup(names) if self.files else []
        shown = fingerprint(blob)
        for line in known:
            if line.marker == "@revoked" and line.blob == blob:
                raise SshHostKeyError(
                    f"host key {shown} of {names[0]} is revoked: {line.origin}",
                    expected=None,
                    received=shown,
                    connection_id=connection_id,
                )
        if self.pins:
            if shown not in self.pins:
                raise SshHostKeyError(
                    f"host key of {names[0]} is {shown} ({key_type}), "
                    f"not as pinned: {', '.join(self.pins)}",
                    expected=self.pins[0],
                    received=shown,
                    connection_id=connection_id,
                )
            return
        if self.policy == "off":
            return
        plain = [line for line in known if not line.marker]
        if any(line.blob == blob for line in plain):
            return
        self._refuse_changed(key_type, shown, names, known, connection_id)
        if self.policy == "accept-new" and self.files:
            _append(self.files[0], names[0], key_type, blob)
            return
        where = ", ".join(self.files) or "(no file)"
        raise SshHostKeyError(
            f"host key of {names[0]} is not known: the server shows {shown} ({key_type}); "
            f"looked in {where}",
            received=shown,
            connection_id=connection_id,
        )

    @staticmethod
    def _refuse_changed(
        key_type: str,
        shown: str,
        names: Sequence[str],
        known: Sequence[KnownKey],
        connection_id: Optional[str],
    ) -> None:
        plain = [line for line in known if not line.marker]
        same_type = [line for line in plain if line.key_type == key_type]
        for line in same_type or plain:
            expected = fingerprint(line.blob)
            raise SshHostKeyError(
                f"host key of {names[0]} has CHANGED: the server shows {shown} ({key_type}), "
                f"on file is {expected} ({line.key_type}) at {line.origin}",
                expected=expected,
                received=shown,
                connection_id=connection_id,
            )
        for line in known:
            if line.marker == "@cert-authority":
                raise SshHostKeyError(
                    f"host key of {names[0]} must be certified by the authority at "
                    f"{line.origin}: the server shows {shown} ({key_type}) without a certificate",
                    expected=fingerprint(line.blob),
                    received=shown,
                    connection_id=connection_id,
                )


def _append(path: str, name: str, key_type: str, blob: bytes) -> None:
    line = f"{name} {key_type} {base64.b64encode(blob).decode('ascii')}\n".encode("utf-8")
    try:
        os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb") as file:
            file.write(line)
    except OSError as error:
        raise SshConfigError(
            f"known_hosts {path!r} cannot be written: {error.strerror}"
        ) from error
    _log.warning(
        "%s: host key %s (%s) was new: added to %s", name, fingerprint(blob), key_type, path
    )
