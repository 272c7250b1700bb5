"""The verbs for programs, against the server inside the process."""

from __future__ import annotations

from pathlib import Path
from typing import List

import pytest

from ssh_service import SshCommandTimeout, SshConfigError, start, upload, verbs
from ssh_service.cache import SshClientCache
from ssh_service.mock_sshd import MockSshd
from tests.common import eventually


def test_the_output_of_a_command_that_has_ended_is_not_lost(
    mock_sshd: MockSshd, ssh_cache: SshClientCache
) -> None:
    process = start(mock_sshd.connect_params, "echo out; echo err >&2; exit 3", cache=ssh_cache)
    process.future.result(20)  # it ended before anybody asked for its output
    done = process.result()
    assert (done.stdout, done.stderr, done.exit_status) == ("out\n", "err\n", 3)
    assert process.result().stdout == "out\n"


def test_what_was_taken_is_not_in_the_result(
    mock_sshd: MockSshd, ssh_cache: SshClientCache
) -> None:
    process = start(mock_sshd.connect_params, "echo one; cat", cache=ssh_cache)
    assert next(process.lines()) == "one\n"
    process.write("two\n")
    process.close_stdin()
    process.future.result(20)
    assert process.result().stdout == "two\n"


def test_a_stream_that_goes_to_a_function_has_no_lines_as_well(
    mock_sshd: MockSshd, ssh_cache: SshClientCache
) -> None:
    seen: List[str] = []
    process = start(
        mock_sshd.connect_params, "echo; echo >&2", on_stderr=seen.append, cache=ssh_cache
    )
    assert list(process.lines()) == ["\n"]
    with pytest.raises(SshConfigError, match="^on_stderr: "):
        process.stderr_lines()
    assert process.result(20).exit_status == 0


def test_who_waits_in_vain_is_told_where_and_the_command_goes_on(
    mock_sshd: MockSshd, ssh_cache: SshClientCache
) -> None:
    process = start(mock_sshd.connect_params, "read it; echo $it", cache=ssh_cache)
    with pytest.raises(TimeoutError, match=f":{mock_sshd.port}: .* within 0.01 s"):
        process.result(0.01)
    process.write("done\n")
    assert process.result(20).stdout == "done\n"


@pytest.mark.usefixtures("short_patience")
def test_the_output_so_far_is_in_the_error(mock_sshd: MockSshd, ssh_cache: SshClientCache) -> None:
    process = start(mock_sshd.connect_params, "echo out; sleep 60", timeout=1, cache=ssh_cache)
    assert isinstance(process.future.exception(20), SshCommandTimeout)
    with pytest.raises(SshCommandTimeout) as caught:
        process.result()
    assert caught.value.process.stdout == "out\n"


def test_what_only_copied_lets_its_connection_go_too(
    mock_sshd: MockSshd,
    ssh_cache: SshClientCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(verbs, "_IDLE_TIMEOUT", 0.05)
    (tmp_path / "here").write_text("text")
    upload(mock_sshd.connect_params, tmp_path / "here", str(tmp_path / "there"), cache=ssh_cache)
    assert (tmp_path / "there").read_text() == "text"
    eventually(lambda: len(ssh_cache) == 0)
