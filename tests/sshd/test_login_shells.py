"""Root's logins on other servers and in other shells: as with ``ssh``, and with a true end."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import pytest

from ssh_service import SshClientCache, operations, run, start
from ssh_service.errors import SshCommandTimeout
from tests.common import PATIENCE, eventually, is_running
from tests.servers import (
    Dropbear,
    find_shell,
    litter,
    make_appliance,
    make_ash,
    sshd_with_shell,
)

Web = Dict[str, Any]

# What some shell takes for something else within single quotes.
WORDS = ["\\'; echo two #", "x\necho two\n", "!!", "a\\\\b\\", "", "$HOME", "a\r\nb", "it's"]
# Writes the numbers of two processes, which take no notice of TERM.
STUBBORN = "trap '' TERM; echo $$; sleep 60 & echo $!; wait"


@contextlib.contextmanager
def server(kind: str, shell: str, folder: Path) -> Iterator[Tuple[Web, Path]]:
    """Start a server with a login shell, and return where to log in and where it is at home."""
    made = {"appliance": make_appliance, "ash": make_ash}
    path = made[shell](folder) if shell in made else find_shell(shell)
    if kind == "dropbear":
        with Dropbear(folder, path) as dropbear:
            yield dropbear.connect_params, dropbear.home
    else:
        with sshd_with_shell(folder, path) as sshd:
            yield sshd.connect_params, folder / "home"


def servers(*pairs: Tuple[str, str]) -> Callable[[Any], Any]:
    return pytest.mark.parametrize("kind, shell", pairs)


def pids(text: str) -> List[int]:
    return [int(word) for word in text.split()]


@servers(
    ("openssh", "tcsh"), ("openssh", "fish"), ("openssh", "zsh"), ("openssh", "mksh"),
    ("dropbear", "tcsh"), ("dropbear", "fish"), ("dropbear", "bash"), ("dropbear", "ash"),
)  # fmt: skip
def test_root_runs_commands_in_any_login_shell(
    kind: str, shell: str, tmp_path: Path, cache: SshClientCache
) -> None:
    """Nothing of ours is in the exec request, and nothing is left in root's home."""
    with server(kind, shell, tmp_path) as (web, home):
        for _ in range(2):
            process = run(web, "echo one; echo two", cache=cache, timeout=PATIENCE)
            assert (process.stdout, process.stderr) == ("one\ntwo\n", "")
        assert run(web, "exit 3", cache=cache, timeout=PATIENCE).exit_status == 3
        env = {"VALUE": "it's $HOME\n`id`"}
        script = 'printf %s "$VALUE"'
        process = run(web, script, env=env, shell="/bin/sh", cache=cache, timeout=PATIENCE)
        assert (process.stdout, process.stderr) == (env["VALUE"], "")
        for words, variables in ((WORDS[2:6], None), (WORDS, None), (WORDS, {"A": "b"})):
            found = run(web, args=["printf", "[%s]", *words], env=variables, cache=cache)
            assert (found.stdout, found.stderr) == ("".join(f"[{word}]" for word in words), "")
        assert litter(home) == []


@servers(("openssh", "fish"), ("dropbear", "tcsh"))
def test_a_script_that_the_login_shell_cannot_run_has_not_succeeded(
    kind: str, shell: str, tmp_path: Path, cache: SshClientCache
) -> None:
    """With variables it takes a POSIX shell; fish reports success where it cannot parse."""
    with server(kind, shell, tmp_path) as (web, _):
        process = run(web, "echo on", env={"A": "b"}, cache=cache, timeout=PATIENCE)
        assert process.exit_status not in (None, 0) and process.stdout == ""


@servers(("openssh", "appliance"), ("dropbear", "appliance"))
def test_root_runs_commands_of_an_appliance(
    kind: str, shell: str, tmp_path: Path, cache: SshClientCache
) -> None:
    """Its shell knows a few commands; a command that may still run is not reported as ended."""
    with server(kind, shell, tmp_path) as (web, home):
        process = run(web, "show version", cache=cache, timeout=PATIENCE)
        assert (process.stdout, process.stderr, process.exit_status) == ("FakeOS 1.0\n", "", 0)
        assert run(web, "format", cache=cache, timeout=PATIENCE).exit_status == 1
        with pytest.raises(SshCommandTimeout) as caught:
            run(web, "ping 60", cache=cache, timeout=1)
        # OpenSSH from 9.8 on delivers signals for root; else nobody can find the process there.
        assert caught.value.ended in (None, True)
        assert run(web, "show version", cache=cache, timeout=PATIENCE).exit_status == 0


