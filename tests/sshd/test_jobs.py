"""Jobs on a real server: started once, and found again, whatever happens to connections."""

from __future__ import annotations

import functools
import io
import pickle
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest

from ssh_service import (
    Job,
    SshClientCache,
    SshCommandTimeout,
    SshConfigError,
    SshConnectError,
    SshExitError,
    SshJobConflict,
    SshJobError,
    SshJobNotFound,
    SshJobTimeout,
    find_job,
    list_jobs,
    start_job,
)
from ssh_service.jobs import handle as handle_module
from ssh_service.jobs import job as job_module
from ssh_service.jobs import scripts
from ssh_service.jobs import watcher as watcher_module
from ssh_service.jobs.finding import clean_jobs
from ssh_service.testing.local_sshd import Sshd, find_sshd
from tests.common import PATIENCE, Outcome, eventually, in_threads, is_running
from tests.servers import find_shell, litter, make_ash, make_program, sshd_with_shell
from tests.sshd.jobs import JobHost


def test_job_runs_to_its_end_and_is_removed(job_host: JobHost, cache: SshClientCache) -> None:
    """Output, status and input are those of the script; a removed job leaves nothing."""
    job = start_job(
        job_host.web,
        'cat; echo "$A" >&2; pwd; exit 3',
        env={"A": "it's\n$b `c`"},
        stdin="in\0put",
        cwd=Path("/usr"),
        cache=cache,
    )
    assert str(job.wait(PATIENCE)) == "ended(3)"
    process = job.result(PATIENCE)
    assert process.stdout_bytes == b"in\0put/usr\n"
    assert process.stderr == "it's\n$b `c`\n"
    assert (process.exit_status, process.returncode, process.exit_signal) == (3, 3, None)
    with pytest.raises(SshExitError, match=f"{job.connection_id}: .* exit status 3"):
        process.check_returncode()
    job.remove()
    assert job_host.folders() == []
    assert job.poll().name == "missing"
    with pytest.raises(SshJobNotFound):
        find_job(job_host.web, job.id, cache=cache)


def test_job_of_args_is_one_command(job_host: JobHost, cache: SshClientCache) -> None:
    """Its words are no shell's, and belong to what the id stands for."""
    words = ["printf", "<%s>", "a  b", "$HOME '!\\", "x\ny", ""]
    job = start_job(job_host.web, args=words, env={"A": "1"}, id="words", cache=cache)
    assert job.result(PATIENCE).stdout == "<a  b><$HOME '!\\><x\ny><>"
    assert start_job(job_host.web, args=words, env={"A": "1"}, id="words", cache=cache) == job
    with pytest.raises(SshJobConflict, match="another script"):
        start_job(job_host.web, args=[*words, "c"], env={"A": "1"}, id="words", cache=cache)
    job.remove()
    job = start_job(job_host.web, args=[Path("/bin/cat"), "-"], input="in\n", cache=cache)
    assert job.result(PATIENCE).stdout == "in\n"
    job.remove()


def test_job_outlives_its_connection_and_its_cache(
    job_host: JobHost, cache: SshClientCache
) -> None:
    job = start_job(
        job_host.web, "read line; echo got $line; sleep 0.5; echo end", stdin="it\n", cache=cache
    )
    cache.cleanup()
    job_host.sshd.cut()
    other = SshClientCache()
    try:
        again = find_job(job_host.web, job.id, cache=other)
        assert again == job and again.result(PATIENCE).stdout == "got it\nend\n"
        again.remove()
    finally:
        other.cleanup()


def test_one_id_is_started_once_by_ten_threads(
    job_host: JobHost, cache: SshClientCache, tmp_path: Path
) -> None:
    jobs: List[Job] = []
    script = f"echo run >> {tmp_path}/runs; sleep 0.3"
    in_threads(10, lambda _: jobs.append(start_job(job_host.web, script, id="ten", cache=cache)))
    assert len(set(jobs)) == 1
    assert jobs[0].wait(PATIENCE).exit_status == 0
    assert (tmp_path / "runs").read_text() == "run\n"
    assert start_job(job_host.web, script, id="ten", cache=cache) == jobs[0]
    with pytest.raises(SshJobConflict, match="another script"):
        start_job(job_host.web, script + " ", id="ten", cache=cache)
    jobs[0].remove()


