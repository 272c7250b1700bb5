"""Checks of algorithm negotiation: ciphers, host keys, and what errors say of the server."""

from __future__ import annotations

import re
from typing import Mapping, Sequence

from paramiko.common import MSG_NAMES
from paramiko.message import Message
from paramiko.ssh_exception import IncompatiblePeer, SSHException

from ssh_service.algorithms import CHACHA20_POLY1305
from ssh_service.errors import reason_of
from ssh_service.transport.packets import Fields
from ssh_service.transport.text import printable

# The lists in a server's KEXINIT, by paramiko's name for them in "no acceptable ...".
_OFFERS = {
    "kex algorithm": ("kex_algo_list",),
    "host key": ("server_key_algo_list",),
    "ciphers": ("client_encrypt_algo_list", "server_encrypt_algo_list"),
    "macs": ("client_mac_algo_list", "server_mac_algo_list"),
    "compression": ("client_compress_algo_list", "server_compress_algo_list"),
}
_LISTS = 10  # in a KEXINIT, after the cookie: RFC 4253, section 7.1
_COOKIE_SIZE = 16
_NAMES = re.compile(rb"[!-~]*\Z")
_UNEXPECTED = re.compile(r"Expecting packet from \((.*)\), got (\d+)")
_CERTIFICATE = "-cert-v01@openssh.com"
_RSA = ("rsa-sha2-256", "rsa-sha2-512")


def server_offer(problem: str, kex_init: Mapping[str, Sequence[str]]) -> str:
    """Return the server's list for the algorithms that `problem`, paramiko's error, names."""
    for words, lists in _OFFERS.items():
        if f"no acceptable {words}" in problem:
            names = dict.fromkeys(name for each in lists for name in kex_init[each] if name)
            return ",".join(names) or "none"
    return "unknown"


def check_kex_init(m: Message) -> None:
    """
    Check that a KEXINIT consists of name lists.

    paramiko would raise a UnicodeDecodeError, or find no common algorithm.

    Raises
    ------
    SSHException
        It ends early, or a name is not of printable US-ASCII characters.
    """
    fields = Fields(m.asbytes(), _COOKIE_SIZE)
    for _ in range(_LISTS):
        try:
            names = fields.string()
        except SSHException:
            raise _malformed_error("it ends early") from None
        if not _NAMES.match(names):
            raise _malformed_error(f"the names {_text(names)}")


def _malformed_error(what: str) -> SSHException:
    return SSHException(
        f"the server sent a malformed KEXINIT ({what}), so that no algorithms can be"
        " agreed on; it, or something between, does not speak SSH 2 correctly"
    )


def check_ciphers(ciphers: Sequence[str], is_strict: bool) -> None:
    """
    Check that chacha20-poly1305 is used only with strict key exchange.

    Raises
    ------
    IncompatiblePeer
        The cipher was agreed on, but strict key exchange was not.
    """
    if CHACHA20_POLY1305 in ciphers and not is_strict:
        raise IncompatiblePeer(
            f"Incompatible ssh server (no acceptable ciphers: {CHACHA20_POLY1305} needs strict key"
            " exchange, kex-strict-s-v00@openssh.com, which the server does not support; without"
            " it, an attacker can remove packets unnoticed: CVE-2023-48795)"
        )


def violation_of(error: BaseException) -> str:
    """Return what was wrong with what the server sent, by paramiko's exception."""
    reason = reason_of(error)
    unexpected = _UNEXPECTED.match(reason)
    if unexpected is not None:
        wanted = [_message_name(number) for number in re.findall(r"\d+", unexpected[1])]
        got = _message_name(unexpected[2])
        return f"the server sent {got} where {' or '.join(wanted)} was expected"
    if isinstance(error, (SSHException, OSError, EOFError)):
        return reason
    return f"the server sent a malformed message ({reason})"


def _message_name(number: str) -> str:
    name = MSG_NAMES.get(int(number))
    return f"message {number}" + (f" ({name})" if name else "")


def check_host_key(agreed: str, host_key: bytes, signature: bytes) -> None:
    """
    Check that a host key and its signature have the negotiated algorithm.

    paramiko accepts others: see docs/paramiko_repairs.md#host-key-signature.

    Raises
    ------
    SSHException
        They have another algorithm.
    """
    plain = agreed[: -len(_CERTIFICATE)] if agreed.endswith(_CERTIFICATE) else agreed
    # An RSA key has several signature algorithms; every other key type has one, of its own name.
    key_type = agreed.replace(plain, "ssh-rsa") if plain in _RSA else agreed
    shown_type, shown_algorithm = Message(host_key).get_string(), Message(signature).get_string()
    if shown_type != key_type.encode() or shown_algorithm != plain.encode():
        raise SSHException(
            f"expected a host key and signature of {agreed}, got a {_text(shown_type)} key and a"
            f" {_text(shown_algorithm)} signature"
        )


def _text(name: bytes) -> str:
    return printable(name.decode("utf-8", "backslashreplace"), 64) or "nameless"