@servers(
    ("openssh", "bash"), ("openssh", "dash"), ("openssh", "tcsh"), ("openssh", "fish"),
    ("dropbear", "sh"), ("dropbear", "fish"), ("dropbear", "ash"),
)  # fmt: skip
def test_time_out_ends_a_command_in_any_login_shell(
    kind: str, shell: str, tmp_path: Path, cache: SshClientCache
) -> None:
    """Its process is found when it is needed, whatever the shell made of the command."""
    mark = tmp_path / "mark"
    with server(kind, shell, tmp_path) as (web, _):
        for script in ("sleep 61", f"echo on; sleep 61; touch {mark}"):
            with pytest.raises(SshCommandTimeout) as caught:
                run(web, script, cache=cache, timeout=1)
            assert caught.value.ended is True
        assert not mark.exists()


@servers(("openssh", "bash"), ("dropbear", "sh"), ("dropbear", "bash"))
@pytest.mark.parametrize("more", [{}, {"env": {"A": "b"}}, {"pty": True}], ids=str)
def test_time_out_ends_children_that_ignore_term(
    kind: str, shell: str, more: Dict[str, Any], tmp_path: Path, cache: SshClientCache
) -> None:
    """A server such as dropbear signals the shell alone, and has no process group for it."""
    with server(kind, shell, tmp_path) as (web, _):
        with pytest.raises(SshCommandTimeout) as caught:
            run(web, STUBBORN, cache=cache, timeout=1, **more)
        assert caught.value.process is not None
        numbers = pids(caught.value.process.stdout)
        assert len(numbers) == 2
        # (`ended` is None where a machine with much to do does not get there in time.)
        eventually(lambda: not any(map(is_running, numbers)), "they end")


@servers(("openssh", "bash"), ("openssh", "fish"), ("dropbear", "sh"))
def test_time_outs_at_once_end_each_its_own_command(
    kind: str, shell: str, tmp_path: Path, cache: SshClientCache
) -> None:
    """The ones that go on are left alone."""
    with server(kind, shell, tmp_path) as (web, _):
        survivor = start(web, "sh -c 'echo $$; exec cat'", cache=cache)
        (number,) = pids(next(survivor.lines()))
        script = "sh -c 'echo $$; sleep 61; echo'"
        futures = [operations.submit(cache, web, script, timeout=2) for _ in range(6)]
        for future in futures:
            error = future.exception(PATIENCE)
            assert isinstance(error, SshCommandTimeout)
            if error.process is not None:
                pid, *_ = pids(error.process.stdout)
                eventually(lambda: not is_running(pid), "it ends")
        assert is_running(number)
        survivor.write("still here\n")
        survivor.close_stdin()
        assert survivor.result(PATIENCE).stdout == "still here\n"


@servers(("openssh", "bash"), ("openssh", "fish"), ("dropbear", "sh"))
def test_signal_reaches_roots_command(
    kind: str, shell: str, tmp_path: Path, cache: SshClientCache
) -> None:
    script = "sh -c 'trap \"echo usr; exit 7\" USR1; echo on; while :; do sleep 0.1; done'"
    with server(kind, shell, tmp_path) as (web, _):
        with start(web, script, cache=cache) as process:
            assert next(process.lines()) == "on\n"
            process.signal("USR1")
            outcome = process.result(PATIENCE)
            assert outcome.exit_status == 7 or outcome.exit_signal is not None  # the login shell


def test_time_out_with_all_sessions_taken_is_ended_over_another_connection(
    tmp_path: Path, cache: SshClientCache
) -> None:
    with sshd_with_shell(tmp_path, find_shell("bash")) as sshd:
        config = Path(sshd.config_file)
        sshd._options["MaxSessions"] = 2
        sshd.restart()
        assert "MaxSessions 2" in config.read_text()
        web = sshd.connect_params
        futures = [
            operations.submit(
                cache, web, "echo $$; sleep 61; echo", timeout=1.5, max_connections=1
            )
            for _ in range(2)
        ]
        for future in futures:
            error = future.exception(PATIENCE)
            assert isinstance(error, SshCommandTimeout) and error.process is not None
            (number,) = pids(error.process.stdout)
            eventually(lambda: not is_running(number), "it ends")
        assert run(web, "echo on", cache=cache, timeout=PATIENCE, max_connections=1).stdout