def test_killed_job_is_ended_with_all_its_processes(
    job_host: JobHost, cache: SshClientCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_module, "_END_TIMEOUT", 0.5)
    job = start_job(job_host.web, "trap '' TERM; sleep 60 & echo $! $$; wait", cache=cache)
    pids = str(next(job.lines(timeout=PATIENCE))).split()
    assert job.poll().name == "running" and all(map(is_running, pids))
    state = job.kill()
    assert str(state) == "signalled(KILL)"
    eventually(lambda: not any(map(is_running, pids)), "they end")
    process = job.result(PATIENCE)
    assert (process.exit_status, process.returncode) == (-1, -9)
    assert process.exit_signal is not None and process.exit_signal[0] == "KILL"


@pytest.mark.parametrize("name", ["INT", "TERM", "USR1"])
def test_signal_reaches_the_job_as_it_would_a_command(
    job_host: JobHost, cache: SshClientCache, name: str
) -> None:
    """No signal is ignored on its way, not even INT, which shells ignore for the background."""
    job = start_job(
        job_host.web,
        f"trap 'echo got; exit 7' {name}; echo on; while :; do sleep 0.05; done",
        cache=cache,
    )
    lines = job.lines(timeout=PATIENCE)
    assert next(lines) == "on\n"
    job.kill(name)
    assert str(job.wait(PATIENCE)) == "ended(7)"
    assert list(lines) == ["got\n"] and lines.offset == 7


def test_status_of_a_signal_is_told_from_a_signal(
    job_host: JobHost, cache: SshClientCache
) -> None:
    jobs = [
        start_job(job_host.web, script, cache=cache) for script in ("exit 143", "kill -TERM $$")
    ]
    assert [str(job.wait(PATIENCE)) for job in jobs] == ["ended(143)", "signalled(TERM)"]


def test_pickled_job_is_the_same_job(job_host: JobHost, cache: SshClientCache) -> None:
    job = start_job(job_host.web, "exit 4", cache=cache)
    again = pickle.loads(pickle.dumps(job))
    assert again == job and again.id in repr(again)


def test_jobs_are_listed_with_their_states(job_host: JobHost, cache: SshClientCache) -> None:
    for job in list_jobs(job_host.web, cache=cache):
        job.kill()
        job.remove()
    start_job(job_host.web, "exit 5", id="b", cache=cache).wait(PATIENCE)
    running = start_job(job_host.web, "sleep 60", id="a", cache=cache)
    assert [(job.id, str(job.state)) for job in list_jobs(job_host.web, cache=cache)] == [
        ("a", "running"),
        ("b", "ended(5)"),
    ]
    assert str(running.kill()) == "signalled(TERM)"


@pytest.mark.parametrize("shell", ["tcsh", "fish", "zsh", "bash", "ash"])
def test_login_shell_of_any_kind_runs_jobs(
    shell: str, tmp_path: Path, cache: SshClientCache
) -> None:
    """The script is the login shell's own language, and lies on no disk once that has read it."""
    path = make_ash(tmp_path) if shell == "ash" else find_shell(shell)
    show = {"tcsh": "echo $version", "fish": "echo fish $version", "zsh": "echo $ZSH_VERSION"}
    folder = tmp_path / "home" / ".local" / "state" / "ssh_service" / "jobs"
    with sshd_with_shell(tmp_path, path) as sshd:
        script = [show.get(shell, "true"), "cat", "sh -c 'printf %s \"$VALUE\"'", "exit 3"]
        env = {"VALUE": "it's $HOME\n`id`!"}
        job = start_job(sshd.connect_params, script, env=env, stdin="input\n", cache=cache)
        process = job.result(PATIENCE)
        assert process.exit_status == 3 and process.stderr == ""
        first, rest = process.stdout.split("\n", 1) if shell in show else ("", process.stdout)
        assert rest == f"input\n{env['VALUE']}" and bool(first) == (shell in show)
        files = [str(file) for file in folder.rglob("*")]
        assert not any("script" in file or "stdin" in file for file in files), files
        job.remove()
        assert litter(tmp_path / "home") == []


