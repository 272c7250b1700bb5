"""The rules for verifying host keys, from the caller's settings and ssh_config."""

from __future__ import annotations

import dataclasses
import os
from typing import Any, List, Optional, Tuple

from ssh_service import local_paths, settings
from ssh_service.algorithms import CA_SIGNATURES, select
from ssh_service.errors import SshConfigError
from ssh_service.known_hosts import POLICIES, HostKeyTrust
from ssh_service.params.auth_methods import required_rsa_size
from ssh_service.params.sources import Sources, error_name, first_argument
from ssh_service.user_files import expand_home, system_folder

__all__ = ["host_key_trust"]

_CONFIGURED = {
    "yes": "strict",
    "true": "strict",
    "ask": "strict",  # a library has no user to ask
    "accept-new": "accept-new",
    # ssh continues even if a key has changed; a library must not.
    "no": "accept-new",
    "false": "accept-new",
    "off": "accept-new",
}


def host_key_trust(sources: Sources) -> HostKeyTrust:
    """
    Return the rules for verifying the host key of a destination.

    Raises
    ------
    SshConfigError
        A setting is invalid, two contradict each other, or a file that must exist does not.
    """
    trust = _policy_and_files(sources)
    # The restrictions of the user's ssh_config apply, whatever the caller's settings are.
    revoked_files = sources.config_paths("revokedhostkeys")
    required = required_rsa_size(sources)
    value = sources.config.get("casignaturealgorithms")
    if not revoked_files and required == trust.required_rsa_size and value is None:
        return trust  # the usual case, kept fast: this runs for each command
    return dataclasses.replace(
        trust,
        revoked_files=revoked_files,
        required_rsa_size=required,
        ca_signatures=(
            CA_SIGNATURES
            if value is None
            else select(first_argument(value), CA_SIGNATURES, CA_SIGNATURES)
        ),
    )


def _policy_and_files(sources: Sources) -> HostKeyTrust:
    policy = sources.get("host_key_policy")
    if policy is not None:
        policy = settings.choice("host_key_policy", policy, POLICIES)
    pins = _pins(sources.get("host_key_fingerprints"))
    if pins and policy == "off":
        raise SshConfigError("host_key_fingerprints cannot be combined with host_key_policy 'off'")
    given = sources.get("known_hosts", ())
    if given is None:
        return _without_files(sources, policy, pins)
    configured = _configured_policy(sources)
    hashed = _hashed(sources)
    if isinstance(given, (list, tuple)) and not given:
        files = _files(sources)
        deliberate = policy == "off"
        policy = policy or configured or "strict"
    else:
        policy = policy or "strict"
        deliberate = policy == "off"
        files = _named_files(given, policy)
    return HostKeyTrust(policy, files, pins, hashed, deliberate)


def _without_files(sources: Sources, policy: Optional[str], pins: Tuple[str, ...]) -> HostKeyTrust:
    if policy in ("strict", "accept-new"):
        raise SshConfigError(
            f"host_key_policy {policy!r} needs a known_hosts file, got known_hosts None; name a"
            f" file, or set the policy to 'off'"
        )
    if pins:
        return HostKeyTrust("strict", (), pins)
    configured = _configured_policy(sources)
    if policy == "off" or configured is None or _asks_for_no_check(sources):
        return HostKeyTrust("off", is_deliberate=policy == "off")
    # Unless the caller asks for "off" explicitly, the checks of the user's ssh_config apply.
    return HostKeyTrust(configured, _files(sources), hashed=_hashed(sources))


def _hashed(sources: Sources) -> bool:
    value = sources.config.get("hashknownhosts")
    return value is not None and settings.flag(
        error_name(value, "HashKnownHosts"), first_argument(value)
    )


def _asks_for_no_check(sources: Sources) -> bool:
    value = sources.config.get("stricthostkeychecking")
    return value is not None and first_argument(value).lower() in ("no", "false", "off")


def _named_files(given: Any, policy: str) -> Tuple[str, ...]:
    files = settings.paths("known_hosts", given)
    for path in files:
        if local_paths.is_folder(path):
            raise settings.invalid_setting("known_hosts", path, "a file, not a folder")
        if policy == "strict" and not local_paths.exists(path):
            raise SshConfigError(
                f"known_hosts: file {path!r} does not exist; "
                f"host_key_policy 'accept-new' would create it"
            )
    return files


def _configured_policy(sources: Sources) -> Optional[str]:
    value = sources.config.get("stricthostkeychecking")
    if value is None:
        return None
    name = error_name(value, "StrictHostKeyChecking")
    return _CONFIGURED[settings.choice(name, first_argument(value).lower(), tuple(_CONFIGURED))]


def _files(sources: Sources) -> Tuple[str, ...]:
    """Return the files that ssh would read: the user's, then the system's."""
    files: List[str] = []
    for keyword, folder, name in (
        ("userknownhostsfile", expand_home("~/.ssh"), "known_hosts"),
        ("globalknownhostsfile", system_folder(), "ssh_known_hosts"),
    ):
        if sources.config.get(keyword) is not None:
            files.extend(sources.config_paths(keyword))
            if not files:  # without user files, a new key must not go to the system's
                files.append(os.devnull)
        else:
            files.extend(os.path.join(folder, name + number) for number in ("", "2"))
    return tuple(dict.fromkeys(files))


def _pins(given: Any) -> Tuple[str, ...]:
    name = "host_key_fingerprints"
    if given is None:
        return ()
    pins = [given] if isinstance(given, str) else given
    if not isinstance(pins, (list, tuple)) or not pins:
        raise settings.invalid_setting(name, given, "SHA256:... or a list of those")
    for pin in pins:
        if not isinstance(pin, str) or not pin.startswith("SHA256:") or len(pin) != 50:
            raise settings.invalid_setting(
                name, pin, "SHA256: and 43 characters, as ssh-keygen -l shows"
            )
    return tuple(pins)
