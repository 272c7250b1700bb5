"""The command line, as far as no server is needed."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Dict, List

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

from ssh_service import CompletedProcess, SshServiceError, fleet  # noqa: E402
from ssh_service.cli import files as output_files  # noqa: E402
from ssh_service.cli.files import OutputFiles  # noqa: E402
from ssh_service.cli.report import (  # noqa: E402
    JsonLines,
    Lines,
    escape_control_characters,
    summary_line,
)
from ssh_service.copying import Options  # noqa: E402
from ssh_service.fleet.result import completed, failed  # noqa: E402

from .command_line import complaint_of, in_process  # noqa: E402

# --- help ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["run", "upload", "download", "bench", "completion", "demo"])
def test_help_names_each_command(name: str) -> None:
    done = in_process("--help")
    assert done.returncode == 0 and f"\n  {name} " in done.stdout


@pytest.mark.parametrize("name", ["run", "upload", "download"])
def test_help_shows_examples(name: str) -> None:
    assert f"ssh-service {name} -H" in in_process(name, "-h").stdout


def test_help_of_completion_says_what_each_shell_needs() -> None:
    """In zsh, nothing can be completed before `compinit`."""
    text = in_process("completion", "-h").stdout
    assert "~/.bashrc" in text and "~/.zshrc, after `compinit`" in text and "config.fish" in text


def test_the_exit_statuses_are_in_the_help() -> None:
    text = " ".join(in_process("-h").stdout.split())
    assert "0 all hosts succeeded, 1 some hosts failed, 2 wrong usage, 130 interrupted" in text


# --- usage --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["run"], "Missing argument 'COMMAND"),
        (["run", "true", "-H", "a"], "with -H HOST or -f FILE, before the command"),
        (["upload", "setup.py", "b"], "no hosts: name them with -H HOST or -f FILE (see"),
        (["run", "-H", "web[3-1]", "true"], "goes backwards"),
        (["run", "-H", "web 01", "true"], "'web 01' is not a host name"),
        (["run", "-H", "web01:ssh", "true"], "'ssh' is not a port number"),
        (["run", "-H", "", "true"], "no host"),
        (["run", "-H", "a", "-f", "no/such", "true"], "no/such: No such file or directory"),
        (["run", "-H", "a", "--key", "no/such", "true"], "--key no/such: no such file"),
        (["run", "-H", "a", "-F", "no/such", "true"], "--config no/such: no such file"),
        (["run", "-H", "a", "--timeout", "0", "true"], "0"),
        (["run", "-H", "a", "-t", "1s", "true"], "expected seconds, a number above 0, got '1s'"),
        (["upload", "-r", "-H", "a", __file__, "/x"], "Folders are copied whole"),
        (["download", "-H", "a[1-2]", "/x", __file__], "is not a folder, which several hosts"),
        (["run", "-H", "a", "--parallel", "0", "true"], "0"),
        (["run", "-H", "a", "--host-key", "maybe", "true"], "maybe"),
        (["run", "--bogus"], "--bogus"),
        (["run", "-H", "a", "-o", "setup.py", "true"], "setup.py: is a file, not a folder"),
        (["run", "-H", "a", "-o", "-", "true"], "--output-dir must be a folder, got '-'"),
        (["run", "-H", "a", "--port", "0", "true"], "0"),
        (
            ["run", "-p", "2222", "-H", "a", "true"],
            "-p 2222 means 2222 hosts at once, of 1; the port is -P 2222",
        ),
        (
            ["bench", "-p", "2222", "-H", "a"],
            "-p 2222 means 2222 commands at once, of 200; the port",
        ),
        (["upload", "-p", "2222", "-H", "a", "setup.py", "b"], "the port is -P 2222"),
        (
            ["upload", "--update", "--no-preserve", "-H", "a", "setup.py", "b"],
            "--update compares times, and --no-preserve keeps none: give one",
        ),
        (["run", "-H", "a", "-p", "ten", "true"], "expected a whole number, 1 or more, got 'ten'"),
        (["run", "-H", "a", "-P", "x", "true"], "'--port': expected a whole number, 1 to 65535"),
        (["run", "-H", "a", "b", "--", "true"], "each host needs its own -H (-H b)"),
        (["run", "-t", "1", "--host=a", "b", "c", "--", "x"], "its own -H (-H b -H c)"),
        (["rum"], "rum"),
        (["run", "-H", "ssh://a:geheim@b", "true"], "would show it: give --ask-password"),
        (["upload", "--sudo", "-H", "a", "setup.py", "b"], "use a folder of yours and `ssh-serv"),
        (["download", "--ask-sudo-password", "-H", "a", "b", "c"], "log in as another user (-l)"),
        (["shell", "-p", "2222", "a"], "The port is -P."),
        (["hosts"], "no hosts: give a PATTERN, or -f FILE"),
        (["hosts", "web[01-40"], "a bracket is not closed; a range is [01-40]"),
        (["run", "--group", "--json", "-H", "a", "true"], "--group, --json: give at most one"),
        (["run", "--group", "-o", "x", "-H", "a", "true"], "--group, --output-dir: give at most"),
        (["run", "--retry", "-1", "-H", "a", "true"], "expected a whole number, 0 or more"),
        (["upload", "-H", "a", "no/such*", "there"], "'no/such*': no file matches this pattern"),
        (["run", "-H", "web[01-40", "true"], "a bracket is not closed; a range is [01-40]"),
        (["run", "-H", "a", "-J", "b c", "true"], "--jump: host 'b c': 'b c' is not a host name"),
        (["run", "-H", "a", "--script", "no/such"], "--script no/such: No such file or directory"),
        (
            ["run", "-H", "a", "--script", "/bin/ls"],
            "--script /bin/ls: expected a text; a program",
        ),
        (["run", "-H", "a", "--stdin", "no/such", "x"], "--stdin no/such: No such file"),
        (["run", "-H", "a", "-f", "-", "--stdin", "-", "x"], "read only once: -f - and --stdin -"),
        (
            ["run", "-H", "a", "--env", "NOT_SET", "x"],
            "--env NOT_SET: there is no such variable",
        ),
        (["run", "-H", "a", "--env", "A B=1", "x"], "environment variable 'A B': a name consists"),
        (["run", "-H", "a", "--env", "=1", "x"], "service run: --env: environment variable '': a"),
        (
            ["run", "-H", "a", "-J", "b[1-2]", "x"],
            "stands for several hosts; give one host; expected",
        ),
        (["shell", "a", "-l", "root"], "'-l' stands after the host: options come before it; if"),
        (["shell", "-H", "a"], "The host is given without an option: ssh-service shell HOST."),
        (["forward", "-L", "1:b:2", "-H", "a"], "without an option: ssh-service forward HOST."),
        (["run", "-w", "a", "x"], "Did you mean -H?"),
        (["run", "-b", "-H", "a", "x"], "Did you mean --group?"),
        (["run", "-K", "-H", "a", "x"], "Did you mean --ask-sudo-password?"),
        (["job", "start", "-H", "a"], "Missing argument 'COMMAND"),
        (["job", "start", "-H", "a", "b", "--", "true"], "each host needs its own -H (-H b)"),
        (
            ["job", "start", "-H", "a", "--script", __file__, "--shell", "/bin/sh"],
            "first line names",
        ),
        (["upload", "-H", "a", "no/such", "there"], "no/such"),
        (["upload", "-H", "a", "only-one"], "Missing argument"),
        (["download", "-H", "a", "only-one"], "Missing argument"),
        (["upload", "-H", "a", "b", "c", "d"], "one source and one target, got 3 paths: copy"),
        (["upload", "web1", "b", "c"], "(and --exclude); hosts are named with -H HOST"),
        (["upload", "web1", "b"], "'web1': no such file or folder; hosts are named with -H HOST"),
        (["upload", "-H", "a", "web1:b", "c"], "hosts are named with -H HOST, not before a colon"),
        (["upload", "setup.py", "web:/srv"], "'web:/srv' is written -H web and '/srv'"),
        (["download", "a@web:", "."], "'a@web:' is written -H a@web and '.'"),
        (["run", "-l", "", "-H", "a", "x"], "--user: expected a non-empty text"),
        (["shell", "-l", "-x", "a"], "--user: expected a login name"),
        (["run", "-F", "", "-H", "a", "x"], "--config : no such file"),
        (["run", "--sudo-user", "-x", "-H", "a", "x"], "--sudo-user: expected a user's name"),
        (["run", "--sudo-user", "", "-H", "a", "x"], "expected a user's name, got ''"),
    ],
)
def test_usage_error_is_one_line(arguments: List[str], complaint: str) -> None:
    assert complaint in complaint_of(in_process(*arguments))


@pytest.mark.parametrize(
    "words", [["--", "grep", "--", "x"], ["-n", "grep", "--", "x"], ["grep", "-H", "b"]]
)
def test_a_double_hyphen_may_belong_to_the_command(words: List[str]) -> None:
    done = in_process("run", "-n", "-F", "none", "-H", "a", *words)
    assert done.returncode == 0 and " run: grep -" in done.stdout


def test_no_arguments_are_usage_and_show_the_help() -> None:
    done = in_process()
    assert done.returncode == 2 and "Commands:" in done.stderr + done.stdout


def test_empty_hosts_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("# nobody\n\n")
    assert "no hosts in it" in complaint_of(
        in_process("run", "-f", str(tmp_path / "hosts"), "true")
    )
    assert "standard input: no hosts in it" in complaint_of(in_process("run", "-f", "-", "true"))


def test_a_wrong_line_of_a_host_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("web01\nweb 02\n")
    assert f"{tmp_path}/hosts:2: host 'web 02'" in complaint_of(
        in_process("run", "-f", str(tmp_path / "hosts"), "true")
    )


# --- what would be done -------------------------------------------------------------------------


def test_dry_run_says_where_and_what(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("Host web*\n HostName %h.example.org\n User deploy\n")
    done = in_process(
        "run", "-F", str(tmp_path / "config"), "-n", "-H", "web[09-10]", "-H", "a@b:23",
        "-f", "-", "--", "echo", "a b", stdin="web09 # again\nc # last\n",
    )  # fmt: skip
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0] == "web09: deploy@web09.example.org:22: run: echo a b"
    assert lines[1] == "web10: deploy@web10.example.org:22: run: echo a b"
    assert lines[2] == "a@b:23: a@b:23: run: echo a b"
    assert lines[3].startswith("c: ") and len(lines) == 4
    assert "1 duplicate host ignored" in done.stderr


def test_user_and_port_apply_to_hosts_without_their_own(tmp_path: Path) -> None:
    """Options beat ssh_config, as with ssh; what is written with a host beats both."""
    (tmp_path / "config").write_text("Host *\n User nobody\n Port 24\n")
    hosts = ["-H", "a", "-H", "b@c:23", "-n", "--", "true"]
    done = in_process("run", "-F", str(tmp_path / "config"), "-l", "deploy", "-P", "2222", *hosts)
    assert [line.split(": ")[1] for line in done.stdout.splitlines()] == [
        "deploy@a:2222",
        "b@c:23",
    ]


@pytest.mark.parametrize("parallel", ["1023", "2222"])
def test_parallel_may_be_as_large_as_there_are_hosts(parallel: str) -> None:
    """Only what looks like a port, and is more than there are, is refused."""
    hosts = "a[1-2222]" if parallel == "2222" else "a"
    done = in_process("run", "-F", "none", "-n", "-p", parallel, "-H", hosts, "--", "true")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("way", ["upload", "download"])
def test_copy_options_reach_every_host(
    way: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each option of copies has its flag, and nothing else is given."""
    asked: List[Dict[str, Any]] = []

    def copy(hosts: Any, source: str, target: str, **options: Any) -> Any:
        asked.append(options)
        raise SshServiceError("enough")

    monkeypatch.setattr(fleet, way, copy)
    flags = (
        "--verify --resume --update --contents --preserve --links keep --keep-going --fsync"
        f" --exclude *.o --exclude /a --exclude-from {tmp_path}/patterns"
        " --delete --bwlimit 1.5m"
    )
    (tmp_path / "patterns").write_text("# rubbish\n; more\n\nb c/\n")
    times = "--timeout 5 --stall-timeout 2"
    hosts = ["-F", "none", "-H", "a@b"]
    in_process(way, *hosts, *flags.split(), *times.split(), "setup.cfg", "there")
    in_process(way, *hosts, "--no-preserve", "setup.cfg", "there")
    more = ["--contents", "--delete-even-if-empty", "--bwlimit", "100"]
    in_process(way, *hosts, "-nu", *more, "setup.cfg", "there")
    dry = asked.pop()
    assert (dry["dry_run"], dry["update"]) == (True, True)
    assert (dry["delete"], dry["max_rate"]) == ("even-if-empty", 102400)
    in_process(way, *hosts, "--bwlimit", "0", "setup.cfg", "there")
    assert asked.pop()["max_rate"] is None
    names = {"timeout", "stall_timeout", *Options._fields} - {"recursive"}
    given, plain = ({name: options[name] for name in names} for options in asked)
    assert given == {
        "timeout": 5,
        "stall_timeout": 2,
        "verify": True,
        "resume": True,
        "fsync": True,
        "preserve": True,
        "links": "keep",
        "on_error": "continue",
        "update": True,
        "contents": True,
        "exclude": ("*.o", "/a", "b c/"),
        "delete": True,
        "max_rate": 1.5 * 1024**2,
        "dry_run": False,
    }
    assert plain.pop("preserve") is False
    assert (plain.pop("timeout"), plain.pop("stall_timeout")) == (None, None)
    assert plain == {name: Options._field_defaults[name] for name in plain}


