"""`Host`, and the habits of `subprocess`, on a real server."""

from __future__ import annotations

import pickle
import re
import subprocess
from pathlib import Path
from typing import Any, List

import pytest

from ssh_service import Host, SshClientCache, SshConfigError, SshExitError, fleet, run, start
from ssh_service.testing.pytest_plugin import Sshd
from tests.common import PATIENCE, eventually


@pytest.fixture
def web(sshd: Sshd, cache: SshClientCache) -> Host:
    return Host(sshd.connect_params, cache=cache)


def test_host_does_what_the_functions_do(web: Host, sshd: Sshd, tmp_path: Path) -> None:
    assert web.run("echo hello", timeout=PATIENCE).stdout == "hello\n"
    assert list(web.start("echo hello").lines()) == ["hello\n"]
    (tmp_path / "source").write_text("content")
    web.upload(tmp_path / "source", tmp_path / "there")
    web.download(tmp_path / "there", tmp_path / "back")
    assert (tmp_path / "back").read_text() == "content"
    with web.forward_local(sshd.port) as forward:
        assert forward.port
    before = web.list_jobs(timeout=PATIENCE)  # the account may have some
    job = web.start_job("true", timeout=PATIENCE)
    assert [each for each in web.list_jobs(timeout=PATIENCE) if each not in before] == [job]
    assert job.wait(PATIENCE)
    job.remove()
    assert sshd.logins() == 1


def test_text_and_mapping_and_host_share_a_connection(
    sshd: Sshd, cache: SshClientCache, web: Host
) -> None:
    settings = dict(sshd.connect_params)
    user, host, port = (settings.pop(name) for name in ("username", "host", "port"))
    text = Host(f"ssh://{user}@{host}:{port}", **settings)
    for destination in (text, web, sshd.connect_params):
        assert run(destination, "echo hello", cache=cache, timeout=PATIENCE).stdout == "hello\n"
    results = list(fleet.run([text, web], "true", cache=cache))
    assert [one.ok for one in results] == [True, True]
    assert sshd.logins() == 1


def test_host_in_a_with_block_keeps_its_connection(web: Host, cache: SshClientCache) -> None:
    with web as same, web:
        assert same is web and cache.stats()["leases"] == 2
    eventually(lambda: cache.stats()["leases"] == 0)


def test_check_raises_both_errors_with_the_end_of_stderr(web: Host) -> None:
    script = "echo out; echo a secret; for n in 1 2 3 4; do echo line $n >&2; done; exit 3"
    with pytest.raises(SshExitError, match="exit status 3: 'line 2 / line 3 / line 4'") as caught:
        web.run(script, check=True, timeout=PATIENCE)
    error = caught.value
    assert isinstance(error, subprocess.CalledProcessError)
    assert error.returncode == 3 and error.process and error.process.exit_status == 3
    assert error.stdout == error.output == "out\na secret\n" and "line 1" in error.stderr
    assert "secret" not in f"{error} {error!r} {error.cmd}"
    assert not error.retryable and error.connection_id == web.connection_id
    web.run("true", check=True, timeout=PATIENCE).check_returncode()
    with pytest.raises(SshExitError, match="was ended by the signal TERM"):
        web.run("kill -TERM $$", timeout=PATIENCE).check_returncode()


def test_args_reach_the_command_to_the_letter(web: Host, tmp_path: Path) -> None:
    words = ["a  b", "A=b", "=ls", "~", "$HOME", "`id`", "*", "it's", "-n", "", "é", "x\ny", "!"]
    words += ["\\", '"', "#", "if", ";"]
    process = web.run(args=["printf", "<%s>", *words], timeout=PATIENCE)
    assert process.stdout == "".join(f"<{word}>" for word in words)
    program = tmp_path / "a=b c"
    program.write_text("#!/bin/sh\necho ran\n")
    program.chmod(0o755)
    assert web.run(args=[program], timeout=PATIENCE).stdout == "ran\n"


def test_list_that_was_meant_as_args_gets_a_hint_where_it_fails(
    web: Host, cache: SshClientCache
) -> None:
    result = web.run(args=["echo hi"])
    assert "; the blank was taken as part of the command's name" in repr(result)
    assert "blank" not in repr(web.run(args=["sh", "-c", "exit 127"]))
    words, hint = ["echo", "a b"], "lines of a script; for one command .* pass args="
    with pytest.raises(SshExitError, match=f"status 127: .*{hint}"):
        web.run(words, check=True, timeout=PATIENCE)
    (there,) = fleet.run([web], words, cache=cache)
    for done in (web.run(words, timeout=PATIENCE), web.start(words).result(), there.process):
        assert re.search(hint, repr(done)) and re.search(
            hint, repr(pickle.loads(pickle.dumps(done)))
        )
    others: List[Any] = ["echo\na b", ["cd /", "no-such"], ["#", "no-such"], ["A=b", "no-such"]]
    for script in [*others, ["true", "pwd"]]:
        assert "args" not in repr(web.run(script, timeout=PATIENCE))


def test_path_of_a_host_is_refused_with_what_to_pass(web: Host) -> None:
    path: Any = web.path("/tmp")
    for call in (
        lambda: web.run(args=["ls", path]),
        lambda: web.run("ls", cwd=path),
        lambda: web.upload("setup.py", path),
    ):
        with pytest.raises(SshConfigError, match=r"got SshPath; pass str\(path\)"):
            call()


def test_input_is_what_the_command_reads(web: Host) -> None:
    assert web.run("cat", input="text", timeout=PATIENCE).stdout == "text"
    process = web.start("cat", input=b"bytes")
    with pytest.raises(BrokenPipeError):
        process.write("more")
    assert process.result(PATIENCE).stdout_bytes == b"bytes"
    assert web.start("wc -c", input="").result(PATIENCE).stdout.strip() == "0"


@pytest.mark.parametrize(
    "given, why",
    [
        ({}, r"script: missing; expected a text, lines, or args=\[...\]"),
        ({"script": "true", "args": ["true"]}, "script, args: give script or args, not both"),
        ({"args": "true"}, "args: expected a list such as"),
        ({"args": []}, "args: the command is missing"),
        ({"args": ["echo", 5]}, "args: item 2: expected str or a path, got int"),
        ({"args": ["echo", "a\0"]}, "args: item 2: an argument cannot contain a NUL character"),
        ({"args": ["\ud800"]}, "args: item 1: a lone surrogate cannot be encoded"),
        ({"script": "cat", "stdin": "a", "input": "b"}, "stdin, input: give at most one"),
        ({"script": "cat", "input": 5}, "input: expected a text or bytes, got int"),
    ],
    ids=str,
)
def test_contradicting_arguments_are_refused_at_once(given: Any, why: str) -> None:
    for function in (run, start):
        with pytest.raises(SshConfigError, match=why):
            function("web.invalid", **given)


def test_check_must_be_a_flag() -> None:
    no: Any = "yes"
    with pytest.raises(SshConfigError, match="check: expected True or False, got 'yes'"):
        run("web.invalid", "true", check=no)
