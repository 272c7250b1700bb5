"""
An SSH agent that plays a FIDO token: its keys are of the types that only a token has.

The key itself is in memory; what it signs is what a token would, so that OpenSSH verifies it.
"""

from __future__ import annotations

import hashlib
import socket
import struct
import threading
from pathlib import Path
from typing import Any, List, Tuple

import paramiko
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

__all__ = ["TOKEN_KEYS", "TokenAgent", "TokenKey", "packed"]

_APPLICATION = b"ssh:"
_TOUCHED = 1


def packed(*fields: bytes) -> bytes:
    """Return strings in SSH wire format."""
    return b"".join(struct.pack(">I", len(field)) + field for field in fields)


class TokenKey:
    """A key of a token: it signs what is asked, the application, whether touched, and a count."""

    def __init__(self, kind: str) -> None:
        self._private: Any
        if kind == "ed25519-sk":
            self.key_type = "sk-ssh-ed25519@openssh.com"
            self._private = ed25519.Ed25519PrivateKey.generate()
            form = serialization.Encoding.Raw, serialization.PublicFormat.Raw
            fields = [self._private.public_key().public_bytes(*form)]
        else:
            self.key_type = "sk-ecdsa-sha2-nistp256@openssh.com"
            self._private = ec.generate_private_key(ec.SECP256R1())
            form = serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
            fields = [b"nistp256", self._private.public_key().public_bytes(*form)]
        self.blob = packed(self.key_type.encode(), *fields, _APPLICATION)
        self.flags = _TOUCHED
        self.count = 0

    def sign(self, data: bytes) -> bytes:
        """Return a signature in wire format, flags and counter behind it."""
        self.count += 1
        facts = struct.pack(">BI", self.flags, self.count)
        digest = hashlib.sha256
        signed = digest(_APPLICATION).digest() + facts + digest(data).digest()
        if isinstance(self._private, ed25519.Ed25519PrivateKey):
            raw = self._private.sign(signed)
        else:
            message = paramiko.Message()
            for number in decode_dss_signature(
                self._private.sign(signed, ec.ECDSA(hashes.SHA256()))
            ):
                message.add_mpint(number)
            raw = message.asbytes()
        return packed(self.key_type.encode(), raw) + facts

    def write(self, path: Path) -> Path:
        """Write what `ssh-keygen` writes: the public half, and a handle in place of a private."""
        import base64

        handle = b"openssh-key-v1\0" + packed(b"none", b"none", b"") + struct.pack(">I", 1)
        handle += packed(self.blob, b"what only the token can read")
        lines = base64.encodebytes(handle).decode()
        path.write_text(
            f"-----BEGIN OPENSSH PRIVATE KEY-----\n{lines}-----END OPENSSH PRIVATE KEY-----\n"
        )
        path.chmod(0o600)
        public = f"{self.key_type} {base64.b64encode(self.blob).decode()} token\n"
        path.with_name(path.name + ".pub").write_text(public)
        return path


TOKEN_KEYS = ("ed25519-sk", "ecdsa-sk")


class TokenAgent:
    """
    Serves keys (`TokenKey`, or whatever has a blob) over a socket until left; a context manager.

    Attributes
    ----------
    signed : List[Tuple[bytes, int]]
        The key and the flags of every signature that was asked for.
    """

    def __init__(self, path: str, *keys: Any) -> None:
        self.path = path
        self.keys = keys
        self.signed: List[Tuple[bytes, int]] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, name="token-agent")

    def __enter__(self) -> TokenAgent:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as asked:
                while True:
                    head = asked.read(4)
                    if len(head) < 4:
                        break
                    body = asked.read(struct.unpack(">I", head)[0])
                    connection.sendall(packed(self._answer(body)))

    def _answer(self, body: bytes) -> bytes:
        if body[0] == 11:  # list
            pairs = b"".join(packed(key.blob, b"my token") for key in self.keys)
            return struct.pack(">BI", 12, len(self.keys)) + pairs
        message = paramiko.Message(body[1:])
        blob, data, flags = message.get_string(), message.get_string(), message.get_int()
        for key in self.keys:
            if key.blob == blob and body[0] == 13:
                self.signed.append((blob, flags))
                return b"\x0e" + packed(key.sign(data))
        return b"\x05"
