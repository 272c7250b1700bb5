"""Whether a host key is believed; the referee is ssh itself, at a real server."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path
from typing import List

import pytest

from ssh_service.errors import SshHostKeyError
from ssh_service.known_hosts import HostKeyTrust, host_name
from ssh_service.testing.pytest_plugin import Sshd
from tests.keys import public_line

FILES = 200


def random_lines(rng: random.Random, server: Sshd, key: str) -> List[str]:
    ours = f"[127.0.0.1]:{server.port}"
    hosts = [ours, ours, "127.0.0.1", "*", f"*:{server.port}", "[127.0.0.?]:*", "other", "127.*"]
    lines = []
    for _ in range(rng.randrange(1, 5)):
        marker = rng.choice(["", "", "", "@revoked ", "@cert-authority "])
        # A key that is revoked for the host at port 22 is refused by us, not by ssh, at others.
        choice = [ours, "*", "other"] if "revoked" in marker else hosts
        field = ",".join(
            rng.choice(["", "", "", "!"]) + rng.choice(choice) for _ in range(rng.randrange(1, 3))
        )
        shown = key if rng.random() < 0.6 else public_line("host-" + rng.choice("abc"))
        lines.append(f"{marker}{field} {shown}\n")
    return lines


def ssh_believes(server: Sshd, path: Path) -> bool:
    command = server.ssh_command("true")
    command[command.index(f"UserKnownHostsFile={server.known_hosts}")] = (
        f"UserKnownHostsFile={path}"
    )
    # Nothing is shown to the server: that it refuses us tells that its key was believed.
    for option in ("StrictHostKeyChecking=yes", "GlobalKnownHostsFile=none"):
        command[1:1] = ["-o", option, "-o", "PreferredAuthentications=none"]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    believed, refused = b"Permission denied" in done.stderr, b"verification failed" in done.stderr
    assert believed != refused, done.stderr
    return believed


def we_believe(server: Sshd, path: Path, key: str) -> bool:
    import base64

    key_type, encoded = key.split()
    names = (host_name("127.0.0.1", server.port), "127.0.0.1")
    try:
        HostKeyTrust("strict", (str(path),)).verify(key_type, base64.b64decode(encoded), names)
    except SshHostKeyError:
        return False
    return True


@pytest.mark.long
def test_host_keys_are_trusted_where_ssh_trusts_them(sshd: Sshd, tmp_path: Path) -> None:
    key = " ".join(Path(sshd.host_key + ".pub").read_text().split()[:2])
    path = tmp_path / "known_hosts"
    believed = 0
    for seed in range(FILES):
        path.write_text("".join(random_lines(random.Random(seed), sshd, key)))
        ours = we_believe(sshd, path, key)
        assert ours == ssh_believes(sshd, path), f"seed {seed}:\n{path.read_text()}"
        believed += ours
    assert FILES / 10 < believed < FILES * 9 / 10  # the files are of both kinds
