"""The keywords of ssh_config: those that are read, and ignored ones that need a warning."""

from __future__ import annotations

import logging
from typing import Dict, Set

from ssh_service.errors import SshConfigError
from ssh_service.ssh_config import HostConfig

__all__ = ["check_refused", "log_unused"]

_log = logging.getLogger(__name__)

# Keywords that this package reads.
_READ = frozenset(
    """addressfamily bindaddress casignaturealgorithms certificatefile ciphers compression
    challengeresponseauthentication connecttimeout dsaauthentication globalknownhostsfile
    hashknownhosts hostkeyalgorithms hostkeyalias hostname identitiesonly identityagent
    identityfile kbdinteractiveauthentication kexalgorithms macs passwordauthentication port
    preferredauthentications proxycommand proxyjump pubkeyacceptedalgorithms
    pubkeyacceptedkeytypes pubkeyauthentication refuseconnection requiredrsasize revokedhostkeys
    serveralivecountmax serveraliveinterval skeyauthentication stricthostkeychecking
    tisauthentication user userknownhostsfile""".split()
)
# Keywords that ask for protection which this package does not offer, with the consequence; a
# harmless value causes no warning.
_UNSUPPORTED: Dict[str, str] = {
    "bindinterface": "connections may leave by another interface",
    "canonicalizehostname": "the host's name is taken as it is",
    "checkhostip": "the host key is looked up only by the host's name",
    "knownhostscommand": "host keys are looked up only in files",
    "proxyusefdpass": "the proxy command's own stdin and stdout are the connection",
    "rekeylimit": "keys are renewed at paramiko's own limits",
}
_HARMLESS = ("no", "none", "false", "default", "default none")

_warned: Set[str] = set()  # `add` and `in` are atomic; at worst, a race warns twice


def check_refused(config: HostConfig) -> None:
    """
    Refuse a host for which ssh_config has ``RefuseConnection``.

    Raises
    ------
    SshConfigError
        ssh_config refuses connections to the host; the message has its reason.
    """
    value = config.get("refuseconnection")
    if value is not None:
        raise SshConfigError(f"{value.origin}: RefuseConnection: {' '.join(value.arguments)}")


def log_unused(config: HostConfig) -> None:
    """Log the keywords without effect; those about security as a warning, once per process."""
    for keyword in config.keywords():
        if keyword in _READ:
            continue
        value = config.all(keyword)[0]
        text = " ".join(value.arguments)
        if keyword in _UNSUPPORTED and text.lower() not in _HARMLESS:
            if keyword not in _warned:
                _warned.add(keyword)
                _log.warning(
                    "%s: %s has no effect here: %s", value.origin, keyword, _UNSUPPORTED[keyword]
                )
            continue
        _log.debug("%s: %s has no effect here", value.origin, keyword)