@pytest.mark.parametrize(
    "options, complaint",
    [
        (["-n", "--resume"], "--dry-run"),
        (["--delete"], "--delete needs --contents"),
        (["--bwlimit", "fast"], "500K"),
        (["--bwlimit", "-1"], "500K"),
        (["--exclude", "a["], "exclude: 'a['"),
        (["--exclude-from", "/nowhere/at/all"], "--exclude-from /nowhere/at/all: No such file"),
    ],
)
def test_copy_options_that_are_wrong_are_refused(options: List[str], complaint: str) -> None:
    done = in_process("upload", "-F", "none", "-H", "a@b", *options, "setup.cfg", "there")
    assert done.returncode == 2 and complaint in complaint_of(done)


# --- hosts --------------------------------------------------------------------------------------


def test_hosts_shows_what_ranges_aliases_and_files_stand_for(tmp_path: Path) -> None:
    (tmp_path / "config").write_text(
        "Host web*\n HostName %h.example.org\n User deploy\n ProxyJump gate\n"
        "Host db\n HostName 10.0.0.7\n Port 2222\n User pg\n ProxyCommand nc %h %p\n"
        "Host *\n User me\n"
    )
    (tmp_path / "hosts").write_text("db\nroot@[fe80::1]:22  # one\n")
    options = ["-F", str(tmp_path / "config")]
    done = in_process("hosts", *options, "web[1-2]", "-f", str(tmp_path / "hosts"))
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "web1               deploy@web1.example.org:22  via me@gate:22",
        "web2               deploy@web2.example.org:22  via me@gate:22",
        "db                 pg@10.0.0.7:2222  via the command nc 10.0.0.7 2222",
        "root@[fe80::1]:22  root@[fe80::1]:22",
    ]
    done = in_process("hosts", *options, "--json", "-J", "a,b@c:1", "web1")
    assert json.loads(done.stdout) == {
        "host": "web1", "username": "deploy", "hostname": "web1.example.org", "port": 22,
        "jump": ["me@a:22", "b@c:1"], "proxy_command": None,
    }  # fmt: skip