@pytest.mark.parametrize("shell", ["tcsh", "csh", "fish"])
def test_shell_of_another_kind_runs_jobs_for_any_login_shell(
    job_host: JobHost, cache: SshClientCache, shell: str
) -> None:
    script = "set status_of = 5; exit $status_of" if "csh" in shell else "set -l a 5; exit $a"
    job = start_job(
        job_host.web, f"echo on; cat; {script}", stdin="in\n", shell=find_shell(shell), cache=cache
    )
    process = job.result(PATIENCE)
    assert (process.stdout, process.stderr, process.exit_status) == ("on\nin\n", "", 5)


def test_script_that_fish_cannot_read_is_left_on_no_disk(
    job_host: JobHost, cache: SshClientCache
) -> None:
    """Fish reads the whole file before it runs its first command."""
    job = start_job(job_host.web, "echo ${", shell=find_shell("fish"), cache=cache)
    assert job.result(PATIENCE).exit_status != 0
    assert not list(job_host.folder.rglob("script"))


def test_secrets_of_a_job_are_seen_by_nobody(job_host: JobHost, cache: SshClientCache) -> None:
    """Variables, script and input are in no process list, and in no file while the job runs."""
    secrets = ["hush-variable", "hush-input", "hush-script"]
    job = start_job(
        job_host.web,
        "cat >/dev/null; : hush-script; echo on; while :; do sleep 0.1; done",
        env={"A": secrets[0]},
        stdin=secrets[1],
        cache=cache,
    )
    assert next(job.lines(timeout=PATIENCE)) == "on\n"
    shown = subprocess.run(
        ["ps", "axww", "-o", "args="], stdout=subprocess.PIPE, check=True
    ).stdout.decode()
    assert f"ssh_service job {job.id}" in shown
    shown += "".join(
        file.read_text() for file in (job_host.folder / job.id).rglob("*") if file.is_file()
    )
    shown += repr(job) + repr(vars(job))
    assert not [secret for secret in secrets if secret in shown]
    job.kill()


def test_job_that_is_removed_under_a_follower_says_so(
    job_host: JobHost, cache: SshClientCache
) -> None:
    job = start_job(job_host.web, "echo on; while :; do sleep 0.1; done", cache=cache)
    lines = job.lines(timeout=PATIENCE)
    assert next(lines) == "on\n"
    with pytest.raises(SshJobError, match="is still running: kill it first"):
        job.remove()
    shutil.rmtree(job_host.folder / job.id)
    with pytest.raises(SshJobNotFound, match="is not there any more"):
        list(lines)
    with pytest.raises(SshJobNotFound):
        job.result(PATIENCE)
    assert job.poll().name == "missing"


def test_job_whose_folder_cannot_be_removed_says_why(
    job_host: JobHost, cache: SshClientCache
) -> None:
    job = start_job(job_host.web, "true", id="full", cache=cache)
    job.wait(PATIENCE)
    (job_host.folder / "full" / "notes").write_text("of somebody")
    with pytest.raises(
        SshJobError, match="job full: .* cannot be removed: .*/notes is not of a job"
    ):
        job.remove()
    assert "full" not in clean_jobs(job_host.web, 0, cache=cache)
    (job_host.folder / "full" / "notes").unlink()
    job.remove()
    assert "full" not in job_host.folders()


def test_same_id_after_a_removal_is_another_job(job_host: JobHost, cache: SshClientCache) -> None:
    """An old handle does not act on the new job."""
    first = start_job(job_host.web, "exit 1", id="again", cache=cache)
    first.wait(PATIENCE)
    first.remove()
    second = start_job(job_host.web, "sleep 60", id="again", cache=cache)
    assert first != second
    first.remove()
    first.kill("KILL")
    assert second.poll().name == "running"
    second.kill()


