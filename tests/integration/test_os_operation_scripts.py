"""The scripts of shutdown and reboot, in real shells, around harmless commands."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ssh_service import ssh_host_service
from tests.common import SUDO_AS_IT_IS


def run(*commands: str) -> "subprocess.CompletedProcess[str]":
    """Run the script around harmless commands."""
    script = ssh_host_service._os_operation_script(commands)
    assert "kill" not in script and "poweroff" not in script
    return subprocess.run(
        ["/bin/sh", "-c", SUDO_AS_IT_IS + script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=20,
    )


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox"])
def test_os_operation_script_is_posix_sh(shell: str) -> None:
    script = ssh_host_service._os_operation_script(["true"])
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"needs {shell}")
    argv = [program, "sh"] if shell == "busybox" else [program]
    # -n: read it, run nothing
    subprocess.run([*argv, "-n"], input=script.encode(), check=True)


def test_os_operation_stops_at_the_first_working_command() -> None:
    done = run("false", "echo going down; true", "echo too late")
    assert (done.returncode, done.stdout) == (0, "going down\n")
    assert "+ " in done.stderr and "false" in done.stderr


def test_os_operation_fails_if_no_command_works() -> None:
    done = run("false", "exit 5")
    assert done.returncode == 1
    assert done.stdout == "ERROR: Failed to shutdown/reboot the system.\n"


def test_os_operation_uses_sudo_unless_root(tmp_path: Path) -> None:
    script = ssh_host_service._os_operation_script(["echo going down"])
    calls = tmp_path / "calls"
    fakes = {
        "id": "echo 1000",
        "sudo": f'printf "%s\\n" "$*" >> {calls}; [ "$1" = -n ] && shift; exec "$@"',
    }
    for name, text in fakes.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    argv = ["/bin/sh", "-c", script]
    done = subprocess.run(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert (done.returncode, done.stdout) == (0, b"going down\n")
    shell = "/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh"
    assert calls.read_text() == f"-n {shell} -c echo going down\n"
    (tmp_path / "sudo").unlink()
    env = {"PATH": str(tmp_path)}
    done = subprocess.run(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert (done.returncode, done.stdout) == (0, b"going down\n")
