"""
Verification of host keys.

`HostKeyTrust` verifies a server's key by known_hosts files (`KnownHosts`), certificate authorities
and fingerprint pins, before any credentials are sent.
"""

from ssh_service.known_hosts.file import KnownHosts, KnownKey, fingerprint, host_name
from ssh_service.known_hosts.trust import POLICIES, HostKeyTrust

__all__ = ["POLICIES", "HostKeyTrust", "KnownHosts", "KnownKey", "fingerprint", "host_name"]
