"""The demonstration, as a newcomer meets it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, List

import pytest

from ssh_service import demo
from ssh_service.connections.cache import SshClientCache
from ssh_service.demo import hosts, steps, trees
from ssh_service.demo.journal import Journal
from ssh_service.demo.show import CheckFailed, Show
from ssh_service.errors import SshConnectionLost
from tests.common import PATIENCE, require_part

_DEMO = [sys.executable, "-m", "ssh_service", "demo"]


def shown(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*_DEMO, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
        encoding="utf-8",
        timeout=60,
    )


def on_a_terminal(**environment: str) -> str:
    """Run it on a terminal of our own, and return what it wrote there."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        _DEMO,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", **environment},
    ) as process:
        os.close(theirs)
        chunks: List[bytes] = []
        with open(ours, "rb", buffering=0) as terminal:
            while True:
                try:
                    chunk = terminal.read(65536)
                except OSError:  # Linux's way to say that the other end is closed
                    break
                if not chunk:
                    break
                chunks.append(chunk)
    assert process.returncode == 0, chunks
    return b"".join(chunks).decode("utf-8")


# --- what it shows ------------------------------------------------------------------------------


def test_demo_without_server_passes_and_prints_plain_text(tmp_path: Path) -> None:
    done = shown(TMPDIR=str(tmp_path), HOME=str(tmp_path), COLUMNS="40")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert re.findall(r"^(\d)\. ", done.stdout, re.M) == list("1234567")
    assert re.findall(r"Step (\d) took \d+\.\d\d s\.", done.stdout) == list("1234567")
    assert "2 logins, 2 connections" in done.stdout
    assert "   ✓ 50 of 50 outputs and exit statuses are right\n" in done.stdout
    assert "\x1b" not in done.stdout and "\r" not in done.stdout
    assert "names, contents, modes compared: 0 differ" in done.stdout
    assert "✓ SshConnectionLost was raised" in done.stdout
    assert "the output so far, 'half done\\n', and exit status None" in done.stdout
    assert "the lost one had begun once" in done.stdout
    assert "after the cut, the same port gives it again: 1 new connection" in done.stdout
    assert "the connection was cut; over a new one came the rest: 'done\\n'" in done.stdout
    assert "the host has kept what became of it: ended(3)" in done.stdout
    assert "only the 3 that were cut have an error" in done.stdout
    assert "on a separate thread, ssh-service-callbacks" in done.stdout
    assert "Every check passed." in done.stdout
    assert list(tmp_path.iterdir()) == []  # no temporary folder, nothing in the home


def test_without_a_check_mark_ok_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open(os.devnull, "w", encoding="ascii") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        show = Show()
    assert (show._good, show._bad) == ("ok:", "FAILED:")


def test_on_a_terminal_it_draws_bars_and_wraps() -> None:
    text = on_a_terminal()
    assert "━" in text and "of 120 files" in text
    assert "\x1b[1m" in text and "\x1b[1;32m" in text  # bold titles, green marks
    visible = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert max(map(len, re.split(r"[\r\n]+", visible))) <= 80


