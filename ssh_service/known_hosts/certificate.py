"""
Host certificates, verified completely: authority, signature, principal, validity, options.

The format is that of OpenSSH's PROTOCOL.certkeys.
"""

from __future__ import annotations

import struct
import time
from typing import List, NamedTuple, Optional, Sequence, Tuple

import paramiko

from ssh_service.algorithms import CA_SIGNATURES, CERTIFICATE
from ssh_service.patterns import is_match

__all__ = ["HostCertificate"]

_HOST = 2
_MAX_TEXT = 100  # maximum length of a server's text in a message
# The number of fields of the certified key, between the nonce and the serial number.
_KEY_FIELDS = {"ssh-rsa": 2, "ssh-ed25519": 1}


class HostCertificate(NamedTuple):
    """A host certificate as received; it must not be trusted unless `problem` returns None."""

    key_id: str
    kind: int
    principals: Tuple[str, ...]
    valid_after: int
    valid_before: int
    critical_options: Tuple[str, ...]
    authority: bytes
    signed: bytes
    signature: bytes

    @property
    def name(self) -> str:
        """The key id of the certificate, escaped for messages."""
        return repr(self.key_id[:_MAX_TEXT])

    @classmethod
    def parse(cls, blob: bytes) -> HostCertificate:
        """
        Parse a certificate.

        Raises
        ------
        ValueError
            The data is not a host certificate of a supported type.
        """
        reader = _FieldReader(blob)
        key_type = reader.text()
        if not key_type.endswith(CERTIFICATE):
            raise ValueError(f"{key_type[:_MAX_TEXT]!r} is not a certificate type")
        plain = key_type[: -len(CERTIFICATE)]
        count = 2 if plain.startswith("ecdsa-") else _KEY_FIELDS.get(plain)
        if count is None:
            raise ValueError(f"certificates of type {key_type[:_MAX_TEXT]!r} are not supported")
        for _ in range(1 + count):  # the nonce, then the key
            reader.string()
        reader.take(8)  # the serial number
        (kind,) = struct.unpack(">I", reader.take(4))
        key_id = reader.text()
        principals = _strings(reader.string())
        valid_after, valid_before = struct.unpack(">QQ", reader.take(16))
        options = _strings(reader.string())[::2]
        reader.string()  # extensions: none are defined for hosts
        reader.string()  # reserved
        authority = reader.string()
        signed = blob[: reader.at]
        signature = reader.string()
        if reader.at != len(blob):
            raise ValueError("there is data after its end")
        return cls(
            key_id,
            kind,
            principals,
            valid_after,
            valid_before,
            options,
            authority,
            signed,
            signature,
        )

    def problem(
        self,
        host: str,
        now: Optional[float] = None,
        signatures: Sequence[str] = CA_SIGNATURES,
    ) -> Optional[str]:
        """
        Return why the certificate is not valid for a host; None if it is valid.

        This does not check whether the authority is trusted.
        """
        now = time.time() if now is None else now
        if self.kind != _HOST:
            return "it is not a host certificate"
        problem = self._signature_problem(
            signatures
        )  # first: all other fields depend on the signature
        if problem is not None:
            return problem
        if not any(is_match(host, principal.lower()) for principal in self.principals):
            # Unlike in old versions of ssh, an empty list does not mean all hosts.
            return f"it is for {_shown(self.principals) or 'nobody'}"
        if now < self.valid_after:
            return f"it is not valid before {_date(self.valid_after)}"
        if now >= self.valid_before:
            return f"it expired at {_date(self.valid_before)}"
        if self.critical_options:
            return f"it has critical options: {_shown(self.critical_options)}"
        return None

    def _signature_problem(self, signatures: Sequence[str]) -> Optional[str]:
        try:
            signature = _FieldReader(self.signature)
            algorithm = signature.text()
            signature.string()
            authority_type = _FieldReader(self.authority).text()
            if algorithm not in signatures:
                return f"it is signed with {algorithm[:_MAX_TEXT]!r}"
            if signature.more:
                return "its signature goes on after its end"
            if authority_type.endswith(CERTIFICATE):
                return "its authority is a certificate itself"
            key = paramiko.PKey.from_type_string(authority_type, self.authority)
            if key.verify_ssh_sig(self.signed, paramiko.Message(self.signature)):
                return None
        except Exception:  # noqa: B902  (a peer wrote it, and three libraries read it)
            return "its signature cannot be verified"
        return "its signature is wrong"


class _FieldReader:
    """Reads the fields of a message; raises ValueError if the message is too short."""

    def __init__(self, blob: bytes) -> None:
        self._blob = blob
        self.at = 0

    def take(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self._blob):
            raise ValueError("it is truncated")
        taken = self._blob[self.at : end]
        self.at = end
        return taken

    def string(self) -> bytes:
        (size,) = struct.unpack(">I", self.take(4))
        return self.take(size)

    def text(self) -> str:
        return self.string().decode("utf-8", "backslashreplace")

    @property
    def more(self) -> bool:
        return self.at < len(self._blob)


def _strings(blob: bytes) -> Tuple[str, ...]:
    reader = _FieldReader(blob)
    found: List[str] = []
    while reader.more:
        found.append(reader.text())
    return tuple(found)


def _shown(names: Sequence[str]) -> str:
    return ", ".join(name if name.isprintable() else repr(name) for name in names)


def _date(seconds: int) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return str(seconds)
