"""The credentials that a dial offers, and their order."""

from __future__ import annotations

import copy
import logging
import os
import time
from typing import Any, Callable, Iterator, List, NamedTuple, Optional, Tuple

import paramiko
from paramiko.pkey import PublicBlob

from ssh_service import local_paths
from ssh_service.connect.accepted_keys import rejection_reason
from ssh_service.connect.agent import AgentError, AgentKey, list_keys
from ssh_service.connect.key_files import (
    certifies,
    check_mode,
    inspect_key,
    load_key,
    read_certificate,
    read_file,
    token_required_error,
)
from ssh_service.connect.side_calls import run_in_thread, wait_until
from ssh_service.errors import (
    PROGRAMMING_ERRORS,
    SshConfigError,
    SshConnectError,
    SshConnectTimeout,
    SshServiceError,
)
from ssh_service.known_hosts import fingerprint
from ssh_service.params import ConnectParams, conceal_keys, key_sources
from ssh_service.secret import Secret
from ssh_service.settings import sendable
from ssh_service.user_files import home

__all__ = ["Credentials", "Identity"]

_log = logging.getLogger(__name__)


class Identity(NamedTuple):
    """A key to offer, and its label for messages."""

    label: str
    key: paramiko.PKey


class Credentials:
    """
    The keys, passphrase and password of one dial.

    The constructor loads explicit keys before the dial connects, so that an invalid file causes no
    load on the server.  Default identity files are read only when they are tried.

    Parameters
    ----------
    target : ConnectParams
        The resolved destination.
    deadline : float
        The monotonic instant by which an agent or a callable must answer.

    Attributes
    ----------
    skipped : List[str]
        The keys that were skipped, each with the reason, for the error message.

    Raises
    ------
    SshConfigError
        A key that the caller named cannot be used.
    SshConnectError
        A callable that supplies a credential raised an exception, or took too long.

    Notes
    -----
    Not thread-safe: an object belongs to one dial.
    """

    def __init__(self, target: ConnectParams, deadline: float) -> None:
        self.skipped: List[str] = []
        self._target = target
        self._deadline = deadline
        self._agent_keys: Optional[List[AgentKey]] = None
        self._passphrase: Optional[Secret] = None
        self._passphrase_asked = False
        self._explicit: Optional[List[Identity]] = None
        if target.client_keys is not None and "publickey" in target.preferred_auth:
            given: Any = target.client_keys
            if callable(given):
                supplier = given
                given = self._call_supplier("client_keys", lambda: conceal_keys(supplier()))
                given = key_sources("client_keys", given)
            self._explicit = [one for source in given for one in self._from_source(source)]

    def password(self) -> Optional[Secret]:
        """Return the password, which a user's callable may supply; None if there is none."""
        return self._resolve_secret("password", self._target.password)

    def identities(self) -> Iterator[Identity]:
        """
        Yield the keys to offer, best first, without duplicates.

        Explicit or configured keys come first, then those of the agent.  If there are neither
        explicit nor configured keys, the agent's keys come before those in the default files.
        """
        seen = set()
        for identity in self._accepted():
            certificate = getattr(identity.key, "public_blob", None)
            blob = certificate.key_blob if certificate else identity.key.asbytes()
            if blob not in seen:
                seen.add(blob)
                yield identity

    def searched_places(self) -> str:
        """Return the places where `identities` looks for keys, for messages."""
        target = self._target
        places = (
            [] if self._explicit is not None else [_tilde_path(p) for p in target.identity_files]
        )
        if target.agent_path is not None and not target.identities_only:
            places.append(f"the agent at {target.agent_path}")
        return f"looked in {', '.join(places)}" if places else "none was given"

    def _accepted(self) -> Iterator[Identity]:
        for identity in self._ordered():
            reason = rejection_reason(self._target, identity.key)
            if reason is None:
                yield identity
            else:
                self._skip(SshConfigError(f"{identity.label}: {reason}"))

    def _ordered(self) -> Iterator[Identity]:
        only_named = self._target.identities_only
        if self._explicit is not None:
            yield from self._explicit
            if not only_named:
                yield from self._from_agent()
        elif self._target.identities_configured:
            yield from self._from_identity_files()
            if not only_named:
                yield from self._from_agent()
        else:
            if not only_named:
                yield from self._from_agent()
            yield from self._from_identity_files()

    # --- callables

    def _call_supplier(self, name: str, supplier: Callable[[], Any]) -> Any:
        """Call a user's callable on a thread, and wait for it until the deadline."""
        began = time.monotonic()
        answer = run_in_thread(supplier, name)
        connection_id = self._target.connection_id
        if not wait_until(answer, self._deadline):
            raise SshConnectTimeout(
                f"{connection_id}: the callable given as {name} returned nothing within "
                f"{time.monotonic() - began:.1f} s",
                connection_id=connection_id,
                phase="auth",
            )
        error = answer.exception()
        if error is None or isinstance(error, SshServiceError):
            return answer.result()
        # The exception's text and frames may hold a secret, so only its class is reported.
        problem, is_mistake = type(error).__name__, isinstance(error, PROGRAMMING_ERRORS)
        del error
        ours = SshConnectError(
            f"{connection_id}: the callable given as {name} raised {problem}",
            connection_id=connection_id,
            phase="auth",
        )
        ours.permanent = is_mistake
        raise ours

    def _resolve_secret(self, name: str, value: Any) -> Optional[Secret]:
        if value is None or isinstance(value, Secret):
            return value
        delivered = self._call_supplier(name, lambda: _as_secret(value()))
        if delivered is None:
            return None
        if isinstance(delivered, Secret):
            return sendable(name, delivered)
        raise SshConfigError(
            f"{name}: the callable must return str, bytes or None,"
            f" got {type(delivered).__name__}"
        )

    def _get_passphrase(self) -> Optional[Secret]:
        """Return the passphrase; obtain it once per dial, and only if a key needs it."""
        if not self._passphrase_asked:
            self._passphrase_asked = True
            self._passphrase = self._resolve_secret("passphrase", self._target.passphrase)
        return self._passphrase

    # --- the agent

    def _agent(self) -> List[AgentKey]:
        if self._agent_keys is None:
            self._agent_keys = []
            if self._target.agent_path is not None:
                try:
                    self._agent_keys = list_keys(self._target.agent_path, self._deadline)
                except AgentError as error:
                    self._skip(error)
        return self._agent_keys

    def _from_agent(self) -> Iterator[Identity]:
        # As in ssh, certificates come before plain keys.  Keys on tokens come last: ssh asks the
        # server whether it accepts a key before the user has to touch the token, but paramiko
        # signs with every key that it offers.
        for key in sorted(self._agent(), key=_offer_order):
            label = f"agent key {fingerprint(key.asbytes())} ({key.comment})"
            yield from self._certified(Identity(label, key), None)

    def _from_agent_by_public_key(
        self, public_blob: Optional[bytes], path: str, certificate: Optional[str]
    ) -> List[Identity]:
        """Return the agent's key for a public key, with its certificates; empty if none."""
        cert_path = (path[: -len(".pub")] if path.endswith(".pub") else path) + "-cert.pub"
        for key in self._agent():
            if key.asbytes() == public_blob:
                found = Identity(f"{path} (in the agent)", key)
                return list(self._certified(found, certificate, cert_path))
        return []

    # --- files

    def _from_identity_files(self) -> Iterator[Identity]:
        """Yield keys of ssh_config or the defaults; like ssh, skip missing and locked files."""
        for path in self._target.identity_files:
            try:
                if local_paths.exists(path):
                    yield from self._from_file(path, None)
                elif local_paths.exists(path + ".pub"):
                    yield from self._from_agent_by_public_key(_read_public_half(path), path, None)
            except SshConfigError as error:
                self._skip(error)

    def _from_source(self, source: Any) -> Iterator[Identity]:
        certificate: Optional[str] = None
        if isinstance(source, tuple):
            source, certificate = source
        if isinstance(source, str):
            yield from self._from_file(source, certificate)
            return
        if isinstance(source, Secret):
            source = load_key(source, "(given in memory)", self._get_passphrase)
        label = f"key {fingerprint(source.asbytes())}"
        yield from self._certified(Identity(label, source), certificate)

    def _from_file(self, path: str, certificate: Optional[str]) -> Iterator[Identity]:
        content, mode = read_file(path)
        facts = inspect_key(content, path)
        elsewhere = facts.is_public or facts.token_type is not None
        if elsewhere or (facts.is_encrypted and not self._get_passphrase()):
            held = self._from_agent_by_public_key(
                facts.public_blob or _read_public_half(path), path, certificate
            )
            if held:
                yield from held
                return
            if facts.is_public:
                raise SshConfigError(
                    f"key file {path!r} is a public key, and no agent holds its private half"
                )
            if facts.token_type:
                raise token_required_error(path, facts.token_type)
        check_mode(path, mode)
        key = load_key(content, path, self._get_passphrase, facts)
        yield from self._certified(Identity(path, key), certificate, path + "-cert.pub")

    # --- certificates

    def _certified(
        self, plain: Identity, named: Optional[str], cert_path: Optional[str] = None
    ) -> Iterator[Identity]:
        """Yield a key with each of its certificates, then without a certificate."""
        if not getattr(plain.key, "public_blob", None):
            if named is not None:
                certified = _with_certificate(plain, named)
                if certified is None:
                    raise SshConfigError(
                        f"certificate {named!r} does not belong to the key {plain.label}"
                    )
                yield certified
            others = list(self._target.certificate_files)
            if cert_path is not None and local_paths.exists(cert_path):
                others.insert(0, cert_path)
            for path in others:
                try:
                    found = _with_certificate(plain, path)
                except SshConfigError as error:
                    self._skip(error)
                    continue
                if found is not None:
                    yield found
        yield plain

    def _skip(self, error: Exception) -> None:
        _log.debug("%s: %s", self._target.connection_id, error)
        if str(error) not in self.skipped:
            self.skipped.append(str(error))


def _offer_order(key: AgentKey) -> Tuple[bool, bool]:
    name = key.get_name()
    return name.startswith("sk-"), "-cert-" not in name


def _read_public_half(path: str) -> Optional[bytes]:
    """Return the public key from ``<path>.pub``; None if there is no such file."""
    public = path + ".pub"
    if not local_paths.exists(public):
        return None
    return inspect_key(read_file(public).content, public).public_blob


def _tilde_path(path: str) -> str:
    folder = home() + os.sep
    return "~/" + path[len(folder) :] if path.startswith(folder) else path


def _as_secret(value: Any) -> Any:
    return Secret(value) if isinstance(value, (str, bytes)) else value


def _with_certificate(plain: Identity, path: str) -> Optional[Identity]:
    key_type, blob = read_certificate(path)
    if not certifies(blob, plain.key.asbytes()):
        return None
    key = copy.copy(plain.key)
    key.public_blob = PublicBlob(key_type, blob)
    return Identity(f"{plain.label} with certificate {path}", key)
