"""Jobs of a host that is booted again, and of one that gives their numbers to other processes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Iterator, List

import pytest

from ssh_service import Job, SshClientCache, SshJobError, find_job, list_jobs, run, start_job
from ssh_service.jobs.finding import clean_jobs
from ssh_service.testing.local_sshd import Sshd, find_sshd
from tests.common import PATIENCE, eventually
from tests.servers import make_program
from tests.sshd.jobs import JobHost

ENDLESS = "echo on; while :; do sleep 0.1; done"
NAMESPACES = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
BOOT_ID = "/proc/sys/kernel/random/boot_id"
# Makes a process, the leader of a group, that has the number $1.
REUSE = """
tries=0
while [ $tries -lt 100 ]; do
    tries=$((tries + 1))
    [ ! -e /proc/$1 ] || { sleep 0.05; continue; }
    echo $(($1 - 1)) >/proc/sys/kernel/ns_last_pid
    setsid sleep 300 </dev/null >/dev/null 2>&1 &
    [ $! = $1 ] && exit 0
    kill -9 $!
    wait $!
    sleep 0.05  # it is still the number of a group
done 2>/dev/null
ps ax -o pid=,pgid=,sid=,args= >&2
exit 1
"""


class Machine(JobHost):
    """A server in a PID namespace of its own, whose end is that of the machine."""

    def __init__(self, folder: Path) -> None:
        if os.geteuid() != 0:
            pytest.skip("needs root, for PID namespaces and a boot id of the test's own")
        self.boot_id = folder / "boot_id"
        self.boot_id.write_text("first-boot\n")
        mounts = f"mount --bind {self.boot_id} {BOOT_ID}"
        probe = subprocess.run(
            [*NAMESPACES, "sh", "-c", f"{mounts} && : >>/proc/sys/kernel/ns_last_pid"],
            stderr=subprocess.PIPE,
        )
        if probe.returncode:
            pytest.skip(f"needs PID and mount namespaces: {probe.stderr!r}")
        wrapper = make_program(
            folder / "machine",
            f"#!/bin/sh\nexec {' '.join(NAMESPACES)} sh -ec"
            f' \'{mounts}; exec {find_sshd()} "$@"\' sh "$@"\n',
        )
        options = {"SetEnv": f"SHLVL=1 XDG_STATE_HOME={folder}/state"}
        sshd = Sshd(folder, options, sshd=str(wrapper))
        super().__init__(sshd, folder / "state" / "ssh_service" / "jobs")

    def boot(self, boot_id: str) -> None:
        """Power off, and on again."""
        self.sshd.stop()
        self.boot_id.write_text(f"{boot_id}\n")
        self.sshd.restart()

    def numbers(self, job: Job) -> List[str]:
        """Return the numbers of the job's supervisor and shell."""
        words = (self.folder / job.id / "record").read_text().split()
        return [words[6], words[8]]

    def reuse(self, numbers: List[str], cache: SshClientCache) -> None:
        """Have other processes get these numbers."""
        for number in numbers:
            text = f"set -- {number}\n{REUSE}"
            process = run(self.web, text, shell="/bin/sh", timeout=PATIENCE, cache=cache)
            assert process.exit_status == 0, process.stderr

    def commands(self, numbers: List[str], cache: SshClientCache) -> List[str]:
        """Return what these processes run."""
        text = "; ".join(f"tr '\\0' ' ' </proc/{one}/cmdline; echo" for one in numbers)
        return run(self.web, text, timeout=PATIENCE, cache=cache).stdout.split("\n")[:-1]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    with machine.sshd:
        yield machine


STRANGERS = ["sleep 300 "] * 2


def test_numbers_that_others_got_are_never_taken_for_the_job(
    machine: Machine, cache: SshClientCache
) -> None:
    """Its processes are killed, and the kernel gives their very numbers to other groups."""
    job = start_job(machine.web, ENDLESS, id="one", cache=cache)
    assert next(job.lines(timeout=PATIENCE)) == "on\n"
    numbers = machine.numbers(job)
    run(machine.web, f"kill -9 {' '.join(numbers)}", cache=cache)
    machine.reuse(numbers, cache)
    assert str(job.wait(PATIENCE)) == "killed"
    again = find_job(machine.web, "one", cache=cache)
    assert [str(one.state) for one in (again, *list_jobs(machine.web, cache=cache))] == [
        "killed"
    ] * 2
    for signal in (None, "KILL"):
        assert str(again.kill(signal)) == "killed"
    with pytest.raises(SshJobError, match="was killed") as caught:
        again.result(PATIENCE)
    assert caught.value.process is not None and caught.value.process.stdout == "on\n"
    assert start_job(machine.web, ENDLESS, id="one", cache=cache) == job
    clean_jobs(machine.web, 0, cache=cache)
    assert machine.folders() == []
    assert machine.commands(numbers, cache) == STRANGERS


def test_time_limit_ends_no_process_that_got_the_number_of_the_job(
    machine: Machine, cache: SshClientCache
) -> None:
    job = start_job(machine.web, ENDLESS, id="late", run_timeout=1.5, cache=cache)
    assert next(job.lines(timeout=PATIENCE)) == "on\n"
    numbers = machine.numbers(job)
    run(machine.web, f"kill -9 {' '.join(numbers)}", cache=cache)
    machine.reuse(numbers, cache)
    limits = 'ps ax -o args= | grep "[s]sh_service limit"'
    eventually(lambda: run(machine.web, limits, cache=cache).exit_status == 1, "the limit is over")
    assert machine.commands(numbers, cache) == STRANGERS
    assert str(job.poll()) == "killed" and not job.state.timed_out


def test_boot_of_the_host_is_told_whatever_got_the_numbers_of_the_job(
    machine: Machine, cache: SshClientCache
) -> None:
    """The namespace ends with all processes; the next one has another boot id."""
    job = start_job(machine.web, ENDLESS, id="one", cache=cache)
    assert next(job.lines(timeout=PATIENCE)) == "on\n"
    numbers = machine.numbers(job)
    machine.boot("second-boot")
    machine.reuse(numbers, cache)
    assert str(job.wait(PATIENCE)) == "rebooted"
    again = start_job(machine.web, ENDLESS, id="one", cache=cache)
    assert again == job and str(again.state) == "rebooted"
    assert str(again.kill("KILL")) == "rebooted"
    with pytest.raises(SshJobError, match="the host was rebooted") as caught:
        again.result(PATIENCE)
    assert caught.value.process is not None and caught.value.process.stdout == "on\n"
    assert machine.commands(numbers, cache) == STRANGERS
    again.remove()
    second = start_job(machine.web, "exit 4", id="one", cache=cache)
    assert str(second.wait(PATIENCE)) == "ended(4)" and second != job


def test_container_that_is_started_again_has_killed_its_jobs(
    machine: Machine, cache: SshClientCache
) -> None:
    """Its boot id is the kernel's, which has not changed; its numbers begin anew."""
    job = start_job(machine.web, ENDLESS, id="one", cache=cache)
    numbers = machine.numbers(job)
    machine.boot("first-boot")
    machine.reuse(numbers, cache)
    assert str(job.wait(PATIENCE)) == "killed"
    assert str(job.kill()) == "killed"
    assert machine.commands(numbers, cache) == STRANGERS
    job.remove()
