"""
The server side of SOCKS: parses a client's request, and builds the replies.

SOCKS 4 and 4a, and SOCKS 5 (RFC 1928) without authentication; only CONNECT.  Names are not
resolved here, but by the SSH server.
"""

from __future__ import annotations

import socket
import struct
from typing import Optional

from ssh_service.forwarding.addresses import TcpAddress

_CONNECT = 1
# The maximum length of the texts that SOCKS 4 terminates by a NUL (user and host name), in bytes.
_MAX_TEXT = 255
# Reply codes of SOCKS 5 (RFC 1928 section 6), and of SOCKS 4.
_SUCCEEDED, _FAILED, _PROHIBITED, _REFUSED = 0, 1, 2, 5
_NO_SUCH_COMMAND, _NO_SUCH_ADDRESS_TYPE = 7, 8
_GRANTED_4, _REJECTED_4 = 90, 91
_NO_METHOD = b"\x05\xff"
_IPV4, _NAME, _IPV6 = 1, 3, 4


class SocksError(Exception):
    """The request is not SOCKS, or is not supported; `reply` is the reply to send."""

    def __init__(self, text: str, reply: bytes = b"") -> None:
        super().__init__(text)
        self.reply = reply


class _Incomplete(Exception):
    pass


class Negotiation:
    """
    The request of one client; call `feed` until `target` is set.

    Attributes
    ----------
    target : Optional[TcpAddress]
        The requested target; None until the request is complete.
    rest : bytes
        The data that the client sent after its request.
    """

    def __init__(self) -> None:
        self.target: Optional[TcpAddress] = None
        self.rest = b""
        self._buffer = b""
        self._version = 0
        self._chose_method = False

    def feed(self, data: bytes) -> bytes:
        """
        Parse bytes from the client; return the bytes to send to it.

        Raises
        ------
        SocksError
            The request is malformed or not supported.
        """
        self._buffer += data
        reply = b""
        try:
            if not self._chose_method:
                self._version = self._buffer[0]
            if self._version == 4:
                self._parse_4()
            elif self._version == 5:
                if not self._chose_method:
                    reply = self._parse_methods()
                self._parse_5()
            elif self._buffer[:1].isalpha():
                raise SocksError("the client speaks HTTP or the like: this is a SOCKS proxy")
            else:
                raise SocksError(f"the client speaks version {self._version} of SOCKS, not 4 or 5")
        except _Incomplete:
            pass
        return reply

    def _take(self, size: int, start: int) -> bytes:
        if len(self._buffer) < start + size:
            raise _Incomplete
        return self._buffer[start : start + size]

    def _take_text(self, start: int) -> bytes:
        end = self._buffer.find(b"\0", start)
        if end < 0 and len(self._buffer) - start <= _MAX_TEXT:
            raise _Incomplete
        if end < 0 or end - start > _MAX_TEXT:
            raise SocksError(
                f"a text of the request is longer than {_MAX_TEXT} bytes", _reply_4(_REJECTED_4)
            )
        return self._buffer[start:end]

    def _parse_4(self) -> None:
        command, port, packed = struct.unpack(">BH4s", self._take(7, 1))
        if command != _CONNECT:
            raise SocksError(_unknown_command(command), _reply_4(_REJECTED_4))
        end = 8 + len(self._take_text(8)) + 1
        host = socket.inet_ntoa(packed)
        if packed[:3] == b"\0\0\0" and packed[3]:  # 4a
            name = self._take_text(end)
            end += len(name) + 1
            host = self._decode(name)
        self._finish(host, port, end)

    def _parse_methods(self) -> bytes:
        methods = self._take(self._take(1, 1)[0], 2)
        if 0 not in methods:
            raise SocksError(
                "the client insists on a user and password, and this proxy has none", _NO_METHOD
            )
        self._buffer = self._buffer[2 + len(methods) :]
        self._chose_method = True
        return b"\x05\x00"

    def _parse_5(self) -> None:
        version, command, _, kind = self._take(4, 0)
        if version != 5:
            raise SocksError(f"version {version} in a request of SOCKS 5", self._reply(_FAILED))
        if command != _CONNECT:
            raise SocksError(_unknown_command(command), self._reply(_NO_SUCH_COMMAND))
        if kind == _IPV4:
            host, end = socket.inet_ntoa(self._take(4, 4)), 8
        elif kind == _IPV6:
            host, end = socket.inet_ntop(socket.AF_INET6, self._take(16, 4)), 20
        elif kind == _NAME:
            size = self._take(1, 4)[0]
            host, end = self._decode(self._take(size, 5)), 5 + size
        else:
            raise SocksError(f"unknown address type {kind}", self._reply(_NO_SUCH_ADDRESS_TYPE))
        (port,) = struct.unpack(">H", self._take(2, end))
        self._finish(host, port, end + 2)

    def _decode(self, name: bytes) -> str:
        text = name.decode("utf-8", "replace")
        if not text or not text.isprintable() or " " in text:
            raise SocksError(f"the request names the host {name!r}", self._reply(_FAILED))
        return text

    def _finish(self, host: str, port: int, end: int) -> None:
        if not port:
            raise SocksError("the request names port 0", self._reply(_FAILED))
        self.rest, self._buffer = self._buffer[end:], b""
        self.target = TcpAddress(host, port)

    def _reply(self, code: int) -> bytes:
        if self._version == 4:
            return _reply_4(_REJECTED_4 if code else _GRANTED_4)
        return bytes((5, code, 0, _IPV4)) + bytes(6)  # the SSH server's own address is unknown

    def success(self) -> bytes:
        """Return the reply to a granted request."""
        return self._reply(_SUCCEEDED)

    def failure(self, is_refused: bool, is_prohibited: bool) -> bytes:
        """Return the reply to a request whose target could not be reached."""
        if is_refused:
            return self._reply(_REFUSED)
        return self._reply(_PROHIBITED if is_prohibited else _FAILED)


def _reply_4(code: int) -> bytes:
    return bytes((0, code)) + bytes(6)


def _unknown_command(command: int) -> str:
    name = {2: "BIND", 3: "UDP ASSOCIATE"}.get(command, f"command {command}")
    return f"the client asks for {name}, and this proxy only connects"
