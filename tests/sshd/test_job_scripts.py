"""The shell scripts of jobs, run by the shells that hosts have as /bin/sh."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence

import pytest

from ssh_service.jobs import record, scripts, start_scripts
from ssh_service.jobs.record import Seen
from ssh_service.testing import process_tree
from tests.common import PATIENCE, eventually, require_part

SHELLS: Dict[str, List[str]] = {
    "dash": ["dash"],
    "bash": ["bash", "--posix"],
    "busybox": ["busybox", "sh"],
    "mksh": ["mksh"],
    "zsh": ["zsh", "--emulate", "sh"],
}
ENDLESS = "while :; do sleep 0.1; done"


class Host:
    """A host whose ``/bin/sh`` is some shell, without a server before it."""

    def __init__(self, folder: Path, shell: Sequence[str], *prefix: str) -> None:
        self.folder, self.shell, self.prefix = folder, list(shell), list(prefix)
        self.jobs = folder / "ssh_service" / "jobs"
        self.mark = f"JOB_SCRIPT_TEST={uuid.uuid4().hex}"
        name, value = self.mark.split("=")
        self.env = {**os.environ, "XDG_STATE_HOME": str(folder), "SHELL": "/bin/sh", name: value}

    def run(self, text: str, stdin: bytes = b"", **env: str) -> "subprocess.CompletedProcess[str]":
        text = text.replace("/bin/sh -c", f"{' '.join(self.shell)} -c")
        process = subprocess.run(
            [*self.prefix, *self.shell, "-c", text],
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**self.env, **env},
            timeout=PATIENCE,
        )
        return subprocess.CompletedProcess(
            process.args, process.returncode, process.stdout.decode(), process.stderr.decode()
        )

    def start(self, job_id: str, script: str, stdin: bytes = b"", **options: Any) -> str:
        """Start a job, and return the answer."""
        token = uuid.uuid4().hex[:16]
        env, extra = options.pop("env", {}), options.pop("extra", {})
        plain = {"shell": None, "cwd": None, "run_timeout": None, "in_file": False, **options}
        line = start_scripts.payload(script, env, token, plain["in_file"])
        text = start_scripts.start(job_id, token, "d" * 64, line, stdin_size=len(stdin), **plain)
        process = self.run(text, stdin, **extra)
        assert (process.returncode, process.stderr) == (0, "")
        return process.stdout.rstrip("\n")

    def look(self, job_id: str) -> Seen:
        lines = record.answer(self.run(scripts.look(job_id)).stdout)
        assert lines is not None and len(lines) == 1
        seen = record.parse(lines[0])
        assert seen is not None and seen.job_id == job_id
        return seen

    def wait(self, job_id: str) -> Seen:
        eventually(lambda: self.look(job_id).state.name != "running", "it ends")
        return self.look(job_id)

    def output(self, job_id: str, stream: str = "stdout") -> bytes:
        return (self.jobs / job_id / self.look(job_id).token / stream).read_bytes()

    def end(self) -> None:
        process_tree.send_signal(process_tree.started_with(self.mark), signal.SIGKILL)


@pytest.fixture(params=list(SHELLS))
def any_host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Host]:
    shell = SHELLS[request.param]
    require_part(shutil.which(shell[0]), f"needs {shell[0]}")
    host = Host(tmp_path, shell)
    yield host
    host.end()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path, ["/bin/sh"])
    yield host
    host.end()


def test_any_shell_of_a_host_starts_and_ends_jobs(any_host: Host) -> None:
    """Status, signal, input, variables and time limit are the same whatever /bin/sh is."""
    host = any_host
    variables = {"A": "it's\n$b `c` \\", "jobs": "of the user"}
    script = 'cat; printf "%s|%s" "$A" "$jobs"; env | grep _ssh_; pwd >&2; exit 3'
    assert host.start("status", script, b"in\0put", env=variables, cwd="/usr")[:8] == "started "
    host.start("signal", "kill -TERM $$")
    host.start("late", f"trap 'echo late; exit 9' TERM; {ENDLESS}", run_timeout=0.2)
    seen = host.wait("status")
    assert str(seen.state) == "ended(3)"
    assert host.output("status") == b"in\0putit's\n$b `c` \\|of the user"
    assert host.output("status", "stderr") == b"/usr\n"
    assert sorted(os.listdir(host.jobs / "status" / seen.token)) == [
        "record", "starter", "status", "stderr", "stdout",
    ]  # fmt: skip
    assert str(host.wait("signal").state) == "signalled(TERM)"
    late = host.wait("late").state
    assert (str(late), late.timed_out) == ("ended(9), timed out", True)
    for line in map(host.run, (scripts.list_all(), scripts.clean(0))):
        found = [record.parse(text) for text in record.answer(line.stdout) or []]
        assert sorted(str(one and one.state) for one in found) == [
            "ended(3)", "ended(9), timed out", "signalled(TERM)",
        ]  # fmt: skip
    assert os.listdir(host.jobs) == []


def test_any_shell_of_a_host_kills_and_removes_jobs(any_host: Host) -> None:
    host = any_host
    host.start("stubborn", f"trap '' TERM; echo on; {ENDLESS}")
    eventually(lambda: host.output("stubborn") == b"on\n", "it ignores TERM")
    seen = host.look("stubborn")
    assert str(seen.state) == "running"
    host.run(scripts.remove("stubborn", seen.token))
    host.run(scripts.kill("stubborn", "0" * 16, ["KILL"], 0.5))
    assert str(host.look("stubborn").state) == "running"
    host.run(scripts.kill("stubborn", seen.token, ["TERM", "KILL"], 0.3))
    assert str(host.wait("stubborn").state) == "signalled(KILL)"
    host.run(scripts.remove("stubborn", "0" * 16))
    assert os.listdir(host.jobs) == ["stubborn"]
    host.run(scripts.remove("stubborn", seen.token))
    assert os.listdir(host.jobs) == []


# Process groups of their own in the job's session.
GROUPS = "timeout 400 sleep 300 & exec bash -c 'set -m; sleep 300 & echo on; wait'"
DEAF_GROUP = """timeout 400 sh -c "trap '' TERM; echo on; while :; do sleep 0.1; done" &\n"""


def start_groups(host: Host) -> None:
    host.start("groups", DEAF_GROUP + GROUPS)
    eventually(lambda: host.output("groups") == b"on\non\n", "all run")


def test_any_shell_of_a_host_kills_all_process_groups_of_a_job(any_host: Host) -> None:
    """The usual `timeout 3600 ./benchmark` has one of its own; all are gone when kill returns."""
    start_groups(any_host)
    token = any_host.look("groups").token
    any_host.run(scripts.kill("groups", token, ["TERM", "KILL"], 0.5))
    assert process_tree.started_with(any_host.mark) == []
    assert str(any_host.look("groups").state) == "signalled(TERM)"


def test_time_limit_ends_all_process_groups_of_a_job(any_host: Host) -> None:
    any_host.start("groups", GROUPS, run_timeout=0.3)
    assert str(any_host.wait("groups").state) == "signalled(TERM), timed out"
    eventually(lambda: process_tree.started_with(any_host.mark) == [], "all end")


def test_any_shell_of_a_host_kills_what_a_job_left_running(any_host: Host) -> None:
    """The job is over, and stays as it is; its session is still known by those processes."""
    host = any_host
    host.start("one", f"{DEAF_GROUP} sleep 300 & exit 3")
    seen = host.wait("one")
    eventually(lambda: host.output("one") == b"on\n", "it runs")
    host.run(scripts.kill("one", "0" * 16, ["TERM", "KILL"], 0.5))
    assert len(process_tree.started_with(host.mark)) >= 3
    host.run(scripts.kill("one", seen.token, ["TERM", "KILL"], 0.5))
    assert process_tree.started_with(host.mark) == []
    assert str(host.look("one").state) == "ended(3)"


def test_session_that_got_the_number_of_an_ended_job_is_left_alone(host: Host) -> None:
    """What the job left has ended, or made a session of its own, and another has the number."""
    host.start("one", "sleep 300 & exit 3")
    token = host.wait("one").token
    path, status = host.jobs / "one" / "record", host.jobs / "one" / token / "status"
    words, (left,) = path.read_text().split(), status.read_text().split()[5:]
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as stranger:
        words[8] = str(stranger.pid)
        path.write_text(" ".join(words) + "\n")
        host.run(scripts.kill("one", token, ["KILL"], 0.1))
        status.write_text(status.read_text().replace(left, f"{stranger.pid}:1"))
        host.run(scripts.kill("one", token, ["KILL"], 0.1))
        status.write_text(status.read_text().replace(":1 ", f":{began_at(stranger.pid)} "))
        words[5] = "another-boot"
        path.write_text(" ".join(words) + "\n")
        host.run(scripts.kill("one", token, ["KILL"], 0.1))
        assert stranger.poll() is None
        stranger.kill()


def start_script(job_id: str, token: str, line: str, stdin_size: int) -> str:
    return start_scripts.start(
        job_id,
        token,
        "d" * 64,
        line,
        stdin_size=stdin_size,
        shell=None,
        cwd=None,
        run_timeout=None,
        in_file=False,
    )


def path_without(folder: Path, *names: str) -> str:
    """Make a folder that has what PATH has, but for some programs."""
    for directory in ("/bin", "/usr/bin"):
        for entry in os.listdir(directory):
            if entry not in names and not (folder / entry).exists():
                (folder / entry).symlink_to(os.path.join(directory, entry))
    return str(folder)


def test_host_whose_programs_take_options_only_first_starts_and_removes_jobs(host: Host) -> None:
    """As on BSD and macOS, and with GNU's programs where POSIXLY_CORRECT is set."""
    host.env["POSIXLY_CORRECT"] = "1"
    assert host.start("one", "cat; exit 3", b"input")[:8] == "started "
    seen = host.wait("one")
    assert (str(seen.state), host.output("one")) == ("ended(3)", b"input")
    host.run(scripts.remove("one", seen.token))
    assert os.listdir(host.jobs) == []


