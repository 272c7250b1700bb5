"""Commands with a terminal: what appears is what ``ssh -tt`` shows, on each server and shell."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path
from typing import Any, Callable, ContextManager, Dict, Iterator, List, Tuple

import pytest

from ssh_service import SshClientCache, run, start
from ssh_service.errors import SshCommandTimeout, SshSessionRefused
from ssh_service.testing.pytest_plugin import Sshd
from tests.common import PATIENCE, skip_without_terminals
from tests.servers import Dropbear, find_shell, sshd_with_shell

VALUE = 'it\'s $HOME "`id`" \\ \x01\x03\x04\x11\x13\x1a\x1c\x7f\r\nend'

Web = Dict[str, Any]


@contextlib.contextmanager
def openssh(folder: Path, shell: str) -> Iterator[Web]:
    with sshd_with_shell(folder, find_shell(shell)) as server:
        yield server.connect_params


@contextlib.contextmanager
def dropbear(folder: Path, shell: str) -> Iterator[Web]:
    with Dropbear(folder, find_shell(shell)) as server:
        yield server.connect_params


OTHERS: List[Tuple[Callable[[Path, str], ContextManager[Web]], str]] = [
    (openssh, "bash"),
    (openssh, "zsh"),
    (openssh, "mksh"),
    (dropbear, "dash"),
    (dropbear, "bash"),
]


@pytest.fixture(params=[None, *OTHERS], ids=lambda p: f"{p[0].__name__}-{p[1]}" if p else "user")
def web(request: Any, tmp_path: Path) -> Iterator[Web]:
    """Return where to log in: this user's own server, and root's on others."""
    if request.param is None:
        skip_without_terminals()
        yield request.getfixturevalue("sshd").connect_params
        return
    make, shell = request.param
    with make(tmp_path, shell) as params:
        yield params


def test_pty_shows_nothing_but_the_programs_own_bytes(web: Web, cache: SshClientCache) -> None:
    """Neither the script, nor a value, nor a mark; whatever way the script takes."""
    text = "printf 'out\\n'; printf 'err\\n' >&2; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo tty"
    long = "\n".join([f": {'x' * 98}"] * 1000) + f"\n{text}"
    given: List[Dict[str, Any]] = [{}, {"env": {"VALUE": VALUE}}, {"shell": "/bin/sh"}]
    for script, more in itertools.product((text, long), given):
        process = run(web, script, pty=True, cache=cache, timeout=PATIENCE, **more)
        assert (process.stdout, process.stderr) == ("out\r\nerr\r\ntty\r\n", ""), more
        assert process.exit_status == 0


def test_pty_gives_values_to_the_letter_and_to_nobody_else(
    web: Web, cache: SshClientCache
) -> None:
    script = ['stty -opost; printf %s "$VALUE"', "tr '\\0' '\\n' < /proc/$$/cmdline"]
    process = run(web, script, env={"VALUE": VALUE}, pty=True, cache=cache, timeout=PATIENCE)
    shown = process.stdout_bytes
    assert shown.startswith(VALUE.encode())
    assert b"it's" not in shown[len(VALUE) :]


def test_pty_lets_cat_find_the_end_of_its_input(web: Web, cache: SshClientCache) -> None:
    """The terminal echoes the input, as with ``ssh -tt``."""
    # The shell keeps the terminal open.  As the last command cat would be run in its place, and
    # closes its files before it exits: dropbear then hangs up, and now and then that signal is
    # faster than the exit (7 times of 40 with OpenSSH's client and dropbear 2025.89, too).
    script = "cat; exit $?"
    for stdin, env in itertools.product((b"", b"one\ntwo\n", b"part"), ({}, {"A": "b"})):
        process = run(web, script, stdin=stdin, env=env, pty=True, cache=cache, timeout=PATIENCE)
        echoed = stdin.replace(b"\n", b"\r\n")
        # The echo and what cat writes are two streams to the terminal; lines may alternate.
        assert sorted(process.stdout_bytes) == sorted(2 * echoed)
        assert process.exit_status == 0


def test_pty_is_given_back_as_the_server_made_it(web: Web, cache: SshClientCache) -> None:
    """Our settings of the terminal are gone before the program runs."""
    plain = run(web, "stty -g", pty=True, cache=cache, timeout=PATIENCE).stdout
    restored = run(web, "stty -g", env={"A": "b"}, pty=True, cache=cache, timeout=PATIENCE).stdout
    assert plain == restored and plain.count(":") > 10


def test_pty_takes_a_long_environment(web: Web, cache: SshClientCache) -> None:
    value = "it's " * 60_000  # zsh takes minutes for as many lines
    script = 'echo "${#VALUE}"'
    process = run(web, script, env={"VALUE": value}, pty=True, cache=cache, timeout=60)
    assert process.stdout == f"{len(value)}\r\n"


def test_pty_answers_while_it_runs(web: Web, cache: SshClientCache) -> None:
    script = 'stty -echo; echo ready; while read line; do echo "got $line"; done; echo end'
    with start(web, script, pty=True, env={"A": "b"}, cache=cache) as process:
        lines = process.lines()
        assert next(lines) == "ready\r\n"
        process.write("one\n")
        assert next(lines) == "got one\r\n"
        process.close_stdin()
        assert next(lines) == "end\r\n"
        assert process.result(PATIENCE).exit_status == 0


def test_pty_refused_is_an_error_and_nothing_runs(
    sshd_factory: Callable[..., Sshd], cache: SshClientCache, tmp_path: Path
) -> None:
    web = sshd_factory({"PermitTTY": False}).connect_params
    ran = tmp_path / "ran"
    with pytest.raises(SshSessionRefused, match="refused to give a terminal") as caught:
        run(web, f"touch {ran}", pty=True, cache=cache, timeout=PATIENCE)
    assert caught.value.phase == "pty"
    assert run(web, "echo on", cache=cache, timeout=PATIENCE).stdout == "on\n"
    assert not ran.exists()


def test_pty_that_times_out_is_hung_up(web: Web, cache: SshClientCache) -> None:
    with pytest.raises(SshCommandTimeout) as caught:
        run(web, "echo on; sleep 60", pty=True, timeout=1, cache=cache)
    assert caught.value.process is not None
    # Some shells (mksh) say how their child ended before they go.
    assert caught.value.process.stdout in ("on\r\n", "on\r\nTerminated \r\n", "on\r\nHangup \r\n")


def test_dropbear_runs_many_commands_at_once(tmp_path: Path, cache: SshClientCache) -> None:
    """Version 2022.83 ends the connection where another session was about to start its own."""
    from ssh_service import operations

    with dropbear(tmp_path, "sh") as web:
        futures = [
            operations.submit(cache, web, f"echo {number}", timeout=60) for number in range(60)
        ]
        assert [future.result(60).stdout for future in futures] == [f"{n}\n" for n in range(60)]
        assert cache.stats()["dials"] <= 4


def test_dropbear_keeps_its_connection_under_a_long_script(
    tmp_path: Path, cache: SshClientCache
) -> None:
    """An exec request of more than 9,000 bytes would end it for everybody."""
    with dropbear(tmp_path, "sh") as web:
        innocent = start(web, "read line; echo $line", cache=cache, max_connections=1)
        for size in (9001, 65_536, 300_000):
            script = f"# {'x' * size}\necho done"
            process = run(web, script, cache=cache, timeout=PATIENCE)
            assert process.stdout == "done\n"
        innocent.write("still here\n")
        assert innocent.result(PATIENCE).stdout == "still here\n"
