"""Checks of algorithm negotiation: the host key's type, and the server's offer for errors."""

from __future__ import annotations

from typing import Mapping, Sequence

from paramiko.message import Message
from paramiko.ssh_exception import SSHException

from ssh_service.transport.text import printable

# The lists in a server's KEXINIT, by paramiko's name for them in "no acceptable ...".
_OFFERS = {
    "kex algorithm": ("kex_algo_list",),
    "host key": ("server_key_algo_list",),
    "ciphers": ("client_encrypt_algo_list", "server_encrypt_algo_list"),
    "macs": ("client_mac_algo_list", "server_mac_algo_list"),
    "compression": ("client_compress_algo_list", "server_compress_algo_list"),
}
_CERTIFICATE = "-cert-v01@openssh.com"
_RSA = ("rsa-sha2-256", "rsa-sha2-512")


def server_offer(problem: str, kex_init: Mapping[str, Sequence[str]]) -> str:
    """Return the server's list for the algorithms that `problem`, paramiko's error, names."""
    for words, lists in _OFFERS.items():
        if f"no acceptable {words}" in problem:
            names = dict.fromkeys(name for each in lists for name in kex_init[each] if name)
            return ",".join(names) or "none"
    return "unknown"


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