def test_host_that_cannot_be_resolved_does_not_hide_the_others(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("Host bad\n Port 99999\n")
    done = in_process("hosts", "-F", str(tmp_path / "config"), "-l", "me", "bad", "good")
    assert (done.returncode, done.stdout) == (1, "good  me@good:22\n")
    assert done.stderr.startswith("bad: FAILED: ") and len(done.stderr.splitlines()) == 1


# --- reports ------------------------------------------------------------------------------------


def process(status: int, stdout: bytes = b"") -> CompletedProcess:
    return CompletedProcess("true", None, stdout, b"", status)


def test_json_has_no_character_that_ends_or_turns_its_line(capfdbinary: Any) -> None:
    """`str.splitlines` and terminals know more of those than JSON does."""
    strange = "\x85\u2028\u2029\u202e\x9b31m\u2066"
    JsonLines().on_result(completed("a", process(0, f"a{strange}b\u00e9".encode()), 0.5))
    out = capfdbinary.readouterr().out.decode()
    assert len(out.splitlines()) == 1 and out.rstrip("\n").isprintable()
    assert json.loads(out)["stdout"] == f"a{strange}b\u00e9" and "\u00e9" in out


def test_a_time_limit_is_named_by_its_option(capfdbinary: Any) -> None:
    """The library names its parameter, `stall_timeout`."""
    text = "web1: local '/x': no progress for 2 s (stall_timeout)"
    for reporter in (JsonLines(), Lines()):
        reporter.on_result(failed("web1", SshServiceError(text), 0.5))
    for shown in capfdbinary.readouterr():
        assert b"no progress for 2 s (--stall-timeout)" in shown


def test_json_is_one_object_and_line_for_each_host(capfdbinary: Any) -> None:
    reporter = JsonLines()
    reporter.on_result(completed("a", process(0, b"two\nlines\xff\xe2\x82\xac"), 0.5))
    reporter.on_result(failed("b", SshServiceError("why"), 0.5))
    first, second = map(json.loads, capfdbinary.readouterr().out.splitlines())
    assert list(first) == [
        "host", "status", "exit_status", "signal", "seconds", "stdout", "stderr", "error",
    ]  # fmt: skip
    assert first["stdout"] == "two\nlines\\xff€" and first["error"] is None
    assert second["error"] == "why" and second["exit_status"] is None


def test_lines_stay_whole_and_have_their_host_before_them(capfdbinary: Any) -> None:
    lines = Lines()
    lines.on_output("a", "stdout", b"one\ntw")
    lines.on_output("b", "stdout", b"other\n")
    lines.on_output("a", "stdout", b"o\nrest")
    lines.on_output("a", "stderr", b"oops\n")
    lines.on_result(completed("a", process(3), 0.5))
    out, err = capfdbinary.readouterr()
    assert out == b"a: one\nb: other\na: two\na: rest\n"
    assert err == b"a: oops\na: FAILED: exit status 3\n"


def test_a_line_that_never_ends_is_broken(capfdbinary: Any) -> None:
    lines = Lines()
    for _ in range(10):
        lines.on_output("a", "stdout", b"x" * 20000)
    assert len(capfdbinary.readouterr().out) >= 131072


def test_a_host_cannot_play_with_the_terminal() -> None:
    assert (
        escape_control_characters(b"\x1b]0;title\x07\tred \xff\r")
        == b"\\x1b]0;title\\x07\tred \\xff"
    )


def test_a_signal_is_named_in_the_verdict() -> None:
    killed = CompletedProcess("true", None, b"", b"", -1, ("KILL", False, "", ""))
    assert summary_line(completed("a", killed, 1.0)) == "FAILED: ended by signal KILL"


def test_full_disk_error_names_host_and_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    files = OutputFiles(str(tmp_path), ["a"])

    def open_full(_: str, __: str, **kwargs: Any) -> Any:
        return open("/dev/full", "wb", **kwargs)

    monkeypatch.setattr(output_files, "open", open_full, raising=False)
    with pytest.raises(SshServiceError, match=r"a: cannot write .*a\.stdout: No space left"):
        files.write("a", "stdout", b"text")
    files.close("a")


@pytest.mark.parametrize("kind", ["link", "dangling link", "file"])
def test_output_is_written_only_to_files_of_the_programs_own(tmp_path: Path, kind: str) -> None:
    """Somebody else who may write to the folder cannot lead the output to another file."""
    victim, folder = tmp_path / "victim", tmp_path / "logs"
    files = OutputFiles(str(folder), ["a"])
    if kind == "file":
        (folder / "a.stdout").write_text("theirs")
    else:
        (folder / "a.stdout").symlink_to(victim)
    if kind == "link":
        victim.write_text("mine")
    with pytest.raises(SshServiceError, match=r"a: cannot write .*a\.stdout: File exists"):
        files.write("a", "stdout", b"text")
    assert victim.exists() == (kind == "link") and (folder / "a.stdout").exists() != (
        kind == "dangling link"
    )
    assert kind != "link" or victim.read_text() == "mine"
    again = OutputFiles(str(folder), ["a"])  # the next run removes what is in its way
    again.write("a", "stdout", b"text")
    again.close("a")
    assert (folder / "a.stdout").read_text() == "text" and not (folder / "a.stdout").is_symlink()


def test_bench_without_host_in_a_checkout_draws_the_pictures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from ssh_service.cli import bench

    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__main__.py").touch()
    monkeypatch.setattr(bench, "__file__", str(tmp_path / "ssh_service" / "cli" / "bench.py"))
    ran: List[Any] = []

    def note(command: List[str], cwd: str) -> "subprocess.CompletedProcess[bytes]":
        ran.append((command[1:], cwd))
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(subprocess, "run", note)
    assert in_process("bench").returncode == 3
    assert ran == [(["-m", "benchmarks", "--pictures"], str(tmp_path.resolve()))]


def test_bench_without_host_elsewhere_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ssh_service.cli import bench

    monkeypatch.setattr(bench, "compare_packages", lambda: None)
    done = in_process("bench")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--host is needed" in done.stderr