@pytest.mark.parametrize("without", [["setsid"], ["setsid", "perl"]])
def test_host_without_setsid_starts_and_ends_jobs(
    host: Host, tmp_path: Path, without: List[str]
) -> None:
    """Perl does the same; without either, the job is still cut off from its starter."""
    (tmp_path / "bin").mkdir()
    host.env["PATH"] = path_without(tmp_path / "bin", *without)
    assert host.start("one", "cat; exit 3", b"input")[:8] == "started "
    assert str(host.wait("one").state) == "ended(3)" and host.output("one") == b"input"
    host.start("two", ENDLESS)
    host.run(scripts.kill("two", host.look("two").token, ["TERM", "KILL"], 2))
    assert str(host.wait("two").state) in ("signalled(TERM)", "signalled(KILL)", "killed")


def test_supervisor_that_is_killed_leaves_the_truth(host: Host) -> None:
    """As long as the job's shell runs, it runs; then nobody knows its status."""
    host.start("one", ENDLESS)
    line = (host.jobs / "one" / "record").read_text().split()
    os.kill(int(line[6]), signal.SIGKILL)
    assert host.look("one").state.name == "running"
    os.kill(int(line[8]), signal.SIGKILL)
    assert host.wait("one").state.name == "killed"


def test_job_that_kills_what_waits_for_it_goes_on(any_host: Host) -> None:
    """Its status is then nobody's to know, and none is made up."""
    host = any_host
    host.start("one", f"kill -9 $PPID; {ENDLESS}")
    shell = int((host.jobs / "one" / "record").read_text().split()[8])
    for _ in range(10):
        assert str(host.look("one").state) == "running"
    os.kill(shell, signal.SIGKILL)
    assert str(host.wait("one").state) == "killed"


