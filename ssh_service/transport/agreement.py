"""What the sides of a key exchange agree on: whether the host key fits it, or why they do not."""

from __future__ import annotations

from typing import Mapping, Sequence

from paramiko.message import Message
from paramiko.ssh_exception import SSHException

from ssh_service.transport.text import printable

# Which of the lists in a server's KEXINIT belong to what paramiko says is not acceptable.
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
    """
    Return what the server offers of what both sides have not in common, as ssh shows it.

    Parameters
    ----------
    problem : str
        The text of paramiko's `IncompatiblePeer`.
    kex_init : Mapping[str, Sequence[str]]
        The server's KEXINIT, as `paramiko.Transport` parses it.

    Returns
    -------
    str
        Names, separated by commas; ``none`` if there are none.
    """
    for words, lists in _OFFERS.items():
        if f"no acceptable {words}" in problem:
            names = dict.fromkeys(name for each in lists for name in kex_init[each] if name)
            return ",".join(names) or "none"
    return "unknown"


def check_host_key(agreed: str, host_key: bytes, signature: bytes) -> None:
    """
    Check that a host key and its signature are of the kind that was agreed on.

    paramiko accepts others: see docs/paramiko_repairs.md#host-key-signature.

    Parameters
    ----------
    agreed : str
        The host key algorithm that was agreed on.
    host_key, signature : bytes
        As the server sent them.

    Raises
    ------
    SSHException
        They are of another kind.
    """
    plain = agreed[: -len(_CERTIFICATE)] if agreed.endswith(_CERTIFICATE) else agreed
    # An RSA key signs by several algorithms; every other key by the one of its own name.
    key_type = agreed.replace(plain, "ssh-rsa") if plain in _RSA else agreed
    shown_type, shown_algorithm = Message(host_key).get_string(), Message(signature).get_string()
    if shown_type != key_type.encode() or shown_algorithm != plain.encode():
        raise SSHException(
            f"the server showed a {_text(shown_type)} key and a {_text(shown_algorithm)} "
            f"signature, where {agreed} was agreed on"
        )


def _text(name: bytes) -> str:
    return printable(name.decode("utf-8", "backslashreplace"), 64) or "nameless"
