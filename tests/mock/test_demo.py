"""The demonstration, as a newcomer meets it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ssh_service import demo


def python(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
        encoding="utf-8",
        timeout=60,
    )


def test_it_needs_no_server_and_every_step_holds() -> None:
    shown = python("-m", "ssh_service", "demo", PYTHONIOENCODING="utf-8")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert re.findall(r"^(\d)\. ", shown.stdout, re.M) == ["1", "2", "3", "4", "5"]
    assert "50 of 50 outputs and exit statuses are right" in shown.stdout
    assert "120 files there and back, 0 differ" in shown.stdout
    assert "SshConnectionLost" in shown.stdout and "back again" in shown.stdout
    assert "All of it held" in shown.stdout


def test_in_a_pipe_it_is_plain_text() -> None:
    assert "\x1b" not in python("-m", "ssh_service", "demo").stdout


def test_a_check_that_fails_says_so_and_fails_the_demonstration(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def differ(compared: Any) -> Any:
        return ["a file"]

    monkeypatch.setattr(demo, "differences", differ)
    assert demo.main([]) == 1
    assert "equal trees, but these differ: ['a file']" in capsys.readouterr().out


def test_a_difference_anywhere_in_a_tree_is_found(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    demo.make_tree(one)
    demo.make_tree(other)  # other random bytes
    assert len(demo.differences(demo.filecmp.dircmp(one, other))) == demo.FILES - 1


@pytest.mark.parametrize(
    "host, expected",
    [
        ("web", ("web", "")),
        ("web:2222", ("web", "2222")),
        ("::1", ("::1", "")),
        ("[::1]:2222", ("::1", "2222")),
    ],
)
def test_hosts_are_written_as_for_ssh(host: str, expected: Any) -> None:
    assert demo.split_port(host) == expected


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--host", "127.0.0.1:99999"], "port number"),
        (["--host", "127.0.0.1:1", "--key", "/no/such/key"], "/no/such/key"),
    ],
)
def test_bad_input_is_one_line_and_exit_status_2(
    arguments: Any, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "rich.py").write_text("raise ModuleNotFoundError('No module named rich')\n")
    shown = python("-m", "ssh_service", "demo", PYTHONPATH=str(tmp_path))
    assert shown.returncode == 2
    assert "pip install 'ssh-service[demo]'" in shown.stderr
    assert shown.stderr.count("\n") == 1