def test_run_timeout_ends_the_job_and_keeps_its_output(
    job_host: JobHost, cache: SshClientCache
) -> None:
    job = start_job(job_host.web, "echo on; sleep 60", run_timeout=0.3, cache=cache)
    with pytest.raises(SshCommandTimeout, match="run_timeout") as caught:
        job.result(PATIENCE)
    assert caught.value.process is not None and caught.value.process.stdout == "on\n"
    assert caught.value.ended and job.state.timed_out


@pytest.mark.parametrize(
    "options, text",
    [
        ({"id": "a/b"}, "id: expected 1 to 128 letters"),
        ({"id": "x" * 300}, "id: expected 1 to 128 letters"),
        ({"id": ".hidden"}, "id: expected 1 to 128 letters"),
        ({"id": ""}, "id: expected 1 to 128 letters"),
        ({"id": 7}, "id: expected 1 to 128 letters"),
        ({"cwd": ""}, "cwd: expected a path"),
        ({"cwd": "a\nb"}, "cwd: expected a path"),
        ({"shell": ""}, "shell: expected a path"),
        ({"run_timeout": 0}, "run_timeout: expected more than 0 seconds"),
        ({"run_timeout": True}, "run_timeout: expected more than 0 seconds, got True"),
        ({"run_timeout": -1}, "run_timeout: expected more than 0 seconds, got -1"),
        ({"timeout": 0}, "timeout: expected more than 0 seconds"),
        ({"timeout": True}, "timeout: expected more than 0 seconds, got True"),
        ({"timeout": float("nan")}, "timeout: expected more than 0 seconds"),
        ({"env": {"A": None}}, "environment variable 'A'"),
        ({"stdin": 5}, "stdin"),
        ({"stdin": "a", "input": "b"}, "stdin, input: give at most one"),
        ({"stdin": io.BytesIO()}, "stdin: a file could be read only once"),
        ({"args": ["ls"]}, "script, args: give script or args, not both"),
        ({"script": None, "args": "ls"}, "args: expected a list"),
        ({"script": None, "args": ["ls"], "shell": "/bin/tcsh"}, "shell: expected a POSIX shell"),
    ],
)
def test_bad_input_is_an_error_at_once(options: Dict[str, Any], text: str) -> None:
    with pytest.raises(SshConfigError, match=text):
        start_job({"host": "192.0.2.1"}, **{"script": "true", **options})


@pytest.mark.parametrize(
    "options", [{"start": -1}, {"start": 2**63}, {"stream": "log"}, {"encoding": "utf-16"}]
)
def test_bad_option_of_lines_is_an_error_at_once(
    job_host: JobHost, cache: SshClientCache, options: Dict[str, Any]
) -> None:
    job = start_job(job_host.web, "true", id="options", cache=cache)
    with pytest.raises(SshConfigError, match=next(iter(options))):
        job.lines(**options)


def test_output_behind_the_largest_offset_is_an_error(
    job_host: JobHost, cache: SshClientCache
) -> None:
    job = start_job(job_host.web, "true", cache=cache)
    with pytest.raises(
        SshJobError, match=f"has 0 bytes: the offset {2**63 - 1} is behind its end"
    ):
        next(job.lines(2**63 - 1, timeout=PATIENCE))
    with pytest.raises(SshConfigError, match="max_output"):
        job.result(PATIENCE, max_output=True)


def test_signal_with_a_typing_error_is_an_error(job_host: JobHost, cache: SshClientCache) -> None:
    job = start_job(job_host.web, "sleep 60", cache=cache)
    with pytest.raises(SshJobError, match=f"job {job.id}: .* the signal NOPE"):
        job.kill("NOPE")
    assert str(job.kill()) == "signalled(TERM)"


