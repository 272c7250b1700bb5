"""
The contract: the last resort of a reboot, which kills all there is.

It never reaches a server outside a PID namespace of its own: the sshd is the first process of one,
and a command over the very connection that is used has to say so before anything is sent.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Iterator

import pytest

from ssh_service import SshConnectionLost, SshHostService, Status, ssh_host_service
from ssh_service.testing.local_sshd import Sshd, find_sshd
from tests.common import eventually

from .conftest import config_for, results

UNSHARE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


@pytest.fixture
def walled_sshd(tmp_path: Path) -> Iterator[Sshd]:
    """Return a server that sees no process but its own."""
    program = find_sshd()
    if program is None or shutil.which(UNSHARE[0]) is None:
        pytest.skip("needs OpenSSH's sshd and util-linux's unshare")
    tried = subprocess.run([*UNSHARE, "true"], stderr=subprocess.PIPE, check=False)
    if tried.returncode != 0:
        pytest.skip(f"no PID namespace may be made here: {tried.stderr.decode().strip()}")
    wall = tmp_path / "walled-sshd"
    wall.write_text(f'#!/bin/sh\nexec {" ".join(UNSHARE)} {program} "$@"\n')
    wall.chmod(0o700)
    with Sshd(tmp_path, sshd=str(wall)) as sshd:
        yield sshd


@pytest.mark.parametrize("force", [False, True])
def test_reboot_last_resort_kills_all_and_succeeds(
    force: bool, walled_sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection ends, and other commands on it fail at once."""
    # The commands that would be tried first may reach an init beyond the namespace.
    monkeypatch.setattr(ssh_host_service, "_REBOOT", ("false",))
    call = {"ssh_hostname": walled_sshd.host}
    with SshHostService(config_for(walled_sshd)) as host:
        look = "readlink /proc/self/ns/pid; cat /proc/1/comm; ls /proc | grep -c '^[0-9]'"
        _, seen = results(host, host.remote_exec(look, call, {})[1])
        namespace, init, processes = seen["stdout"].split()
        walled = namespace != os.readlink("/proc/self/ns/pid") and init == "sshd"
        if not walled or int(processes) > 20:
            pytest.fail(f"this server is not in a namespace of its own: {seen['stdout']}")
        begun = tmp_path / "begun"
        _, other = host.remote_exec(f"touch {begun}; sleep 60", call, {})
        eventually(begun.exists)
        _, info = host.reboot(call, force=force)
        status, result = results(host, info, within=20)
        assert status == Status.SUCCEEDED
        assert isinstance(result["error"], SshConnectionLost)
        assert result["ssh_completed_process_result"].exit_status is None
        status, result = results(host, other, within=20)
        assert status == Status.FAILED
        assert isinstance(result["error"], SshConnectionLost)
