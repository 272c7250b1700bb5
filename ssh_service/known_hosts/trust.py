"""Verifies host keys by policy, known_hosts files, certificates and fingerprint pins."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from typing import Iterable, List, NoReturn, Optional, Sequence, Set, Tuple

from ssh_service.algorithms import CA_SIGNATURES, CERTIFICATE, rsa_bits
from ssh_service.errors import SshHostKeyError
from ssh_service.known_hosts.certificate import HostCertificate
from ssh_service.known_hosts.file import KnownHosts, KnownKey, fingerprint, hashed_name
from ssh_service.known_hosts.recording import record
from ssh_service.known_hosts.revoked import load_revoked

__all__ = ["POLICIES", "HostKeyTrust"]

_log = logging.getLogger(__name__)

POLICIES = ("strict", "accept-new", "off")

# Special characters of known_hosts lines: patterns, lists, hashes, comments, markers.
_MORE_THAN_A_NAME = re.compile(r"[*?!,|#@\s]")
_RSA_ALGORITHMS = ("rsa-sha2-512", "rsa-sha2-256")


@dataclass(frozen=True)
class HostKeyTrust:
    """
    The rules for verifying the host key of one connection.

    Parameters
    ----------
    policy : str
        ``strict``: only known keys.  ``accept-new``: the key of a host without known keys is
        accepted, and added to the first file.  ``off``: any key.
    files : Tuple[str, ...]
        The known_hosts files; the user's come first.
    pins : Tuple[str, ...]
        ``SHA256:...`` fingerprints; if there are any, only these keys are trusted.
    hashed : bool
        Whether the name of a new host is hashed in the file.
    is_deliberate : bool
        Whether the caller chose ``off`` explicitly, so that no warning is needed.  This does not
        affect the connection, and is not compared.
    revoked_files : Tuple[str, ...]
        Lists of keys that are rejected: ssh_config's ``RevokedHostKeys``.
    ca_signatures : Tuple[str, ...]
        The algorithms that an authority may use to sign certificates.
    required_rsa_size : int
        The minimum size of RSA keys, in bits.

    Notes
    -----
    *Thread safety*: immutable; `verify` may be called by many threads and processes concurrently.

    *Guarantees*: a key with a ``@revoked`` line in the files, or in one of the revoked files, is
    rejected, regardless of policy and pins.  If the files have another key of the host, every
    policy except ``off`` rejects the host.
    """

    policy: str = "strict"
    files: Tuple[str, ...] = ()
    pins: Tuple[str, ...] = ()
    hashed: bool = False
    is_deliberate: bool = field(default=False, compare=False)
    revoked_files: Tuple[str, ...] = ()
    ca_signatures: Tuple[str, ...] = CA_SIGNATURES
    required_rsa_size: int = 1024

    def algorithms(self, offered: Sequence[str], names: Sequence[str]) -> Tuple[str, ...]:
        """
        Order host key algorithms by the known keys of a host.

        A server with several keys must be asked for a known one; otherwise it seems to have
        changed.

        Parameters
        ----------
        offered : Sequence[str]
            The algorithms to offer, in order of preference.
        names : Sequence[str]
            The names of the host.

        Returns
        -------
        Tuple[str, ...]
            The same algorithms, with those of known keys first; if an authority is known for the
            host, the certificate algorithms of its key types come before these.
        """
        if self.policy == "off" or self.pins:
            return tuple(offered)
        files = KnownHosts.load(self.files)
        lines = files.lookup(names)
        known: Set[str] = set()
        for line in _plain(files.lookup(names[:1])) or _plain(lines):
            known.update(_RSA_ALGORITHMS if line.key_type == "ssh-rsa" else (line.key_type,))
        ordered = sorted(offered, key=lambda name: name not in known)
        if any(line.marker == "@cert-authority" for line in lines):
            certified = [n + CERTIFICATE for n in ordered if not n.endswith(CERTIFICATE)]
            ordered = certified + ordered
        return tuple(dict.fromkeys(ordered))

    def verify(
        self,
        key_type: str,
        blob: bytes,
        names: Sequence[str],
        *,
        certificate: Optional[bytes] = None,
        principal: Optional[str] = None,
        address: Optional[str] = None,
        connection_id: Optional[str] = None,
        deadline: Optional[float] = None,
    ) -> None:
        """
        Verify the host key of a server, which has proved that it holds the private half.

        Parameters
        ----------
        key_type : str
            The key's type, such as ``ssh-ed25519``.
        blob : bytes
            The plain public key in wire format.
        names : Sequence[str]
            The names of the host; a new key is stored under the first.
        certificate : Optional[bytes]
            The host certificate in wire format; None if the server sent none.
        principal : Optional[str]
            The host name, without a port, that a certificate must be valid for; by default the
            last of `names`.
        address : Optional[str]
            The address of the host, in the form of a name in a known_hosts file, for the error;
            by default the first of `names`.
        connection_id : Optional[str]
            ``user@host:port``, for the error.
        deadline : Optional[float]
            The deadline of the connection attempt, by the monotonic clock.

        Raises
        ------
        SshHostKeyError
            The key is not trusted.  No credentials have been sent.
        SshConfigError
            A file cannot be read, or the new key cannot be written.
        """
        verification = _Verification(
            self,
            key_type,
            blob,
            names,
            certificate,
            principal or names[-1],
            address or names[0],
            connection_id,
        )
        if not verification.is_new():
            return
        name = hashed_name(names[0]) if self.hashed else names[0]
        problem = record(self.files[0], name, key_type, blob, verification.is_new, deadline)
        _log.warning(
            "%s: the host key %s (%s) was not known: %s %s%s",
            connection_id or names[0],
            verification.shown,
            key_type,
            "trusted, but not written to" if problem else "written to",
            self.files[0],
            f": {problem}" if problem else "",
        )


def _plain(lines: Iterable[KnownKey]) -> List[KnownKey]:
    return [line for line in lines if not line.marker]


class _Verification:
    """The verification of one key of one server, against the current files."""

    def __init__(
        self,
        trust: HostKeyTrust,
        key_type: str,
        blob: bytes,
        names: Sequence[str],
        certificate: Optional[bytes],
        principal: str,
        address: str,
        connection_id: Optional[str],
    ) -> None:
        self._trust = trust
        self._key_type = key_type
        self._blob = blob
        self._names = names
        self._certificate = certificate
        self._principal = principal.lower()
        self._address = address
        self._connection_id = connection_id
        self.shown = fingerprint(blob)

    def is_new(self) -> bool:
        """Return whether the key must be recorded; raise an error if it is rejected."""
        trust = self._trust
        known = KnownHosts.load(trust.files)
        lines = known.lookup(self._names)
        self._refuse_revoked(lines, self._blob, "host key")
        self._refuse_listed()
        self._refuse_short()
        if trust.pins:
            if self.shown not in trust.pins:
                self._refuse(f"pinned is {', '.join(trust.pins)}", trust.pins[0])
            return False
        if trust.policy == "off" or self._is_certified(lines):
            return False
        own = known.lookup(self._names[:1])
        plain = _plain(own)
        # The other names can only confirm a key: if there is no key for the first name, another
        # port means another server.
        if any(line.blob == self._blob for line in plain or _plain(lines)):
            return False
        same_type = [line for line in plain if line.key_type == self._key_type]
        for line in same_type or plain:
            expected = fingerprint(line.blob)
            self._refuse(
                f"it has CHANGED: on file is {expected} ({line.key_type}) at {line.origin}",
                expected,
            )
        for line in own:
            if line.marker == "@cert-authority":
                self._refuse(
                    f"it is not certified by the authority at {line.origin}",
                    fingerprint(line.blob),
                )
        if trust.policy == "accept-new" and trust.files:
            if not trust.hashed and _MORE_THAN_A_NAME.search(self._names[0]):
                self._refuse(
                    "it is not known, and its name cannot be written to a known_hosts file, where "
                    "it would stand for more than this host",
                    None,
                )
            return True
        self._refuse(f"it is not known; {self._way_forward()}", None)

    def _way_forward(self) -> str:
        name = self._names[0]
        host, _, port = self._address.lstrip("[").partition("]:")
        scan = f"ssh-keyscan -p {port} {host}" if port else f"ssh-keyscan {host}"
        renamed = "" if name == self._address else f", whose name must become {name}"
        return (
            f"looked in {', '.join(self._trust.files) or 'no file'}. If the fingerprint is the"
            f" host's own, add the key (`{scan}` prints its line{renamed}) to a file of"
            " known_hosts (a service: ssh_known_hosts_path), have it added by host_key_policy (a"
            " service: ssh_host_key_policy) 'accept-new', or pin it (host_key_fingerprints)"
        )

    def _is_certified(self, lines: List[KnownKey]) -> bool:
        if self._certificate is None:
            return False
        try:
            certificate = HostCertificate.parse(self._certificate)
        except ValueError as error:
            self._refuse(f"its certificate is damaged: {error}", None)
        self._refuse_revoked(lines, certificate.authority, "authority of the host key")
        for line in lines:
            if line.marker == "@cert-authority" and line.blob == certificate.authority:
                problem = certificate.problem(
                    self._principal, signatures=self._trust.ca_signatures
                )
                if problem is not None:
                    self._refuse(
                        f"its certificate {certificate.name} cannot be used: {problem}; "
                        f"the authority stands at {line.origin}",
                        fingerprint(line.blob),
                    )
                return True
        return False  # as in ssh: a certificate of an unknown authority counts as a plain key

    def _refuse_revoked(self, lines: List[KnownKey], blob: bytes, what: str) -> None:
        for line in lines:
            if line.marker == "@revoked" and line.blob == blob:
                self._refuse(f"the {what} is REVOKED at {line.origin}", None)

    def _refuse_listed(self) -> None:
        """Reject a key in a list of revoked keys, and a certificate whose authority is in one."""
        blobs = {self._blob: "host key"}
        if self._certificate is not None and self._trust.revoked_files:
            try:
                authority = HostCertificate.parse(self._certificate).authority
            except ValueError as error:
                self._refuse(f"its certificate is damaged: {error}", None)
            blobs[authority] = "authority of the host key"
        for path in self._trust.revoked_files:
            revoked = load_revoked(path)
            for blob, what in blobs.items():
                if blob in revoked:
                    self._refuse(f"the {what} is REVOKED in {path}", None)

    def _refuse_short(self) -> None:
        bits, required = rsa_bits(self._blob), self._trust.required_rsa_size
        if bits is not None and bits < required:
            self._refuse(f"it has {bits} bits, fewer than the {required} required", None)

    def _refuse(self, why: str, expected: Optional[str]) -> NoReturn:
        where = f"{self._connection_id}: " if self._connection_id else ""
        raise SshHostKeyError(
            f"{where}host key of {self._names[0]} refused: the server shows {self.shown} "
            f"({self._key_type}); {why}",
            expected=expected,
            received=self.shown,
            connection_id=self._connection_id,
        )