@pytest.mark.parametrize("text", ["", "garbage\n", "1 " * 13 + "\n"])
def test_damaged_record_is_named_and_nothing_is_started(
    job_host: JobHost, cache: SshClientCache, text: str
) -> None:
    """A host that lost power as a job began; `clean` cannot know that it is over."""
    job = start_job(job_host.web, "true", id="damaged", cache=cache)
    job.wait(PATIENCE)
    old = find_job(job_host.web, "damaged", cache=cache)
    record = job_host.folder / "damaged" / "record"
    good = record.read_text()
    record.write_text(text)
    uses: List[Callable[[], Job]] = [
        lambda: start_job(job_host.web, "true", id="damaged", cache=cache),
        lambda: find_job(job_host.web, "damaged", cache=cache),
    ]
    for use in uses:
        with pytest.raises(
            SshJobError, match='damaged record or status.*ssh_service/jobs/damaged".*rm -r'
        ) as it:
            use()
        assert it.value.state is not None and it.value.state.name == "damaged"
    assert "damaged" not in [one.id for one in list_jobs(job_host.web, cache=cache)]
    assert "damaged" not in clean_jobs(job_host.web, 0, cache=cache)
    record.write_text(good)
    old.remove()


def test_job_that_cannot_be_started_says_why(job_host: JobHost, cache: SshClientCache) -> None:
    with pytest.raises(SshJobError, match="cwd: /no/such does not exist"):
        start_job(job_host.web, "true", cwd="/no/such", cache=cache)
    with pytest.raises(SshJobError, match="shell: /no/shell does not exist"):
        start_job(job_host.web, "true", shell="/no/shell", cache=cache)


