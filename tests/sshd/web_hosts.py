"""Names in an ssh_config, web1 to web4, for one server that listens on several addresses."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import List

from ssh_service.testing.local_sshd import Sshd

__all__ = ["ADDRESSES", "argv", "write_config"]

ADDRESSES = [f"127.0.0.{number}" for number in range(1, 5)]


def write_config(server: Sshd, path: Path) -> Path:
    """Write an ssh_config in which web1 to web4 are the server's addresses."""
    text = f"""
        Host web*
            Port {server.port}
            User {server.username}
            IdentityFile {server.client_key}
            IdentitiesOnly yes
            IdentityAgent none
            HostKeyAlias [127.0.0.1]:{server.port}
            UserKnownHostsFile {server.known_hosts}
            GlobalKnownHostsFile /dev/null
    """
    for number, address in enumerate(ADDRESSES, 1):
        text += f"Host web{number}\n HostName {address}\n"
    text += "Host web1??\n HostName 127.0.0.1\n"
    text += f"Host dead\n HostName 127.0.0.99\n Port {server.port}\n"
    path.write_text(text)
    return path


def argv(config: Path, command: str, *arguments: str) -> List[str]:
    """Return the arguments of a process that runs a subcommand."""
    return [sys.executable, "-m", "ssh_service", command, "-F", str(config), *arguments]