@pytest.mark.parametrize("shift", [-4_000_000, 4_000_000])
def test_clock_that_is_set_while_a_job_runs_does_no_harm(
    host: Host, tmp_path: Path, shift: int
) -> None:
    """Only the record of the times is affected; the limit and the state are not."""
    (tmp_path / "bin").mkdir()
    clock = tmp_path / "bin" / "date"
    clock.write_text(f"#!/bin/sh\necho $(($({shutil.which('date')} +%s) + {shift}))\n")
    clock.chmod(0o755)
    path = host.env["PATH"]
    host.env["PATH"] = f"{tmp_path}/bin:{path}"
    host.start("one", "exit 3", run_timeout=30)
    assert str(host.wait("one").state) == "ended(3)"
    host.env["PATH"] = path
    host.run(scripts.clean(8_000_000))
    assert os.listdir(host.jobs) == ["one"]
    host.run(scripts.clean(0))
    assert os.listdir(host.jobs) == []


def began_at(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[19]


def test_reused_number_is_never_taken_for_the_job(host: Host) -> None:
    """A process with the job's number that began at another time, or in another boot."""
    host.start("one", ENDLESS)
    path = host.jobs / "one" / "record"
    words = path.read_text().split()
    token = words[1]
    host.run(scripts.kill("one", token, ["KILL"], 1))
    (host.jobs / "one" / token / "status").unlink()
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as stranger:
        words[6] = words[8] = str(stranger.pid)
        path.write_text(" ".join(words) + "\n")
        assert host.look("one").state.name == "killed"
        host.run(scripts.kill("one", token, ["KILL"], 0.1))
        words[7] = words[9] = began_at(stranger.pid)
        path.write_text(" ".join(words) + "\n")
        assert host.look("one").state.name == "running"
        words[5] = "another-boot"
        path.write_text(" ".join(words) + "\n")
        assert host.look("one").state.name == "rebooted"
        host.run(scripts.kill("one", token, ["KILL"], 0.1))
        assert stranger.poll() is None
        stranger.kill()


@pytest.mark.parametrize("text", ["garbage\n", "1 asleep 0 1700000000 -\n"])
def test_damaged_status_is_told_as_such(host: Host, text: str) -> None:
    """Neither is there no job, nor an end of it that nobody knows."""
    host.start("one", "true")
    token = host.wait("one").token
    (host.jobs / "one" / token / "status").write_text(text)
    assert host.look("one").state.name == "damaged"
    host.run(scripts.clean(0))
    assert os.listdir(host.jobs) == ["one"]


def test_time_limit_of_a_job_whose_supervisor_was_killed_is_kept(host: Host) -> None:
    host.start("one", ENDLESS, run_timeout=1.2)
    line = (host.jobs / "one" / "record").read_text().split()
    os.kill(int(line[6]), signal.SIGKILL)
    assert host.look("one").state.name == "running"
    assert host.wait("one").state.name == "killed"
    assert not process_tree.is_alive(int(line[8]))


def test_killed_sleep_of_a_time_limit_ends_no_job_early(host: Host) -> None:
    host.start("one", ENDLESS, run_timeout=2)
    began = time.monotonic()

    def arguments(pid: int) -> bytes:
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return b""

    def sleeps() -> List[int]:
        found = process_tree.started_with(host.mark)
        return [pid for pid in found if arguments(pid).endswith(b"sleep\x002\x00")]

    eventually(sleeps, "the limit sleeps")
    time.sleep(0.5)
    process_tree.send_signal(sleeps(), signal.SIGKILL)
    state = host.wait("one").state
    assert str(state) == "signalled(TERM), timed out"
    assert 2.0 < time.monotonic() - began < 2.0 + PATIENCE / 4


def test_record_is_on_the_disk_before_it_counts_and_before_the_script_runs(
    host: Host, tmp_path: Path
) -> None:
    """Else a host that loses power has forgotten what it ran, and runs it again."""
    (tmp_path / "bin").mkdir()
    for name, what in (("dd", "sync ${2##*/}"), ("ln", "link ${2##*/}")):
        program = tmp_path / "bin" / name
        path = shutil.which(name)
        program.write_text(f'#!/bin/sh\necho "{what}" >>{tmp_path}/calls\nexec {path} "$@"\n')
        program.chmod(0o755)
    host.env["PATH"] = f"{tmp_path}/bin:{host.env['PATH']}"
    host.start("one", f"echo script >>{tmp_path}/calls")
    host.wait("one")
    assert (tmp_path / "calls").read_text().split("\n") == [
        "sync record", "link record", "sync record", "script",
        "sync stdout", "sync stderr", "sync status.new", "",
    ]  # fmt: skip


def test_job_of_another_host_is_left_alone(host: Host) -> None:
    """A home that hosts share: the other host's job is reported as such, and nothing is done."""
    host.start("one", "exit 3")
    host.wait("one")
    path = host.jobs / "one" / "record"
    words = path.read_text().split()
    words[3:5] = ["elsewhere.example", "0" * 32]
    path.write_text(" ".join(words) + "\n")
    seen = host.look("one")
    assert (seen.state.name, seen.state.host) == ("elsewhere", "elsewhere.example")
    for text in (
        scripts.remove("one", words[1]),
        scripts.clean(0),
        scripts.kill("one", words[1], ["KILL"], 0.1),
    ):
        host.run(text)
    assert host.start("one", "exit 3")[:6] == "found "
    assert (host.jobs / "one" / words[1] / "status").exists()


def test_start_that_died_half_way_is_made_anew(host: Host) -> None:
    """Its input is removed, and it counts for nothing."""
    dead = host.jobs / "one" / ("0" * 16)
    dead.mkdir(parents=True)
    (dead / "starter").write_text("gone\n")
    (dead / "stdin").write_text("secret")
    assert host.look("one").state.name == "missing"
    assert host.start("one", "exit 3")[:8] == "started "
    assert str(host.wait("one").state) == "ended(3)" and not dead.exists()


@pytest.mark.parametrize("use", ["start", "remove", "clean"])
def test_start_that_was_ended_before_its_first_file_leaves_nothing(
    any_host: Host, use: str
) -> None:
    """So does one whose removal was ended: neither has a `starter`, and both are taken away."""
    host = any_host
    if use == "remove":
        host.start("one", "true")
        token = host.wait("one").token
    if use == "clean":  # of a start that could not make more
        (host.jobs / "two").mkdir(parents=True)
    for number, names in enumerate([[], ["status.new", "stdin"], ["starter"]]):
        attempt = host.jobs / "one" / (str(number) * 16)
        attempt.mkdir(parents=True)
        for name in names:
            (attempt / name).write_text("")
    if use == "start":
        assert host.start("one", "true").startswith("started ")
        token = host.wait("one").token
        assert set(os.listdir(host.jobs / "one")) == {"record", token}
        return
    answer = host.run(scripts.remove("one", token) if use == "remove" else scripts.clean(0))
    assert "! " not in answer.stdout and os.listdir(host.jobs) == []


@pytest.mark.parametrize("name", [".dear", "dear", "*"])
def test_folder_with_files_of_others_is_no_attempt(any_host: Host, name: str) -> None:
    folder = any_host.jobs / "one" / ("0" * 16)
    folder.mkdir(parents=True)
    for file in (name, "stdout"):
        (folder / file).write_text("dear")
    any_host.start("one", "true")
    any_host.run(scripts.remove("one", any_host.wait("one").token))
    any_host.run(scripts.clean(0))
    assert sorted(os.listdir(folder)) == sorted([name, "stdout"])


def test_start_that_another_removes_is_told_from_one_that_fails(
    any_host: Host, tmp_path: Path
) -> None:
    """The job of the id was found, and is gone: the caller looks, and starts anew."""
    host = any_host
    (tmp_path / "bin").mkdir()
    link = tmp_path / "bin" / "ln"
    link.write_text(f"#!/bin/sh\nrm -r {host.jobs}/one\nexit 1\n")
    link.chmod(0o755)
    host.env["PATH"] = f"{tmp_path}/bin:{host.env['PATH']}"
    assert host.start("one", "true") == "found "
    assert os.listdir(host.jobs) == []
    link.write_text("#!/bin/sh\nexit 1\n")
    assert host.start("one", "true") == f"error folder {host.jobs}/one cannot be written"
    eventually(lambda: os.listdir(host.jobs) == [], "nothing is left")


def test_signal_that_the_host_does_not_know_is_an_error(any_host: Host) -> None:
    host = any_host
    host.start("one", ENDLESS)
    token = host.look("one").token
    answer = record.answer(host.run(scripts.kill("one", token, ["NOPE"], 0)).stdout)
    assert answer == ["! the host cannot send it the signal NOPE"]
    host.run(scripts.kill("one", token, ["KILL"], 1))
    assert str(host.wait("one").state) == "signalled(KILL)"


def test_time_limit_that_is_over_before_the_job_runs_is_kept(
    any_host: Host, tmp_path: Path
) -> None:
    """A host that stalls until the limit is over has the job's whole time begin afterwards."""
    host = any_host
    (tmp_path / "bin").mkdir()
    link = tmp_path / "bin" / "ln"
    link.write_text(f'#!/bin/sh\nsleep 0.5\nexec {shutil.which("ln")} "$@"\n')
    link.chmod(0o755)
    host.env["PATH"] = f"{tmp_path}/bin:{host.env['PATH']}"
    script = f"trap 'exit 9' TERM; echo on; {ENDLESS}"
    assert host.start("one", script, run_timeout=0.3).startswith("started ")
    state = host.wait("one").state
    assert str(state) == "ended(9), timed out"
    assert host.output("one") == b"on\n"


def test_script_in_a_file_is_nobody_elses_to_read(any_host: Host, tmp_path: Path) -> None:
    shell = tmp_path / "fish"
    shell.write_text('#!/bin/sh\nstat -c %a "$1"\numask\n')
    shell.chmod(0o755)
    assert any_host.start("one", "true", shell=str(shell)) == "file fish"
    any_host.start("one", "true", shell=str(shell), in_file=True)
    seen = any_host.wait("one")
    mode, umask = any_host.output("one").split()
    assert mode == b"600" and int(umask, 8) == os.umask(int(umask, 8))
    assert not (any_host.jobs / "one" / seen.token / "script").exists()


@pytest.mark.parametrize("in_file", [False, True])
def test_any_shell_of_a_host_shows_the_script_to_nobody(
    any_host: Host, tmp_path: Path, in_file: bool
) -> None:
    """All users see the arguments of a program, but not those of a builtin."""
    host = any_host
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "printf"
    program.write_text(
        f'#!/bin/sh\necho "$@" >>{tmp_path}/shown\nexec {shutil.which("printf")} "$@"\n'
    )
    program.chmod(0o755)
    host.env["PATH"] = f"{tmp_path}/bin:{host.env['PATH']}"
    script = 'echo "its $A" # not for others' + 20_000 * "x"
    answer = host.start("one", script, env={"A": "secret\\n"}, in_file=in_file)
    assert answer.startswith("started ")
    assert str(host.wait("one").state) == "ended(0)"
    assert host.output("one").startswith(b"its secret")
    shown = tmp_path / "shown"
    text = shown.read_text() if shown.exists() else ""
    assert "secret" not in text and "for others" not in text


def test_descriptor_that_a_start_up_file_opened_does_not_delay_a_start(host: Host) -> None:
    host.prefix = ["sh", "-c", 'exec 6>&1 7>&1 8>&2 9>&2; exec "$@"', "sh"]
    began = time.monotonic()
    assert host.start("one", "sleep 20", run_timeout=30).startswith("started ")
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("shell", ["tcsh", "csh", "fish"])
def test_folder_with_a_quote_in_its_name_keeps_no_script(host: Host, shell: str) -> None:
    folder = host.folder / "it's $HOME \\ `id`"
    folder.mkdir()
    host.env["XDG_STATE_HOME"], host.jobs = str(folder), folder / "ssh_service" / "jobs"
    path = shutil.which(shell)
    require_part(path, f"needs {shell}")
    host.start("one", "echo on", shell=path, in_file=True)
    host.wait("one")
    assert (host.output("one"), host.output("one", "stderr")) == (b"on\n", b"")
    host.start("two", "ls two/*", shell=path, cwd=str(host.jobs), in_file=True)
    host.wait("two")
    assert b"starter" in host.output("two") and b"script" not in host.output("two")


def test_no_start_removes_a_folder_that_is_not_of_an_attempt(any_host: Host) -> None:
    """Only a real folder that is named as an attempt, and was begun as one, is cleared away."""
    host = any_host
    attempt = host.jobs / "one" / ("a" * 16)
    treasure, no_attempt = host.folder / "treasure", host.jobs / "one" / ("b" * 16)
    for folder in (treasure, attempt, no_attempt, host.jobs / "one" / "src"):
        folder.mkdir(parents=True)
        (folder / "file").write_text("dear")
    for folder in (treasure, attempt, host.jobs / "one" / "src"):
        (folder / "starter").write_text("")
    (host.jobs / "one" / ("c" * 16)).symlink_to(treasure)
    assert host.start("one", "true").startswith("started ")
    token = host.wait("one").token
    names = {"b" * 16, "c" * 16, "src"}
    assert set(os.listdir(host.jobs / "one")) == {*names, "record", token}
    for text in (scripts.remove("one", token), scripts.clean(0)):
        host.run(text)
        assert set(os.listdir(host.jobs / "one")) == {*names, "record", token}
    assert "b" * 16 + " is not of a job" in host.run(scripts.remove("one", token)).stdout
    assert sorted(os.listdir(treasure)) == ["file", "starter"]


def test_folder_of_jobs_that_is_a_link_is_refused(any_host: Host) -> None:
    """Nothing behind it is changed, neither its files nor its mode."""
    host = any_host
    dear = host.folder / "home" / "project" / "src"
    dear.mkdir(parents=True)
    (dear / "starter").write_text("")
    (host.folder / "home").chmod(0o755)
    host.jobs.parent.mkdir()
    host.jobs.symlink_to(host.folder / "home")
    answer = host.start("project", "true")
    assert answer == f"error folder {host.jobs} is a symbolic link"
    refusal = f"! the folder of jobs cannot be used: {host.jobs} is a symbolic link"
    for text in (scripts.remove("project", "0" * 16), scripts.clean(0)):
        assert record.answer(host.run(text).stdout) == [refusal]
    host.jobs.unlink()
    host.jobs.mkdir()
    (host.jobs / "project").symlink_to(host.folder / "home" / "project")
    answer = host.start("project", "true")
    assert answer == f"error folder {host.jobs}/project is a symbolic link"
    host.run(scripts.clean(0))
    assert (dear / "starter").exists()
    assert (host.folder / "home").stat().st_mode & 0o777 == 0o755


@pytest.mark.skipif(os.getuid() != 0, reason="needs the right to give files away")
@pytest.mark.parametrize("part", ["..", "", "one"])
def test_folder_of_jobs_of_another_user_is_refused(host: Host, part: str) -> None:
    """For all that is done, as what is written there may be a trap: it may name any process."""
    path = Path(os.path.normpath(host.jobs / part))
    path.mkdir(parents=True)
    path.chmod(0o755)
    os.chown(path, 1234, 1234)
    answer = host.start("one", "true")
    assert answer == f"error folder {path} belongs to the user with the id 1234"
    assert path.stat().st_mode & 0o777 == 0o755 and os.listdir(path) == []
    for text in (
        scripts.kill("one", "0" * 16, ["KILL"], 0.1),
        *([scripts.look("one"), scripts.list_all(), scripts.clean(0)] if part != "one" else []),
    ):
        (line,) = record.answer(host.run(text).stdout) or []
        assert line.startswith("! ") and line.endswith("belongs to the user with the id 1234")


@pytest.mark.parametrize("removed, answer", [(False, "! the job"), (True, "one ended 0 ")])
def test_folder_that_cannot_be_removed_is_told_from_one_that_is_gone(
    host: Host, tmp_path: Path, removed: bool, answer: str
) -> None:
    """A read-only home, and another program that removes the job at the same moment."""
    host.start("one", "true")
    seen = host.wait("one")
    (tmp_path / "bin").mkdir()
    move = tmp_path / "bin" / "mv"
    also = f"rm -r {host.jobs}/one" if removed else "true"
    move.write_text(f"#!/bin/sh\n{also}\necho 'mv: Read-only *' >&2\nexit 1\n")
    move.chmod(0o755)
    host.env["PATH"] = f"{tmp_path}/bin:{host.env['PATH']}"
    (line,) = record.answer(host.run(scripts.remove("one", seen.token)).stdout) or []
    assert line.startswith(answer)
    if not removed:
        assert line == "! the job cannot be removed: mv: Read-only *"


@pytest.mark.parametrize("use", ["remove", "clean"])
def test_removal_that_was_interrupted_is_finished_by_the_next(any_host: Host, use: str) -> None:
    """Of that id, or of all; what no removal has renamed is left alone."""
    host = any_host
    names = [".a.b.5", ".one.7", ".one.88", ".one.", ".one.x", ".one.x.9", ".dear", "..", ".one.3"]
    for name in names:
        (host.jobs / name / ("0" * 16) / "sub").mkdir(parents=True, exist_ok=True)
        (host.jobs / name / ("0" * 16) / "sub" / "file").write_text("")
    shutil.rmtree(host.jobs / ".one.3")
    (host.jobs / ".one.3").symlink_to(host.folder)
    text = scripts.remove("one", "f" * 16) if use == "remove" else scripts.clean(0)
    host.run(text)
    (host.jobs / ".one.3").unlink()
    host.run(text)
    left = {".one.", ".one.x", ".dear"} | ({".one.x.9", ".a.b.5"} if use == "remove" else set())
    assert set(os.listdir(host.jobs)) == left and (host.folder / "ssh_service").is_dir()


def test_removal_that_fails_names_what_it_leaves(any_host: Host, tmp_path: Path) -> None:
    """The job is gone then, but not its data, and no removal is silent about that."""
    host = any_host
    host.start("one", "true")
    seen = host.wait("one")
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "rm"
    program.write_text("#!/bin/sh\necho 'rm: Device or resource busy' >&2\nexit 1\n")
    program.chmod(0o755)
    path = host.env["PATH"]
    host.env["PATH"] = f"{tmp_path}/bin:{path}"
    for _ in range(2):
        (line,) = record.answer(host.run(scripts.remove("one", seen.token)).stdout) or []
        (name,) = os.listdir(host.jobs)
        reason = f"{host.jobs}/{name} is left in part: rm: Device or resource busy"
        assert line == f"! the job cannot be removed: {reason}" and name.startswith(".one.")
    answer = record.answer(host.run(scripts.clean(0)).stdout)
    assert answer == [f"! a job cannot be removed: {reason}"]
    host.env["PATH"] = path
    host.run(scripts.remove("one", seen.token))
    assert os.listdir(host.jobs) == []


def test_folder_that_cannot_be_read_is_told_from_a_missing_job(host: Host) -> None:
    """As a home on a server that is away for a moment: nothing is said to be gone."""
    host.prefix = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    if os.getuid():
        host.prefix = []
    elif not shutil.which("setpriv"):
        pytest.skip("needs setpriv")
    host.start("one", "echo on")
    token = host.wait("one").token
    text = scripts.serve()
    for folder, denied in ((host.jobs / "one", "one/record"), (host.jobs, "")):
        folder.chmod(0)
        try:
            uses = [scripts.look("one"), scripts.remove("one", token)]
            uses += [] if denied else [scripts.list_all(), scripts.clean(0)]
            for use in uses:
                (line,) = record.answer(host.run(use).stdout) or []
                assert line.startswith("! the folder of jobs cannot be read: ")
                assert f"{host.jobs}/{denied}" in line and "Permission denied" in line
            process = host.run(text, f"look one\nread one {token} stdout 0 16\n".encode())
            assert (record.answer(process.stdout) or [])[1:] == [".", "-2 0", "-2"]
        finally:
            folder.chmod(0o700)
    assert str(host.look("one").state) == "ended(0)"


@pytest.mark.parametrize("name, answer", [("ls", ["-1 0", "-1"]), ("dd", ["3 3", "\0\0\0-1"])])
def test_output_that_is_removed_while_it_is_read_is_told_as_missing(
    any_host: Host, tmp_path: Path, name: str, answer: List[str]
) -> None:
    """The answer is whole, so that the session's other answers are, too."""
    host = any_host
    host.start("one", "echo on")
    token = host.wait("one").token
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / name
    program.write_text(f'#!/bin/sh\nrm -rf {host.jobs}/one\nexec {shutil.which(name)} "$@"\n')
    program.chmod(0o755)
    host.env["PATH"] = f"{tmp_path}/bin:{host.env['PATH']}"
    process = host.run(scripts.serve(), f"read one {token} stdout 0 16\n".encode())
    assert record.answer(process.stdout) == answer


@pytest.mark.parametrize("name", ["BLOCK_SIZE", "LS_BLOCK_SIZE"])
@pytest.mark.parametrize("value", ["1K", "human-readable"])
def test_output_is_read_whole_whatever_units_ls_shows(host: Host, name: str, value: str) -> None:
    host.start("one", "seq 1000")
    token = host.wait("one").token
    text = f"read one {token} stdout 0 16\n".encode()
    process = host.run(scripts.serve(), text, **{name: value})
    answer = record.answer(process.stdout) or []
    assert (answer[0], answer[-1]) == ("3893 3893", "3893")
    assert answer[1:-1] == [str(number) for number in range(1, 1001)]


def test_clean_removes_dead_starts_but_no_living_one(host: Host) -> None:
    for name, pid in (("dead", 1), ("living", os.getpid())):
        attempt = host.jobs / name / ("0" * 16)
        attempt.mkdir(parents=True)
        host.start("other", "true")
        host.wait("other")
        words = (host.jobs / "other" / "record").read_text().split()
        began = began_at(os.getpid())
        (attempt / "starter").write_text(f"{words[3]} {words[4]} {words[5]} {pid} {began}\n")
    host.run(scripts.clean(1000))
    assert sorted(os.listdir(host.jobs)) == ["living", "other"]


def test_input_that_is_cut_off_starts_nothing(host: Host) -> None:
    token = uuid.uuid4().hex[:16]
    line = start_scripts.payload("true", {}, token, False)
    text = start_script("one", token, line, stdin_size=10)
    assert host.run(text, b"123").stdout == "error stdin it did not arrive whole\n"
    assert host.look("one").state.name == "missing"
    eventually(lambda: os.listdir(host.jobs) == [], "nothing is left")


def test_script_that_is_cut_off_starts_nothing(host: Host) -> None:
    token = uuid.uuid4().hex[:16]
    line = start_scripts.payload("echo 1", {}, token, False)[:-3]
    text = start_script("one", token, line, stdin_size=0)
    assert host.run(text).stdout.startswith("error start ")
    eventually(lambda: os.listdir(host.jobs) == [], "nothing is left")


def test_full_disk_is_reported_with_what_was_written(host: Host, tmp_path: Path) -> None:
    """The status has its place from the start; output that had none is known to be missing."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f'mount -t tmpfs -o size=256k none {disk} && exec "$@"'
    probe = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, "sh", "true"], stderr=subprocess.PIPE
    )
    if probe.returncode:
        pytest.skip("needs the right to mount")
    host.env["XDG_STATE_HOME"] = str(disk)
    host.prefix = ["unshare", "-m", "sh", "-c", mount, "sh"]
    token = uuid.uuid4().hex[:16]
    line = start_scripts.payload("head -c 1000000 /dev/zero; exit 4", {}, token, False)
    text = start_script("one", token, line, stdin_size=0)
    look = f"\n( {scripts.look('one')} )"
    process = host.run(
        f"( {text} )\nsleep 1{look}\nwc -c <{disk}/ssh_service/jobs/one/{token}/stdout"
    )
    assert process.stdout.startswith("started "), process
    lines = process.stdout.splitlines()
    seen = record.parse(lines[-2])
    assert seen is not None and str(seen.state) == "ended(4), disk full"
    assert 100_000 < int(lines[-1]) < 262_144


def test_disk_that_is_full_at_the_start_starts_nothing(host: Host, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    host.env["XDG_STATE_HOME"] = str(file)
    assert host.start("one", "true").startswith("error folder mkdir: ")


@pytest.mark.parametrize("option", ["size=4k", "nr_inodes=8", "nr_inodes=9"])
def test_disk_that_is_full_is_named_by_the_start(host: Host, tmp_path: Path, option: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f'mount -t tmpfs -o {option} none {disk} && exec "$@"'
    host.prefix = ["unshare", "-m", "sh", "-c", mount, "sh"]
    if subprocess.run([*host.prefix, "true"], stderr=subprocess.PIPE).returncode:
        pytest.skip("needs the right to mount")
    host.env["XDG_STATE_HOME"] = str(disk)
    answer = host.start("one", "true", run_timeout=9)
    assert answer.startswith("error folder ") and "No space left on device" in answer


@pytest.mark.parametrize(
    "options, answer",
    [
        ({"cwd": "/no/such"}, "error cwd /no/such does not exist"),
        ({"cwd": "/etc/passwd"}, "error cwd /etc/passwd is not a folder"),
        ({"shell": "/no/such"}, "error shell /no/such does not exist"),
        ({"shell": "/tmp"}, "error shell /tmp is not a program"),
        ({"shell": "/etc/passwd"}, "error shell /etc/passwd is not a program"),
    ],
)
def test_start_that_cannot_be_made_says_why(
    any_host: Host, options: Dict[str, Any], answer: str
) -> None:
    assert any_host.start("one", "true", **options) == answer
    assert not (any_host.jobs / "one").exists()


LOGIND = """#!/bin/sh
case $5 in
    KillUserProcesses) echo "b $KILLS" ;;
    KillExcludeUsers) echo "$EXCLUDES" ;;
    KillOnlyUsers) echo "$ONLY" ;;
