"""
The cipher chacha20-poly1305@openssh.com: OpenSSH's PROTOCOL.chacha20poly1305.

See docs/paramiko_repairs.md#chacha20-poly1305
"""

from __future__ import annotations

import struct
from typing import Any

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.poly1305 import Poly1305
from paramiko.ssh_exception import SSHException

_UINT32 = struct.Struct(">I")
_NONCE = struct.Struct(">8xQ")  # a block counter, then the sequence number
_MAX_SEQUENCE_NUMBER = (1 << 32) - 1
_BLOCK = bytes(64)
_KEY_SIZE = 32
_TAG_SIZE = 16


class ChaCha20Poly1305:
    """
    Encrypts or decrypts the packets of one direction.

    The sequence number of a packet is its nonce.  It starts at 0 with each key, as the cipher is
    only used with strict key exchange.
    """

    key_size = 2 * _KEY_SIZE

    def __init__(self, key: bytes) -> None:
        self._packet_key, self._length_key = key[:_KEY_SIZE], key[_KEY_SIZE:]

    def encrypt(self, number: int, head: bytes, packet: bytes) -> bytes:
        """Return a packet as it is sent; `head` is its length, in four bytes."""
        if number == _MAX_SEQUENCE_NUMBER:  # the next one would be used again
            raise SSHException("all sequence numbers of a key are used")
        stream = _keystream(self._packet_key, number)
        tag_key = stream.update(_BLOCK)[:_KEY_SIZE]
        sealed = _keystream(self._length_key, number).update(head) + stream.update(packet)
        return bytes(sealed + Poly1305.generate_tag(tag_key, sealed))

    def decrypt_length(self, number: int, head: bytes) -> int:
        """Return the length of a packet, which nothing proves before `decrypt`."""
        return int(_UINT32.unpack(_keystream(self._length_key, number).update(head))[0])

    def decrypt(self, number: int, head: bytes, sealed: bytes) -> bytes:
        """
        Return a packet, once the tag at the end of `sealed` has been verified.

        Raises
        ------
        InvalidTag
            The packet, or its length, is not what the peer sent.
        """
        stream = _keystream(self._packet_key, number)
        tag = Poly1305(stream.update(_BLOCK)[:_KEY_SIZE])
        encrypted = memoryview(sealed)[:-_TAG_SIZE]
        tag.update(head)
        tag.update(encrypted)
        try:
            tag.verify(sealed[-_TAG_SIZE:])
        except InvalidSignature:
            raise InvalidTag() from None
        return bytes(stream.update(encrypted))


def _keystream(key: bytes, number: int) -> Any:
    return Cipher(ChaCha20(key, _NONCE.pack(number)), None).encryptor()
