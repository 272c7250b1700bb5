"""The command line against a real server that listens on several loopback addresses."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

from ssh_service.cli import files  # noqa: E402
from ssh_service.testing.local_sshd import Sshd  # noqa: E402
from tests.common import PATIENCE, eventually, is_running, require_part  # noqa: E402
from tests.keys import generated, public_line  # noqa: E402
from tests.sshd.web_hosts import ADDRESSES, argv, write_config  # noqa: E402
from tests.unit.command_line import in_process  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
NO_SPACE = "cannot write the output: No space left on device"
Done = "subprocess.CompletedProcess[str]"


@pytest.fixture
def server(sshd_factory: Callable[..., Sshd]) -> Sshd:
    return sshd_factory({"ListenAddress": ADDRESSES})


@pytest.fixture
def config(server: Sshd, tmp_path: Path) -> Path:
    """Return an ssh_config in which web1 to web4 are the server's addresses."""
    return write_config(server, tmp_path / "config")


Run = Callable[..., Any]


@pytest.fixture
def run(config: Path) -> Run:
    def run(command: str, *arguments: str) -> Any:
        return in_process(command, "-F", str(config), *arguments)

    return run


def objects(done: Any) -> Dict[str, Dict[str, Any]]:
    found = [json.loads(line) for line in done.stdout.splitlines()]
    by_host = {one["host"]: one for one in found}
    assert len(by_host) == len(found)
    return by_host


def waits_at_the_first(gate: Path) -> str:
    """Return a script that waits for a file, at 127.0.0.1 alone."""
    wait = f"until [ -e {gate} ]; do sleep .05; done"
    return f'case "$SSH_CONNECTION" in *" 127.0.0.1 "*) {wait};; esac'


# --- run ----------------------------------------------------------------------------------------


def test_json_is_one_object_per_host_and_the_rest_on_stderr(config: Path) -> None:
    script = "echo out; echo err >&2; exit 3"
    done = subprocess.run(
        argv(config, "run", "--json", "-v", "-H", "web[1-2]", "--", script),
        cwd=str(ROOT),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=60,
    )
    assert done.returncode == 1 and b"2 failed" in done.stderr
    assert set(objects(done)) == {"web1", "web2"}
    one = objects(done)["web1"]
    assert one.pop("seconds") > 0
    assert one == {
        "host": "web1",
        "status": "FAILED",
        "exit_status": 3,
        "signal": None,
        "stdout": "out\n",
        "stderr": "err\n",
        "error": None,
    }


def test_success_is_status_zero_and_plain_lines_in_a_pipe(run: Run) -> None:
    done = run("run", "-H", "web[1-4]", "--", "echo", "a  b;", "echo oops >&2")
    assert done.returncode == 0
    assert sorted(done.stdout.splitlines()) == [f"web{n}: a b" for n in (1, 2, 3, 4)]
    assert "web1: oops" in done.stderr and "\x1b" not in done.stdout + done.stderr
    assert done.stderr.endswith("ssh-service: 4 of 4 hosts succeeded\n")