esac
"""


@pytest.mark.parametrize(
    "kills, excludes, only, lingers, outcome",
    [
        ("false", "as 0", "as 0", "no", "plain"),
        ("true", 'as 1 "me"', "as 0", "no", "plain"),
        ("true", 'as 1 "root"', 'as 1 "somebody"', "no", "plain"),
        ("true", 'as 1 "root"', "as 0", "yes", "scope"),
        ("true", "as 0", 'as 2 "you" "me"', "yes", "scope"),
        ("true", 'as 1 "root"', "as 0", "no", "refused"),
    ],
)
def test_logind_that_ends_the_jobs_of_a_session_is_noticed(
    host: Host, tmp_path: Path, kills: str, excludes: str, only: str, lingers: str, outcome: str
) -> None:
    """Decided from what stubs of logind's programs say; a user scope only with lingering."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {
        "busctl": LOGIND,
        "loginctl": f"#!/bin/sh\n[ $2 = me ] && echo Linger={lingers}\n",
        "id": "#!/bin/sh\necho me\n",
        "systemd-run": f'#!/bin/sh\necho "$*" >{tmp_path}/scope\nshift 4\nexec "$@"\n',
    }.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    host.env["PATH"] = f"{programs}:{host.env['PATH']}"
    host.env.update(KILLS=kills, EXCLUDES=excludes, ONLY=only, XDG_SESSION_ID="7")
    answer = host.start("one", "exit 3")
    if outcome == "refused":
        assert answer.startswith("error linger logind ends all processes of me with the last")
        assert answer.endswith("loginctl enable-linger me")
        return
    assert answer.startswith("started ") and str(host.wait("one").state) == "ended(3)"
    assert (tmp_path / "scope").exists() == (outcome == "scope")
    if outcome == "scope":
        assert (tmp_path / "scope").read_text().startswith("--user --scope --quiet -- /bin/sh -c ")


