"""Completion as typed in real shells, and the manual page as man shows it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Dict, Iterator, List

import click
import pytest

from ssh_service.cli import completion
from tests.common import PATIENCE, require_part
from tests.terminal import Terminal
from tests.unit.command_line import in_process

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a home with hosts in its files, and the program in ``bin``."""
    (tmp_path / ".ssh" / "more").mkdir(parents=True)
    (tmp_path / ".ssh" / "config").write_text("Include more/*\nHost web01\nHost *.example\n")
    (tmp_path / ".ssh" / "more" / "a").write_text('Host "included"\n')
    (tmp_path / ".ssh" / "known_hosts").write_text(
        "[known]:2222 ssh-ed25519 A\n|1|a|b ssh-rsa A\n@revoked bad ssh-rsa A\n*.x ssh-rsa A\n"
    )
    (tmp_path / "list").write_text("rack[1-2]  # two\nme@listed\n")
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "ssh-service"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m ssh_service "$@"\n')
    program.chmod(0o755)
    return tmp_path


def environment(home: Path) -> Dict[str, str]:
    return {"HOME": str(home), "PATH": f"{home}/bin:{os.environ['PATH']}", "LC_ALL": "C.UTF-8"}


@pytest.fixture(params=["bash", "zsh"])
def shell(request: pytest.FixtureRequest, home: Path) -> Iterator[Terminal]:
    """Return an interactive shell that has loaded the completion."""
    name = request.param
    require_part(shutil.which(name), f"{name}: apt install {name}")
    command = [name, "--norc", "-i"] if name == "bash" else [name, "-f", "-i"]
    load = f'eval "$(ssh-service completion {name})"; echo "is" "loaded"\r'
    with Terminal(command, environment(home), cwd=str(home)) as terminal:
        if name == "zsh":
            load = f"autoload -Uz compinit; compinit -u -D; {load}"
        terminal.type(load.encode())
        terminal.wait_for(b"is loaded\r\n")
        yield terminal


def test_hosts_and_options_are_completed_as_they_are_typed(shell: Terminal) -> None:
    """A user before the host stays, and so does an option's equals sign."""
    shell.type(b"ssh-service hosts root@we\t\r")
    shell.wait_for(b"root@web01 +root@web01:22")
    shell.type(b"ssh-service hosts --us\tadmin kn\t\r")
    shell.wait_for(b"known:2222 +admin@known:2222")
    shell.type(b"ssh-service run -n -f list -H lis\t-- true\r")
    shell.wait_for(b"listed: [^ ]+@listed:22: run: true")
    shell.type(b"exit\r")
    assert shell.end() == 0


def test_name_that_a_shell_would_run_or_show_as_it_is_is_not_offered(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(home))
    names = "good \x1b]0;title\x07 a$(id) b`id` c;id 'd -oProxyCommand fe80::1%eth0"
    (home / ".ssh" / "config").write_text(f"Host {names}\n")
    (home / ".ssh" / "known_hosts").write_text("$(id),10.0.0.1 ssh-ed25519 A\n")
    context = click.Context(click.Command("run"))
    found = completion.hosts(context, click.Option(["-H"]), "")
    assert found[:2] == ["good", "fe80::1%eth0"] and found[-1] == "10.0.0.1"
    assert set(found[2:-1]) <= {".host"}  # of systemd's file in /etc/ssh/ssh_config.d
    assert completion.hosts(context, click.Option(["-H"]), "me@g") == ["me@good"]


def test_fish_completes_hosts_options_and_commands(home: Path) -> None:
    require_part(shutil.which("fish"), "fish: apt install fish")

    def lines(line: str) -> List[List[str]]:
        script = f'ssh-service completion fish | source; complete -C "{line}"'
        found = subprocess.check_output(
            ["fish", "-c", script],
            env={**os.environ, **environment(home)},
            cwd=str(home),
            timeout=PATIENCE,
        )
        return [each.split("\t") for each in found.decode().splitlines()]

    def complete(line: str) -> List[str]:
        return [each[0] for each in lines(line)]

    assert lines("ssh-service dem") == [["demo", "Watch the library work, without a server."]]
    assert complete("ssh-service up") == ["upload"]
    assert complete("ssh-service run --sc") == ["--script"]
    # The system's ssh_config may have more.
    assert set(complete("ssh-service run -f list -H ")) >= {
        *("rack1", "rack2", "listed", "included", "web01", "known:2222"),
    }


# --- the manual page ----------------------------------------------------------------------------


def options_of(command: click.Command, context: click.Context) -> Iterator[str]:
    for parameter in command.get_params(context):
        yield from (name for name in parameter.opts if name.startswith("-"))
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield f"ssh-service {name}" if context.parent is None else f"job {name}"
            yield from options_of(inner, click.Context(inner, parent=context, info_name=name))


def test_manual_page_is_rendered_and_has_every_command_and_option() -> None:
    from ssh_service.cli.app import commands

    page = in_process("man").stdout.encode()
    require_part(shutil.which("man") and shutil.which("groff"), "man and groff")
    complaints = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8"],
        input=page,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=PATIENCE,
    )
    assert complaints.stderr == b""
    shown = subprocess.check_output(
        ["man", "-l", "-"],
        input=page,
        env={**os.environ, "MANWIDTH": "200", "LC_ALL": "C.UTF-8", "MAN_KEEP_FORMATTING": ""},
        timeout=PATIENCE,
    ).decode()
    assert "ssh-service - run commands on many hosts at once" in " ".join(shown.split())
    for name in options_of(commands, click.Context(commands, info_name="ssh-service")):
        assert name in shown, name
    assert "    ssh-service run -H 'web[01-40]' -- uptime" in shown
    sections = [line for line in shown.split("\n") if line.isupper() and line[0].isupper()]
    assert ",".join(sections) == (
        "NAME,SYNOPSIS,DESCRIPTION,OPTIONS,COMMANDS,EXIT STATUS,ENVIRONMENT,FILES,EXAMPLES,"
        "SEE ALSO"
    )
