"""The verbs for programs, against the server inside the process."""

from __future__ import annotations

import pytest

from ssh_service import SshCommandTimeout, start
from ssh_service.cache import SshClientCache
from ssh_service.mock_sshd import MockSshd


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


def test_the_output_so_far_is_in_the_error(mock_sshd: MockSshd, ssh_cache: SshClientCache) -> None:
    process = start(mock_sshd.connect_params, "echo out; sleep 60", timeout=1, cache=ssh_cache)
    assert isinstance(process.future.exception(20), SshCommandTimeout)
    with pytest.raises(SshCommandTimeout) as caught:
        process.result()
    assert caught.value.process.stdout == "out\n"
