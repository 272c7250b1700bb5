"""The key exchange by curve25519, whose first key another thread has made."""

from __future__ import annotations

from typing import Any, List, Optional

import paramiko.kex_curve25519
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ssh_service.transport.key_exchange import Curve25519


class Recorder:
    """Stands in for a transport; keeps the messages."""

    server_mode = False

    def __init__(self, key: Optional[X25519PrivateKey]) -> None:
        self.key = key
        self.sent: List[bytes] = []
        self.expected: List[int] = []

    def take_key(self) -> Optional[X25519PrivateKey]:
        key, self.key = self.key, None
        return key

    def _send_message(self, m: Any) -> None:
        self.sent.append(m.asbytes())

    def _expect_packet(self, kind: int) -> None:
        self.expected.append(kind)


def raw(key: X25519PrivateKey) -> bytes:
    return bytes(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))


def test_each_key_exchange_has_a_key_of_its_own() -> None:
    key = X25519PrivateKey.generate()
    transport = Recorder(key)
    exchanges = [Curve25519(transport) for _ in range(3)]
    for exchange in exchanges:
        exchange.start_kex()
    assert exchanges[0].key is key
    public_keys = [raw(exchange.key) for exchange in exchanges]
    assert len(set(public_keys)) == 3
    # RFC 8731: type, length, key; ours and paramiko's messages are alike.
    assert transport.sent == [b"\x1e\0\0\0\x20" + public_key for public_key in public_keys]
    assert transport.expected == [31] * 3


def test_the_reader_makes_no_key_where_one_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    transport = Recorder(X25519PrivateKey.generate())
    monkeypatch.setattr(paramiko.kex_curve25519, "X25519PrivateKey", None)
    Curve25519(transport).start_kex()
    assert transport.sent
