"""`reboot` of a host that is a PID namespace: nothing outside could be rebooted."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Iterator

import pytest

from ssh_service import CompletedProcess, Host, SshClientCache, readiness
from ssh_service.errors import SshExitError
from ssh_service.events import CommandEnded, Event
from ssh_service.testing.local_sshd import Sshd, find_sshd
from tests.common import PATIENCE, Outcome, eventually
from tests.servers import make_program

NAMESPACES = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Machine:
    """A server with a boot id of its own, whose `reboot` only takes a note."""

    def __init__(self, folder: Path) -> None:
        self.notes, self._boot_id = folder / "notes", folder / "boot_id"
        self._boot_id.write_text("first-boot\n")
        programs = folder / "programs"
        programs.mkdir()
        make_program(programs / "reboot", f"#!/bin/sh\necho asked >>{self.notes}\n")
        mounts = f"mount --bind {self._boot_id} {BOOT_ID}"
        # (The real programs are out of reach, even by their paths.)
        for name in ("/usr/sbin/reboot", "/usr/bin/systemctl", "/usr/sbin/shutdown"):
            if os.path.exists(name):
                mounts += f" && mount --bind /bin/false {os.path.realpath(name)}"
        probe = subprocess.run([*NAMESPACES, "sh", "-c", mounts], stderr=subprocess.PIPE)
        if os.geteuid() != 0 or probe.returncode:
            pytest.skip(f"needs root, PID and mount namespaces: {probe.stderr!r}")
        wrapper = make_program(
            folder / "machine",
            f"#!/bin/sh\nexec {' '.join(NAMESPACES)} sh -ec"
            f' \'{mounts} && exec {find_sshd()} "$@"\' sh "$@"\n',
        )
        options = {"SetEnv": f"PATH={programs}:/usr/bin:/bin"}
        self.sshd = Sshd(folder, options, sshd=str(wrapper))

    def boot(self, boot_id: str) -> None:
        """Power off, and on again."""
        self.sshd.stop()
        self._boot_id.write_text(f"{boot_id}\n")
        self.sshd.restart()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    monkeypatch.setattr(readiness, "_MIN_PAUSE", 0.05)
    machine = Machine(tmp_path)
    with machine.sshd:
        yield machine


def test_reboot_returns_when_the_host_is_back_with_another_boot_id(
    machine: Machine, cache: SshClientCache
) -> None:
    """A host that answers, as one that shuts down still does, is not back."""
    web = Host(machine.sshd.connect_params, cache=cache)
    answers = []

    def note(event: Event) -> None:
        if isinstance(event, CommandEnded):
            answers.append(event)

    cache.subscribe(note)
    waiting = Outcome(lambda: web.reboot(timeout=2 * PATIENCE))
    eventually(lambda: len(answers) >= 4, "it asks for the boot id again")
    assert machine.notes.read_text() == "asked\n" and not waiting.is_over()
    machine.boot("second-boot")
    assert waiting.wait(2 * PATIENCE).error is None
    assert machine.notes.read_text() == "asked\n"
    process: CompletedProcess = web.run(f"cat {BOOT_ID}")
    assert process.stdout == "second-boot\n"


def test_reboot_that_the_host_refuses_is_an_error_with_its_reason(
    machine: Machine, tmp_path: Path, cache: SshClientCache
) -> None:
    make_program(tmp_path / "programs" / "reboot", "#!/bin/sh\necho no >&2; exit 1\n")
    with pytest.raises(SshExitError, match="exit status 1: 'no'"):
        Host(machine.sshd.connect_params, cache=cache).reboot(timeout=PATIENCE)