@pytest.mark.parametrize("no_color, expected", [("", True), ("1", False)])
def test_no_color_is_honoured(
    no_color: str,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", no_color)
    show = Show()
    with show.step("A title", "A meaning"):
        show.check(True, "seen", "expected")
    out = capsys.readouterr().out
    assert ("\x1b[1;32m" in out, "\x1b[36m" in out) == (expected, expected)


# --- checks that fail ---------------------------------------------------------------------------


def test_failed_check_prints_what_was_expected(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read = trees.read_tree

    def spoil(root: Path, with_times: bool) -> Any:
        found = read(root, with_times)
        if root.name == "back":
            del found["plain/file 0"]
        return found

    monkeypatch.setattr(trees, "read_tree", spoil)
    monkeypatch.setattr(steps, "COMMANDS", 8)
    monkeypatch.setattr(trees, "FILES", 8)
    assert demo.main([]) == 1
    out = capsys.readouterr().out
    assert "expected what comes back to be equal; seen: " in out
    assert "1 differ ('plain/file 0', ...)" in out
    assert "Every check passed" not in out


def test_error_in_a_step_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lose(*arguments: Any, **options: Any) -> None:
        raise SshConnectionLost("demo@alpha:1: gone")

    monkeypatch.setattr(steps, "upload", lose)
    monkeypatch.setattr(steps, "COMMANDS", 8)
    assert demo.main([]) == 1
    assert "SshConnectionLost: demo@alpha:1: gone\n" in capsys.readouterr().out


@pytest.mark.parametrize("spoil", ["content", "mode", "name", "time"])
def test_a_difference_anywhere_in_a_tree_is_found(spoil: str, tmp_path: Path) -> None:
    trees.make_tree(tmp_path)
    before = trees.read_tree(tmp_path, with_times=True)
    assert len(before) == trees.FILES + 4
    path = tmp_path / "plain" / "file 8"
    if spoil == "content":
        data = path.read_bytes()
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
        os.utime(path, (1.5e9 + 8, 1.5e9 + 8))
    elif spoil == "mode":
        path.chmod(0o640)
    elif spoil == "name":
        path.rename(path.with_name("file 8b"))
    else:
        os.utime(path, (1.5e9, 1.5e9))
    assert trees.read_tree(tmp_path, with_times=True) != before


def test_hooks_that_were_not_called_fail_the_demonstration() -> None:
    journal = Journal()
    setattr(journal, "wait_for", lambda count, timeout: [])
    with hosts.MockStage() as both, pytest.raises(CheckFailed, match="'made', 3"):
        steps.show_hook_calls(Show(), journal, both, 1)


# --- giving up ----------------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["1. Connect", "4. Cut", "6. Start"])
def test_ctrl_c_is_clean(words: str, tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        _DEMO,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        encoding="utf-8",
        # Whoever runs the tests may ignore it, as shells have their background jobs do.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        for line in process.stdout:
            if line.startswith(words):
                break
        process.send_signal(signal.SIGINT)
        rest, error = process.communicate(timeout=20)
    assert process.returncode == 130, rest + error
    assert error.endswith("\ninterrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_threads_that_wait_for_a_connection_end_with_ctrl_c() -> None:
    cache = SshClientCache()
    begun = threading.Event()

    def wait(_: int) -> None:
        begun.set()
        while not cleaned.wait(0.01):
            pass

    cleaned = threading.Event()
    cache.cleanup = cleaned.set  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        with steps._threads(cache, 1) as pool:
            pool.submit(wait, 0)
            assert begun.wait(10)
            raise KeyboardInterrupt
    assert cleaned.is_set()


def test_a_closed_pipe_ends_it_quietly(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        _DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, encoding="utf-8"
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        error = process.stderr.read()
    assert (process.returncode, error) == (1, "")
    assert list(tmp_path.iterdir()) == []


def test_demo_onto_a_full_disk_ends_with_1_and_one_line() -> None:
    """Python's own complaint at its end, and its status 120, are not seen."""
    require_part(os.path.exists("/dev/full"), "needs /dev/full")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(_DEMO, stdout=full, stderr=subprocess.PIPE, timeout=PATIENCE)
    told = b"python -m ssh_service demo: cannot write the output: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, told)


# --- the command line ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "typed, name",
    [
        ("/usr/bin/ssh-service", "ssh-service demo"),
        ("/x/ssh_service/__main__.py", "python -m ssh_service demo"),
    ],
)
def test_usage_error_names_the_command_that_was_typed(
    typed: str, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [typed, "demo", "--bogus"])
    with pytest.raises(SystemExit):
        demo.main(["--bogus"])
    assert capsys.readouterr().err.startswith(f"{name}: ")


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--host", "127.0.0.1:99999"], "--host '127.0.0.1:99999': '99999' is not a port number"),
        (["--host", "no such host"], "'no such host' is not a host name"),
        (["--host", "@web"], "no user before the @"),
        (["--host", "127.0.0.1:1", "--key", "/no/such/key"], "--key /no/such/key: no such file"),
        (["--host", "demo.invalid"], "demo.invalid"),
        (["--host", "127.0.0.1:1"], "refused"),
        (["--host", "127.0.0.1", "--host-key", "maybe"], "invalid choice: 'maybe'"),
        (["--key", "/etc/hostname"], "--key and --host-key need --host"),
        (["--bogus"], "--bogus"),
    ],
)
def test_bad_input_is_one_line_and_exit_status_2(
    arguments: List[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    try:
        status: Any = demo.main(arguments)
    except SystemExit as exc:  # argparse's way
        status = exc.code
    told = capsys.readouterr()
    assert (status, told.out) == (2, "")
    assert words in told.err
    assert told.err.startswith("python -m ssh_service demo: ")
    assert told.err.count("\n") == 1


@pytest.mark.parametrize("missing", ["rich", "mockssh"])
def test_without_the_extra_it_says_what_to_install(missing: str, tmp_path: Path) -> None:
    (tmp_path / f"{missing}.py").write_text(
        f"raise ModuleNotFoundError(\"No module named '{missing}'\", name='{missing}')\n"
    )
    done = shown(PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install mock-ssh-server 'rich>=13'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_real_server_needs_no_mock_server(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ssh_service.testing.mock_sshd", None)
    assert demo.main(["--host", "127.0.0.1:1"]) == 2
    assert "refused" in capsys.readouterr().err


def test_help_loads_nothing_of_the_library() -> None:
    code = (
        "import sys, runpy; sys.argv = ['ssh_service', 'demo', '--help']\n"
        "try: runpy.run_module('ssh_service', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        check=True,
    )
    assert "--host" in done.stdout
    loaded = set(done.stderr.split())
    assert not loaded & {"paramiko", "rich", "mlos_bench", "ssh_service.services.host_api"}


def test_the_demonstration_never_loads_the_services() -> None:
    code = (
        "import sys; from ssh_service import demo; import ssh_service.demo.program;"
        "print(*sys.modules)"
    )
    text = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, encoding="utf-8", check=True
    ).stdout
    assert not set(text.split()) & {
        "ssh_service.services.host_api",
        "ssh_service.services.base_service",
    }


def test_a_host_may_be_an_alias_and_a_key_in_the_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "key").touch()
    assert hosts.connect_params("web", None, None) == {"host": "web"}
    assert hosts.connect_params("me@[::1]:2222", "~/key", "off") == {
        "host": "::1",
        "username": "me",
        "port": 2222,
        "client_keys": [str(tmp_path / "key")],
        "host_key_policy": "off",
    }


def test_a_workspace_is_a_folder_that_goes_away() -> None:
    with hosts.MockStage().workspace(SshClientCache()) as folder:
        assert os.path.dirname(folder) == tempfile.gettempdir()
        assert os.path.isdir(folder)
    assert not os.path.exists(folder)
