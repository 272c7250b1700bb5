"""Restrictions of ssh_config on the keys that are offered, and on their signature algorithms."""

from __future__ import annotations

from typing import Optional, Set

import paramiko

from ssh_service.algorithms import CERTIFICATE, rsa_bits
from ssh_service.params import ConnectParams

__all__ = ["rejection_reason", "restrict_rsa_algorithms"]

_RSA_SIGNATURES = ("rsa-sha2-512", "rsa-sha2-256", "ssh-rsa")


def rejection_reason(target: ConnectParams, key: paramiko.PKey) -> Optional[str]:
    """Return why a key must not be offered, or None if it may."""
    accepted = target.pubkey_algs
    if accepted is not None and _signatures(key).isdisjoint(accepted):
        return "its type is not among PubkeyAcceptedAlgorithms"
    bits = rsa_bits(key.asbytes()) if _name(key).startswith("ssh-rsa") else None
    if bits is not None and bits < target.required_rsa_size:
        return f"it has {bits} bits, fewer than the {target.required_rsa_size} required"
    return None


def _signatures(key: paramiko.PKey) -> Set[str]:
    """Return the names of the signature algorithms of a key."""
    name = _name(key)
    if name.startswith("ssh-rsa"):
        return {name.replace("ssh-rsa", signature) for signature in _RSA_SIGNATURES}
    return {name}


def _name(key: paramiko.PKey) -> str:
    certificate = getattr(key, "public_blob", None)
    return str(certificate.key_type if certificate else key.get_name())


def restrict_rsa_algorithms(
    transport: paramiko.Transport, target: ConnectParams, key: paramiko.PKey
) -> None:
    """Restrict an RSA key to accepted algorithms; `rejection_reason` covers other key types."""
    if target.pubkey_algs is None:
        return
    end = CERTIFICATE if _name(key).endswith(CERTIFICATE) else ""
    refused = [name for name in _RSA_SIGNATURES if name + end not in target.pubkey_algs]
    transport.disabled_algorithms = {"pubkeys": refused}