def test_two_hosts_with_one_home_keep_to_their_own_jobs(host: Host, tmp_path: Path) -> None:
    """Two UTS namespaces, two names: the second host can only name the first one's job."""
    other = Host(
        tmp_path, ["/bin/sh"], "unshare", "-u", "sh", "-c", 'hostname b.test; exec "$@"', "sh"
    )
    if subprocess.run([*other.prefix, "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("needs the right to make a UTS namespace")
    try:
        host.start("one", ENDLESS)
        here = host.look("one")
        there = other.look("one")
        assert (here.state.name, there.state.name) == ("running", "elsewhere")
        assert there.state.host == here.state.host != "b.test"
        other.run(scripts.kill("one", here.token, ["KILL"], 0.1))
        assert other.start("one", ENDLESS)[:6] == "found "
        assert host.look("one").state.name == "running"
        other.start("two", ENDLESS)
        assert (host.look("two").state.name, host.look("two").state.host) == (
            "elsewhere",
            "b.test",
        )
        host.run(scripts.kill("two", other.look("two").token, ["KILL"], 0.1))
        assert other.look("two").state.name == "running"
    finally:
        other.end()


def test_job_of_a_host_that_was_renamed_is_still_its_own(host: Host) -> None:
    """As DHCP, cloud-init and hostnamectl do it; the job runs, and ends, under the first name."""
    inside = ["unshare", "-u", "sh", "-c", "hostname a.test && echo on && exec sleep 300"]
    with subprocess.Popen(inside, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as name_space:
        assert name_space.stdout is not None
        try:
            if name_space.stdout.readline() != b"on\n":
                pytest.skip("needs the right to make a UTS namespace")
            host.prefix = ["nsenter", "-t", str(name_space.pid), "-u"]
            host.start("runs", ENDLESS)
            host.start("over", "exit 3")
            assert host.wait("over").state.host == "a.test"
            subprocess.run([*host.prefix, "hostname", "b.test"], check=True)
            assert host.start("runs", ENDLESS)[:6] == "found "
            seen = host.look("runs")
            assert (str(seen.state), seen.state.host) == ("running", "a.test")
            assert str(host.look("over").state) == "ended(3)"
            host.run(scripts.kill("runs", seen.token, ["TERM"], 1))
            assert str(host.wait("runs").state) == "signalled(TERM)"
            host.run(scripts.clean(0))
            assert os.listdir(host.jobs) == []
        finally:
            name_space.kill()


def test_host_without_proc_says_what_it_cannot_know(host: Host) -> None:
    """It starts, limits, signals and ends jobs, but knows its processes by their numbers alone."""
    host.prefix = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh"]
    if subprocess.run([*host.prefix, "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("needs the right to mount")
    assert host.start("one", ENDLESS).startswith("started ")
    seen = host.look("one")
    assert (seen.state.name, seen.state.certain) == ("running", False)
    host.run(scripts.kill("one", seen.token, ["TERM", "KILL"], 2))
    state = host.wait("one").state
    assert (str(state), state.certain) == ("signalled(TERM)", True)
    host.start("late", ENDLESS, run_timeout=0.2)
    assert str(host.wait("late").state) == "signalled(TERM), timed out"
    host.start("gone", ENDLESS)
    words = (host.jobs / "gone" / "record").read_text().split()
    process_tree.send_signal([int(words[6]), int(words[8])], signal.SIGKILL)
    state = host.wait("gone").state
    assert (state.name, state.certain) == ("killed", False)
    host.run(scripts.clean(0))
    assert os.listdir(host.jobs) == []


def test_host_without_proc_ends_the_process_groups_that_ps_lists(
    host: Host, tmp_path: Path
) -> None:
    proc, programs = tmp_path / "proc", tmp_path / "bin"
    proc.mkdir()
    programs.mkdir()
    mounts = f"mount --bind /proc {proc} && mount -t tmpfs none /proc"
    host.prefix = ["unshare", "-m", "sh", "-c", f'{mounts} && exec "$@"', "sh"]
    if subprocess.run([*host.prefix, "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("needs the right to mount")
    ps = programs / "ps"
    fields = r"s/^.*) [^Z] [0-9]* \([0-9]*\) \([0-9]*\) .*/ \2  \1/p"
    ps.write_text(f"#!/bin/sh\ncat {proc}/[0-9]*/stat | sed -n '{fields}'\n")
    ps.chmod(0o755)
    host.env["PATH"] = f"{programs}:{host.env['PATH']}"
    start_groups(host)
    host.run(scripts.kill("groups", host.look("groups").token, ["TERM", "KILL"], 0.5))
    eventually(lambda: process_tree.started_with(host.mark) == [], "all end")
