"""
Key exchange by curve25519 with a key that another thread than the reader's has made.

OpenSSL keeps 6 KiB of random state for each thread that has made a key, until the thread ends: the
thread that dials ends soon, the reader thread lives as long as the connection.
"""

from __future__ import annotations

from typing import Optional

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from paramiko.kex_curve25519 import KexCurve25519

from ssh_service.transport.packets import message

# The names of the same method.
CURVE25519 = frozenset(("curve25519-sha256", "curve25519-sha256@libssh.org"))
# RFC 5656, section 7.1.
_MSG_KEX_ECDH_INIT, _MSG_KEX_ECDH_REPLY = 30, 31


class Curve25519(KexCurve25519):  # type: ignore[misc]
    """paramiko's, with the key that the transport was given, if there is one left."""

    def start_kex(self) -> None:
        """Send our public key."""
        key: Optional[X25519PrivateKey] = self.transport.take_key()
        if key is None:  # another exchange of the same connection: each has a key of its own
            super().start_kex()
            return
        self.key = key
        public_key = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.transport._send_message(message(bytes([_MSG_KEX_ECDH_INIT]), public_key))
        self.transport._expect_packet(_MSG_KEX_ECDH_REPLY)
