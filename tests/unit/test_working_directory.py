"""What is accepted as `cwd`, and what the error says about anything else."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import pytest

from ssh_service import fleet, run, start
from ssh_service.commands.working_directory import WorkingDirectory, check_cwd
from ssh_service.errors import SshConfigError


@pytest.mark.parametrize("cwd", ["/", "/srv/it's here", "~", "~/x", "~deploy", "~a.b-c@d/x y"])
def test_check_cwd_absolute_paths_and_homes_are_accepted(cwd: str) -> None:
    assert check_cwd(cwd) == cwd
    assert check_cwd(PurePosixPath(cwd)) == cwd


@pytest.mark.parametrize(
    "cwd, complaint",
    [
        (
            "srv",
            "cwd: expected an absolute path, or one that begins with '~' or '~user', got 'srv'",
        ),
        ("", "expected an absolute path"),
        (".", "expected an absolute path"),
        ("~;reboot", "expected an absolute path"),
        ("~-", "expected an absolute path"),
        ("~a b/x", "expected an absolute path"),
        ("/a\0b", "a path cannot contain NUL or a line end, got '/a\\\\x00b'"),
        ("/a\nb", "a path cannot contain NUL or a line end"),
        ("/\ud800", "cwd: a lone surrogate cannot be encoded"),
        (b"/srv", "cwd: expected a path on the server, got bytes"),
        (3, "cwd: expected a path on the server, got int"),
    ],
)
def test_cwd_anything_else_is_refused_before_anything_is_sent(cwd: Any, complaint: str) -> None:
    for call in (run, start):
        with pytest.raises(SshConfigError, match=complaint):
            call("nobody@192.0.2.1", "true", cwd=cwd)
    with pytest.raises(SshConfigError, match=complaint):
        fleet.run(["192.0.2.1"], "true", cwd=cwd)


def test_enter_script_stays_whole_after_lines_of_ours() -> None:
    """A keyword of csh must stand at the beginning of a line."""
    script = "if (1) then\necho on\nendif"
    text = WorkingDirectory("/srv").enter(script)
    assert text.endswith(f"\n{script}") and text.startswith("cd '/srv'\n")


def test_strip_mark_in_pieces_is_removed() -> None:
    folder = WorkingDirectory("/srv")
    mark = folder.enter("").split('printf "')[1].split("%s>")[0].encode() + b"missing>"
    shown = b"".join(folder.strip(bytes([byte])) for byte in b"a <b" + mark + b"c")
    assert shown + folder.flush() == b"a <bc"
    assert isinstance(folder.error("web1"), FileNotFoundError)


def test_error_without_a_mark_is_none() -> None:
    folder = WorkingDirectory("/srv")
    assert folder.strip(b"<0123456789abcdef:missing>") + folder.flush() != b""
    assert folder.error("web1") is None