def test_hosts_that_share_a_home_keep_to_their_own_jobs(
    job_host: JobHost, cache: SshClientCache, tmp_path: Path
) -> None:
    """Two servers in two UTS namespaces on one home: the other's job is named, and left alone."""
    if subprocess.run(["unshare", "-u", "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("needs the right to make a UTS namespace")
    state = job_host.folder.parent.parent
    inside = f'hostname b.test; exec {find_sshd()} "$@"'
    wrapper = make_program(
        tmp_path / "wrapper", f"#!/bin/sh\nexec unshare -u sh -c '{inside}' sh \"$@\"\n"
    )
    options = {"SetEnv": f"SHLVL=1 XDG_STATE_HOME={state}"}
    job = start_job(job_host.web, "sleep 60", id="shared", cache=cache)
    with Sshd(tmp_path, options, sshd=str(wrapper)) as other:
        web = other.connect_params
        with pytest.raises(SshJobError, match="belongs to the host ") as caught:
            find_job(web, "shared", cache=cache)
        assert caught.value.state is not None and caught.value.state.name == "elsewhere"
        with pytest.raises(SshJobError, match="belongs to the host "):
            start_job(web, "sleep 60", id="shared", cache=cache)
        clean_jobs(web, 0, cache=cache)
        mine = start_job(web, "exit 4", id="mine", cache=cache)
        assert str(mine.wait(PATIENCE)) == "ended(4)"
        assert "shared" not in [found.id for found in list_jobs(web, cache=cache)]
        assert "mine" not in [found.id for found in list_jobs(job_host.web, cache=cache)]
        clean_jobs(job_host.web, 0, cache=cache)
        mine.remove()
    assert job.poll().name == "running"
    job.kill()


def test_time_that_is_over_says_that_the_job_runs(
    job_host: JobHost, cache: SshClientCache
) -> None:
    job = start_job(job_host.web, "echo on; while :; do sleep 0.1; done", cache=cache)
    lines = job.lines(timeout=1.0)
    assert next(lines) == "on\n"
    uses: Dict[str, Callable[[], Any]] = {
        "wrote nothing more within 1 s": lambda: next(lines),
        "did not end within 0.5 s": lambda: job.wait(0.5),
        "did not end within 0.6 s": lambda: job.result(0.6),
    }
    for text, use in uses.items():
        with pytest.raises(SshJobTimeout, match=f"job {job.id} {text}, and keeps running") as it:
            use()
        assert it.value.answered and it.value.job_id == job.id and it.value.retryable
        assert isinstance(it.value, TimeoutError) and it.value.state == job.state
        assert str(pickle.loads(pickle.dumps(it.value))) == str(it.value)
    job.kill()


def test_time_that_is_over_says_why_the_host_cannot_be_asked(
    job_host: JobHost, cache: SshClientCache
) -> None:
    job = start_job(job_host.web, "echo on; while :; do sleep 0.1; done", cache=cache)
    lines = job.lines(timeout=3.0)
    assert next(lines) == "on\n" and job.poll(PATIENCE).name == "running"
    job_host.sshd.stop()
    for use in (lambda: job.wait(0.7), lambda: next(lines), lambda: job.result(0.7)):
        with pytest.raises(SshJobTimeout, match=f"be asked about job {job.id} .*refused") as it:
            use()
        assert not it.value.answered and isinstance(it.value.__cause__, SshConnectError)
    with pytest.raises(SshConnectError):
        job.poll(PATIENCE)
    job_host.sshd.restart()


def test_time_that_cannot_suffice_is_said_to_be_short(
    job_host: JobHost, cache: SshClientCache
) -> None:
    """The host is not to blame; calls that act on a job refuse it."""
    job = start_job(job_host.web, "while :; do sleep 0.1; done", cache=cache)
    for use in (job.poll, job.wait, job.result):
        text = f"the host did not answer about job {job.id} within 0 s: asking takes some time"
        with pytest.raises(SshJobTimeout, match=text):
            use(0)
    for act in (job.kill, job.remove):
        with pytest.raises(SshConfigError, match="timeout: expected more than 0 seconds, got 0"):
            act(timeout=0)
    job.kill()


def test_host_that_runs_no_commands_is_quoted(tmp_path: Path, cache: SshClientCache) -> None:
    """What it says on stdout is the reason."""
    with Sshd(tmp_path, {"ForceCommand": "internal-sftp"}) as sshd:
        uses: List[Callable[[], Any]] = [
            lambda: list_jobs(sshd.connect_params, cache=cache),
            lambda: start_job(sshd.connect_params, "true", cache=cache),
        ]
        for use in uses:
            with pytest.raises(SshJobError, match="'This service allows sftp connections only"):
                use()


def test_job_keeps_the_time_limit_of_its_first_start(
    job_host: JobHost, cache: SshClientCache
) -> None:
    """A program that is started again may give it what is left of a time: no conflict."""
    script = "while :; do sleep 0.1; done"
    job = start_job(job_host.web, script, id="limit", cache=cache)
    assert start_job(job_host.web, script, id="limit", run_timeout=0.01, cache=cache) == job
    with pytest.raises(SshJobTimeout, match="keeps running"):
        job.wait(1)
    job.kill()


def test_start_that_nobody_confirms_in_time_names_the_job_that_may_run(
    job_host: JobHost, cache: SshClientCache
) -> None:
    script = "while :; do sleep 0.1; done"
    start_job(job_host.web, "true", id="warm", cache=cache)
    job_host.sshd.freeze()
    with pytest.raises(SshCommandTimeout) as caught:
        start_job(job_host.web, script, id="late", timeout=0.5, cache=cache)
    with pytest.raises(SshCommandTimeout, match="job warm: the host did not answer within 0.2 s"):
        find_job(job_host.web, "warm", timeout=0.2, cache=cache)
    job_host.sshd.thaw()
    text = "did not confirm the start within 0.5 s; job late may have been started: find it, or"
    assert text in str(caught.value) and caught.value.ended is None
    job = start_job(job_host.web, script, id="late", cache=cache)
    assert job.poll(PATIENCE).name == "running"
    job.kill()


def test_host_whose_shell_ends_at_each_question_is_an_error_in_the_end(
    job_host: JobHost, cache: SshClientCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked again for a while: it may have had no memory for a moment."""
    job = start_job(job_host.web, "while :; do sleep 0.1; done", id="mute", cache=cache)
    text = f"echo {scripts.MARK}; read line; echo no memory >&2; exit 3"
    monkeypatch.setattr(scripts, "serve", lambda: text)
    for module in (handle_module, watcher_module):
        monkeypatch.setattr(module, "_MAX_RETRY", 0.1)
    other = SshClientCache()
    again = find_job(job_host.web, "mute", cache=other)
    for use in (again.wait, lambda: list(again.lines())):
        with pytest.raises(SshJobError, match="with status 3 no memory, 10 times in a row"):
            use()
    other.cleanup()
    job.kill()


def test_garbled_answer_is_asked_for_again(
    job_host: JobHost, cache: SshClientCache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As after a lost session; if the host never answers otherwise, that is an error."""
    job = start_job(job_host.web, "echo on; while :; do sleep 0.1; done", cache=cache)
    text = f"echo {scripts.MARK}; read line; echo ' 0'; cat"
    once = f"if mkdir {tmp_path}/garbled; then {text}; else\n{scripts.serve()}\nfi"
    monkeypatch.setattr(handle_module, "_MAX_RETRY", 0.1)
    for script in (once, text):
        monkeypatch.setattr(scripts, "serve", functools.partial(str, script))
        other = SshClientCache()
        lines = find_job(job_host.web, job.id, cache=other).lines(timeout=PATIENCE)
        if script is once:
            assert next(lines) == "on\n" and (tmp_path / "garbled").exists()
        else:
            with pytest.raises(SshJobError, match="answer about a job: b' 0', 10 times in a row"):
                next(lines)
        other.cleanup()
    job.kill()


def test_job_that_is_removed_under_its_readers_disturbs_no_other(
    job_host: JobHost, cache: SshClientCache
) -> None:
    """Its own readers are told, and who follows another job of the host notices nothing."""
    long = start_job(job_host.web, "while :; do echo on; sleep 0.02; done", cache=cache)
    lines = long.lines(timeout=4 * PATIENCE)
    following = threading.Event()
    following.set()

    def follow() -> None:
        while following.is_set():
            assert next(lines) == "on\n" and long.poll(PATIENCE).name == "running"

    follower = Outcome(follow)
    for _ in range(5):
        job = start_job(job_host.web, "echo off", cache=cache)

        def read() -> None:
            with pytest.raises(SshJobNotFound):
                while True:
                    assert job.result(PATIENCE).stdout == "off\n"

        reader = Outcome(read)
        job.wait(PATIENCE)
        job.remove()
        assert reader.wait(PATIENCE).error is None
    following.clear()
    assert follower.wait(PATIENCE).error is None
    long.kill()


def test_folder_that_cannot_be_read_for_a_while_ends_no_wait(
    job_host: JobHost, cache: SshClientCache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every other call says so, instead of that the job is gone."""
    monkeypatch.setattr(watcher_module, "_LOOK_INTERVAL", 0.05)
    go = tmp_path / "go"
    job = start_job(job_host.web, f"echo on; while [ ! -e {go} ]; do sleep 0.1; done", cache=cache)
    waiting = Outcome(lambda: job.wait(PATIENCE))
    folder, aside = job_host.folder / job.id, tmp_path / "aside"
    lines = job.lines(timeout=PATIENCE)
    folder.rename(aside)
    folder.symlink_to(folder)  # a loop, which not even root can read
    uses: List[Callable[[], Any]] = [
        job.poll,
        lambda: next(lines),
        lambda: find_job(job_host.web, job.id, cache=cache),
    ]
    for use in uses:
        with pytest.raises(SshJobError, match="the folder of jobs cannot be read") as caught:
            use()
        assert not isinstance(caught.value, SshJobNotFound)
    with pytest.raises(SshJobTimeout, match="be asked about job .*Too many levels") as late:
        job.wait(0.7)
    assert not late.value.answered and not waiting.is_over()
    folder.unlink()
    aside.rename(folder)
    go.touch()
    assert str(waiting.wait().value) == "ended(0)" and list(lines) == ["on\n"]