def test_results_are_written_as_each_host_finishes(config: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    script = waits_at_the_first(gate)
    with subprocess.Popen(
        argv(config, "run", "--json", "-H", "web[1-2]", "--", script),
        cwd=str(ROOT),
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["host"] == "web2"
        gate.touch()
        assert json.loads(process.stdout.readline())["host"] == "web1"
        assert process.wait(20) == 0


def test_output_is_written_as_it_arrives(config: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    script = f"echo first; until [ -e {gate} ]; do sleep .05; done; echo last"
    with subprocess.Popen(
        argv(config, "run", "-H", "web1", "--", script), cwd=str(ROOT), stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"web1: first\n"
        gate.touch()
        assert process.stdout.readline() == b"web1: last\n"
        assert process.wait(20) == 0


def test_dead_host_among_forty_delays_no_other(config: Path, server: Sshd) -> None:
    mute = socket.create_server(("127.0.0.99", server.port))  # takes calls and never says a word
    hosts = "\n".join([*(f"web{n}" for n in (1, 2, 3, 4)), "dead", "web[100-134]"])
    with mute, subprocess.Popen(
        argv(config, "run", "--json", "-f", "-", "--", "true"),
        cwd=str(ROOT),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        universal_newlines=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(hosts)
        process.stdin.close()
        alive = [json.loads(process.stdout.readline()) for _ in range(39)]
        caller, _ = mute.accept()  # so it was called, and still waits
        caller.close()
        dead = json.loads(process.stdout.read())
        assert process.wait(20) == 1
    assert {one["status"] for one in alive} == {"SUCCEEDED"}
    assert (dead["host"], dead["status"]) == ("dead", "FAILED") and "\n" not in dead["error"]


@pytest.mark.parametrize("as_json", [True, False])
def test_unknown_host_is_reported_by_name(run: Run, as_json: bool) -> None:
    done = run("run", *(["--json"] if as_json else []), "-H", "wbe1.invalid", "--", "true")
    assert done.returncode == 1
    assert "the name 'wbe1.invalid' cannot be resolved" in (
        done.stdout if as_json else done.stderr
    )


def test_a_refused_login_says_what_was_tried(run: Run, tmp_path: Path) -> None:
    key = generated("stranger")
    done = run("run", "-H", "web1", "--key", str(key), "--", "true")
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and "authentication refused" in line and str(key) in line


def test_changed_host_key_error_has_both_fingerprints(
    run: Run, server: Sshd, tmp_path: Path
) -> None:
    known = f"[127.0.0.1]:{server.port} {public_line('other-host')}\n"
    Path(server.known_hosts).write_text(known)
    done = run("run", "-H", "web1", "--", "true")
    assert done.returncode == 1 and len(set(re.findall(r"SHA256:\S{43}", done.stderr))) == 2
    assert run("run", "-H", "web1", "--host-key", "off", "--", "true").returncode == 0


def test_an_unknown_host_key_is_refused_or_recorded(run: Run, server: Sshd) -> None:
    Path(server.known_hosts).write_text("")
    done = run("run", "-H", "web1", "--", "true")
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and line.endswith("own, --host-key accept-new records the key")
    assert run("run", "-H", "web1", "--host-key", "accept-new", "--", "true").returncode == 0
    assert str(server.port) in Path(server.known_hosts).read_text()
    assert run("run", "-H", "web1", "--host-key", "strict", "--", "true").returncode == 0


def test_a_command_that_never_ends_is_timed_out(run: Run, tmp_path: Path) -> None:
    script = f"echo $$ > {tmp_path}/pid; echo so far; exec sleep 60"
    done = run("run", "--json", "-t", "2", "-H", "web1", "--", script)
    one = objects(done)["web1"]
    assert done.returncode == 1
    assert (one["status"], one["stdout"]) == ("TIMED_OUT", "so far\n")
    assert "2 s" in one["error"]
    eventually(lambda: not is_running((tmp_path / "pid").read_text().strip()))


def test_signal_is_reported(run: Run) -> None:
    one = objects(run("run", "--json", "-H", "web1", "--", "kill -KILL $$"))["web1"]
    assert (one["status"], one["signal"], one["error"]) == ("FAILED", "KILL", None)


def test_fail_fast_ends_the_others_and_begins_no_more(run: Run) -> None:
    script = 'case "$SSH_CONNECTION" in *" 127.0.0.1 "*) exit 1;; esac; sleep 60'
    done = run("run", "--json", "--fail-fast", "-p", "2", "-H", "web[1-4]", "--", script)
    found = objects(done)
    assert done.returncode == 1 and len(found) == 4
    assert "cancelled" in found["web2"]["error"]
    assert "not started: another host failed" in found["web4"]["error"]


def test_each_hosts_output_goes_to_files_of_its_own(run: Run, tmp_path: Path) -> None:
    for mode in ([], ["--json"]):
        folder = tmp_path / f"logs{len(mode)}"
        script = "printf 'out\\377'; echo err >&2"
        done = run("run", *mode, "-o", str(folder), "-H", "web[1-2]", "--", script)
        assert done.returncode == 0
        assert sorted(os.listdir(folder)) == [
            f"web{n}.{stream}" for n in (1, 2) for stream in ("stderr", "stdout")
        ]
        assert (folder / "web1.stdout").read_bytes() == b"out\xff"
        assert (folder / "web2.stderr").read_bytes() == b"err\n"


def test_full_disk_fails_the_host(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_full(path: str, mode: str, **kwargs: Any) -> Any:
        is_full = path.endswith("web1.stdout")
        return open("/dev/full", "wb", **kwargs) if is_full else open(path, mode, **kwargs)

    monkeypatch.setattr(files, "open", disk_full, raising=False)
    done = run("run", "-o", str(tmp_path / "logs"), "-H", "web[1-2]", "--", "echo hi; sleep 1")
    assert done.returncode == 1
    line = done.stderr.splitlines()[0]
    assert line.startswith("web1: FAILED: ") and "No space left on device" in line
    assert (tmp_path / "logs" / "web2.stdout").read_text() == "hi\n"


def test_output_folder_second_run_leaves_nothing_of_the_first(run: Run, tmp_path: Path) -> None:
    """A host that fails keeps no output of an earlier run, and its failure is recorded."""
    folder = tmp_path / "logs"
    assert run("run", "-o", str(folder), "-H", "web[1-2]", "--", "echo hi").returncode == 0
    done = run("run", "-o", str(folder), "-H", "web1", "-H", "dead", "--", "exit 3")
    assert done.returncode == 1
    assert (folder / "web1.stdout").read_bytes() == b""
    assert (folder / "web1.error").read_text() == "FAILED: exit status 3\n"
    assert "refused" in (folder / "dead.error").read_text()
    assert (folder / "web2.stdout").read_text() == "hi\n"  # not a host of the second run
    assert run("run", "-o", str(folder), "-H", "web1", "--", "true").returncode == 0
    assert not (folder / "web1.error").exists()


def test_summary_names_the_failed_hosts(run: Run) -> None:
    """The last line says which hosts to look at."""
    script = "-H web1 -H dead -H web2 -H nowhere.invalid -- true".split()
    last = run("run", *script).stderr.splitlines()[-1]
    assert last.startswith("ssh-service: 2 of 4 hosts succeeded, 2 failed: ")
    assert sorted(last.rpartition(": ")[2].split(", ")) == ["dead", "nowhere.invalid"]


def test_dry_run_download_names_each_file_on_each_host(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dry run says where the files would go, and creates no folder for them."""
    monkeypatch.chdir(tmp_path)
    several = run("download", "-n", "-H", "web[1-2]", "/etc/hosts", "got").stdout.splitlines()
    assert sorted(several) == [f"web{n}: create  got/web{n}/hosts" for n in (1, 2)]
    one = run("download", "-n", "-H", "web1", "/etc/hosts", "got").stdout
    assert one == "web1: create  got\n"
    new = run("download", "-n", "-H", "web1", "/etc/hosts", "new/folder/").stdout
    assert new == "web1: create  new/folder/hosts\n"
    assert not (tmp_path / "got").exists() and not (tmp_path / "new").exists()


def test_dry_run_upload_lists_file_by_file(run: Run, tmp_path: Path) -> None:
    """New, unchanged and excluded entries, as lines and as JSON; a failure is status 1."""
    source = tmp_path / "site"
    source.mkdir()
    for name in ("index", "style", "draft~"):
        (source / name).write_text(name)
    target = f"{tmp_path}/www"
    options = ["--contents", "-u", "--exclude", "*~", "-H", "web1", str(source), target]
    assert run("upload", *options).returncode == 0
    (source / "index").write_text("changed")
    (source / "new").write_text("new")
    done = run("upload", "-n", *options)
    assert done.returncode == 0 and done.stdout.splitlines() == [
        f"web1: skip    {target}/draft~ (excluded)",
        f"web1: replace {target}/index",
        f"web1: create  {target}/new",
        f"web1: skip    {target}/style (unchanged)",
    ]
    result = json.loads(run("upload", "-n", "--json", *options).stdout)
    assert [(a["action"], a["size"]) for a in result["plan"]] == [
        ("skip", None), ("replace", 7), ("create", 3), ("skip", None),
    ]  # fmt: skip
    assert sorted(os.listdir(target)) == ["index", "style"]
    os.mkfifo(source / "fifo")
    failing = run("upload", "-n", *options)
    assert failing.returncode == 1 and "fail    " in failing.stdout


def test_dry_run_of_an_empty_folder_has_nothing_to_do(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "there").mkdir()
    paths = [str(tmp_path / "empty"), str(tmp_path / "there")]
    done = run("upload", "-n", "--contents", "-H", "web1", *paths)
    assert done.stdout == "web1: nothing to do\n"


def test_download_to_missing_folder_with_slash_creates_it(run: Run, tmp_path: Path) -> None:
    """From one host as from several, a folder that is missing is created."""
    source = tmp_path / "file"
    source.write_text("text")
    done = run("download", "-H", "web1", str(source), f"{tmp_path}/new/folder/")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "new" / "folder" / "file").read_text() == "text"


def test_verbose_failure_is_reported_once(config: Path) -> None:
    """One line per failure with -v: the host's own."""
    done = subprocess.run(
        argv(config, "run", "-v", "-H", "dead", "--", "true"),
        cwd=str(ROOT),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=30,
    )
    assert done.stderr.count(b"refused") == 1


def test_table_on_a_narrow_terminal_shows_all_of_its_header(config: Path) -> None:
    """In 30 columns the header takes two lines, and loses nothing."""
    command = argv(config, "run", "-H", "dead", "-H", "web1", "--", "sleep 1")
    shown = on_a_terminal(command, {"COLUMNS": "30"})
    assert re.search(r"1/2 done.*1 failed.*1 under\s+way\s+\d+ s", shown, re.DOTALL)


def test_second_interrupt_restores_the_terminal_and_sums_up(config: Path, server: Sshd) -> None:
    """The cursor is shown again, and the prompt gets a line of its own."""
    # The first interrupt is to end nothing before the second.
    command = argv(config, "run", "-H", "web[1-2]", "--", "trap '' TERM INT; echo up; sleep 20")
    interrupt_at = [b"up.*up", b"ending the"]
    shown = on_a_terminal(command, {}, interrupt_at, status=130, on_interrupt=server.freeze)
    server.thaw()
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    last = shown.splitlines()[-1]
    assert last.startswith("ssh-service: interrupted again: 0 of 2 hosts")
    assert last.endswith("; commands or copies may still run on 2 of them")


# --- luck ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGQUIT, 131)]
)
def test_an_interrupt_ends_the_remote_commands(
    config: Path, tmp_path: Path, number: int, status: int
) -> None:
    folder = tmp_path / "pids"
    folder.mkdir()
    script = f'touch {folder}/"$$"; exec sleep 60'
    with subprocess.Popen(
        argv(config, "run", "--json", "-H", "web[1-4]", "--", script),
        cwd=str(ROOT),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        eventually(lambda: len(os.listdir(folder)) == 4)
        began = time.monotonic()
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
        assert time.monotonic() - began < 8
    assert process.returncode == status
    assert len(out.splitlines()) == 4 and all(b"cancelled" in line for line in out.splitlines())
    assert err == b"ssh-service: interrupted: ending the commands or copies under way\n"
    eventually(lambda: not any(is_running(pid) for pid in os.listdir(folder)))


def test_an_interrupt_ends_copies_and_leaves_nothing_half_done(
    config: Path, tmp_path: Path
) -> None:
    with open(tmp_path / "big", "wb") as file:
        for _ in range(256):  # seconds of work; holes would take no time
            file.write(b"x" * (1 << 20))
    there = tmp_path / "there"
    there.mkdir()
    with subprocess.Popen(
        argv(config, "upload", "-H", "web1", str(tmp_path / "big"), f"{there}/"),
        cwd=str(ROOT),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        eventually(lambda: bool(os.listdir(there)))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    (tmp_path / "big").unlink()
    assert process.returncode == 130
    assert (
        err.splitlines()[0] == b"ssh-service: interrupted: ending the commands or copies under way"
    )
    assert b"web1: FAILED: " in err and b"cancelled" in err and b"Traceback" not in err
    assert not (there / "big").exists()


def test_a_second_interrupt_waits_for_nothing(config: Path, tmp_path: Path) -> None:
    script = f"trap '' TERM; touch {tmp_path}/begun; for i in $(seq 300); do sleep .1; done"
    with subprocess.Popen(
        argv(config, "run", "-H", "web1", "--", script),
        cwd=str(ROOT),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        eventually((tmp_path / "begun").exists)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert b"interrupted" in process.stderr.readline()
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert time.monotonic() - began < 1


@pytest.mark.parametrize("mode", [[], ["--json"], ["--dry-run"]])
@pytest.mark.parametrize("script", ["echo hi", "echo hi; exit 1"])
def test_cli_with_closed_stdout_ends_with_141(config: Path, mode: List[str], script: str) -> None:
    """Whether all hosts succeeded before the program noticed, or not."""
    reading_end, writing_end = os.pipe()
    os.close(reading_end)
    with open(writing_end, "wb") as nowhere:
        done = subprocess.run(
            argv(config, "run", "-H", "web1", *mode, "--", script),
            cwd=str(ROOT),
            stdout=nowhere,
            stderr=subprocess.PIPE,
            timeout=30,
        )
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("mode", ["", "--json"])
def test_a_closed_pipe_ends_the_work_quietly(config: Path, mode: str, tmp_path: Path) -> None:
    command = shlex.join(argv(config, "run", "-p", "1", "-H", "web[1-4]"))
    seconds = 1 if mode else 20  # JSON tells of a host once it is done
    script = f"echo $$ >> {tmp_path}/pids; echo one; echo two; exec sleep {seconds}"
    done = subprocess.run(
        [
            "bash",
            "-c",
            f"{command} {mode} -- {shlex.quote(script)} | head -1; echo ${{PIPESTATUS[0]}}",
        ],
        cwd=str(ROOT),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=30,
    )
    first, status = done.stdout.splitlines()
    # As of a program that SIGPIPE ended: no host failed by itself, but not all were reported.
    assert b"web1" in first and status == b"141"
    assert done.stderr == b""
    assert len((tmp_path / "pids").read_text().split()) < 4
    eventually(lambda: not any(map(is_running, (tmp_path / "pids").read_text().split())))


@pytest.mark.parametrize(
    "arguments",
    [["--json", "--", "echo hi"], ["--group", "--", "echo hi"], ["--", "yes"], ["--", "echo hi"]],
)
def test_run_onto_a_full_disk_ends_with_1_and_one_line(
    config: Path, arguments: List[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether or not Python's own buffers could take all of the output."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    require_part(os.path.exists("/dev/full"), "needs /dev/full")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            argv(config, "run", "-H", "web1", *arguments),
            cwd=str(ROOT),
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=PATIENCE,
        )
    told, *rest = done.stderr.decode().splitlines()
    assert (done.returncode, told) == (1, f"ssh-service: {NO_SPACE}")
    assert rest == [] or arguments[-1] == "yes" and rest[0].startswith("web1: FAILED")


def on_a_terminal(
    command: List[str],
    env: Dict[str, str],
    interrupt_at: Sequence[bytes] = (),
    status: int = 1,
    on_interrupt: Callable[[], object] = bool,
) -> str:
    """
    Run a command on a terminal of its own; return all that it showed.

    It is interrupted once for each pattern of `interrupt_at`, when that has been shown, and after
    `on_interrupt` was called.
    """
    waiting = list(interrupt_at)
    inherited = {k: v for k, v in os.environ.items() if not k.endswith(("_COLOR", "_COMPATIBLE"))}
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command,
        cwd=str(ROOT),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**inherited, "TERM": "xterm", **env},
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            shown += piece
            if waiting and re.search(waiting[0], shown, re.DOTALL):
                del waiting[0]
                on_interrupt()
                process.send_signal(signal.SIGINT)
        os.close(ours)
        assert process.wait(20) == status
    return shown.decode()


def test_a_terminal_shows_a_table_and_colours_where_wanted(config: Path) -> None:
    command = argv(
        config, "run", "-H", "web[1-2]", "--", "printf '\\033[2Jhi\\n'; sleep .5; exit 3"
    )
    shown = on_a_terminal(command, {})
    assert "0/2 done" in shown and "2 under way" in shown and "\x1b[36mweb1: " in shown
    assert "\\x1b[2Jhi" in shown and "\x1b[2J" not in shown
    plain = on_a_terminal(command, {"NO_COLOR": "1"})
    assert "web1: \\x1b[2Jhi" in plain and not re.search(r"\x1b\[3\dm", plain)


# --- copies -------------------------------------------------------------------------------------


def test_tree_is_copied_to_all_and_back_into_folders(run: Run, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_text("content")
    up = run("upload", "-H", "web1", str(tmp_path / "tree"), str(tmp_path / "there"))
    assert (up.returncode, up.stdout, up.stderr) == (0, "", "")
    down = run("download", "--json", "-H", "web[1-4]", f"{tmp_path}/there", f"{tmp_path}/here")
    assert down.returncode == 0 and len(objects(down)) == 4
    assert objects(down)["web1"]["exit_status"] is None
    for number in (1, 2, 3, 4):
        assert (tmp_path / "here" / f"web{number}" / "there" / "file").read_text() == "content"


def test_one_host_downloads_to_the_very_place(run: Run, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("content")
    assert run("download", "-H", "web1", f"{tmp_path}/there", f"{tmp_path}/it").returncode == 0
    assert (tmp_path / "it").read_text() == "content"


def test_missing_remote_file_is_reported(run: Run, tmp_path: Path) -> None:
    done = run("download", "-H", "web1", "/no/such", str(tmp_path / "it"))
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and line.startswith("web1: FAILED: ") and "/no/such" in line


def test_failed_download_from_several_leaves_no_empty_folder(run: Run, tmp_path: Path) -> None:
    """A host's folder stays only where something arrived, or where it was before."""
    (tmp_path / "here" / "web3").mkdir(parents=True)
    done = run("download", "-H", "web[1-3]", "/no/such", str(tmp_path / "here"))
    assert done.returncode == 1 and "copied" not in done.stderr
    assert done.stderr.endswith("0 of 3 hosts succeeded, 3 failed: web[1-3]\n")
    assert os.listdir(tmp_path / "here") == ["web3"]
    for target in ("new", "slash/"):
        hosts = ["-H", "web1"] if target == "slash/" else ["-H", "web[1-2]"]
        assert run("download", *hosts, "/no/such", str(tmp_path / target)).returncode == 1
        assert not (tmp_path / target).exists()


# --- bench --------------------------------------------------------------------------------------


def test_bench_measures_a_host_and_leaves_nothing_there(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    done = run("bench", "--json", "-H", "web1", "-c", "20", "-m", "1")
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert all(found[name] > 0 for name in ("connect_ms", "command_ms", "commands_per_s"))
    assert found["upload_mb_s"] > 0 and found["download_mb_s"] > 0
    refused = run("bench", "-H", "127.0.0.98")
    assert refused.returncode == 1 and len(refused.stderr.splitlines()) == 1
