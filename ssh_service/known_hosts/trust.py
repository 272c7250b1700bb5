"""Verifies host keys by policy, known_hosts files, certificates and pins."""

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

# In a line of a known_hosts file: patterns, lists, hashes, comments, markers.
_MORE_THAN_A_NAME = re.compile(r"[*?!,|#@\s]")
_RSA_ALGORITHMS = ("rsa-sha2-512", "rsa-sha2-256")


@dataclass(frozen=True)
class HostKeyTrust:
    """
    How the host key of one connection is judged.

    Parameters
    ----------
    policy : str
        ``strict``: only keys on file.  ``accept-new``: a host of which nothing is on file is
        trusted once, and its key written to the first file.  ``off``: any key.
    files : Tuple[str, ...]
        known_hosts files, the user's first.
    pins : Tuple[str, ...]
        ``SHA256:...`` fingerprints; where given, they alone decide.
    hashed : bool
        Whether the name of a new host is written as a hash of it.
    is_deliberate : bool
        Whether the caller chose ``off`` by name, so that no warning is needed.  It makes no
        difference to the connection, and so none to equality.
    revoked_files : Tuple[str, ...]
        Lists of keys that are refused, ssh_config's ``RevokedHostKeys``.
    ca_signatures : Tuple[str, ...]
        The algorithms by which an authority may have signed a certificate.
    required_rsa_size : int
        Bits that an RSA key must have.

    Notes
    -----
    *Thread safety*: immutable; `verify` may be called by many threads and processes at once.

    *Guarantees*: a key that a ``@revoked`` line of the files names, or that stands in one of the
    revoked files, is refused whatever the policy and the pins.  A host of which another key is on
    file is refused by every policy but ``off``.
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
        Order host-key algorithms by what is on file.

        A server with several keys must be asked for one that is known, else it looks changed.

        Parameters
        ----------
        offered : Sequence[str]
            The algorithms to offer, in order of preference.
        names : Sequence[str]
            The names the host goes by.

        Returns
        -------
        Tuple[str, ...]
            The same, those of known keys first; before them, where an authority is on file for
            the host, their certificates.
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
        connection_id: Optional[str] = None,
        deadline: Optional[float] = None,
    ) -> None:
        """
        Judge the key a server proved to hold.

        Parameters
        ----------
        key_type : str
            Its type, such as ``ssh-ed25519``.
        blob : bytes
            The plain public key in wire format.
        names : Sequence[str]
            The names the host goes by: first the one a new key would be filed under.
        certificate : Optional[bytes]
            The host certificate in wire format, where the server showed one.
        principal : Optional[str]
            The name a certificate must be for, without a port; by default the last of `names`.
        connection_id : Optional[str]
            For the error.
        deadline : Optional[float]
            Monotonic instant until which the connection must be made.

        Raises
        ------
        SshHostKeyError
            The key is not trusted.  Nothing secret has been sent.
        SshConfigError
            A file cannot be read, or the new key not be written.
        """
        verification = _Verification(
            self, key_type, blob, names, certificate, principal or names[-1], connection_id
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
    """One key of one server, before the files as they are now."""

    def __init__(
        self,
        trust: HostKeyTrust,
        key_type: str,
        blob: bytes,
        names: Sequence[str],
        certificate: Optional[bytes],
        principal: str,
        connection_id: Optional[str],
    ) -> None:
        self._trust = trust
        self._key_type = key_type
        self._blob = blob
        self._names = names
        self._certificate = certificate
        self._principal = principal.lower()
        self._connection_id = connection_id
        self.shown = fingerprint(blob)

    def is_new(self) -> bool:
        """Return whether the key has to be recorded; raise if it is refused."""
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
        # The further names can only speak for a key, where nothing is on file for the first: at
        # another port is another server.
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
        host, _, port = self._names[0].lstrip("[").partition("]:")
        scan = f"ssh-keyscan -p {port} {host}" if port else f"ssh-keyscan {host}"
        return (
            f"looked in {', '.join(self._trust.files) or 'no file'}. If the fingerprint is the"
            f" host's own, add the key (`{scan}` prints its line) to a file of known_hosts (a"
            " service: ssh_known_hosts_path), have it added by host_key_policy (a service:"
            " ssh_host_key_policy) 'accept-new', or pin it (host_key_fingerprints)"
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
        return False  # as ssh: by an authority nobody knows, it counts as a plain key

    def _refuse_revoked(self, lines: List[KnownKey], blob: bytes, what: str) -> None:
        for line in lines:
            if line.marker == "@revoked" and line.blob == blob:
                self._refuse(f"the {what} is REVOKED at {line.origin}", None)

    def _refuse_listed(self) -> None:
        """Refuse what stands in a list of revoked keys: the key, or the authority it shows."""
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
