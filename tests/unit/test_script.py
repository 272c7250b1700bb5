"""How a script is delivered: the bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ssh_service import known_servers
from ssh_service.commands.script import Delivery, check_environment, deliver, is_empty, join
from ssh_service.errors import SshConfigError


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


# What is a script, and what is not.


@pytest.mark.parametrize(
    "given, expected",
    [
        ("a\nb", "a\nb"),
        (["a", "b"], "a\nb"),
        (("a",), "a"),
        ((item for item in ("a", "b\nc", "")), "a\nb\nc\n"),
        ([], ""),
        ("a\x0bb\x85c\u2028d\r\n", "a\x0bb\x85c\u2028d"),
        (["a\n", "b\n"], "a\nb"),
        (["a\r\n", "b\r\nc", "\r\n", "d\r"], "a\nb\nc\n\nd\r"),
        (["a\n\n", "b"], "a\n\nb"),
        ("a\r\n\r\nb", "a\n\nb"),
        (["a \\\n", "b"], "a \\\nb"),
        (["", "", "a"], "\n\na"),
    ],
)
def test_a_script_is_a_text_or_its_lines(given: Any, expected: str) -> None:
    assert join(given) == expected


@pytest.mark.parametrize("given", [None, 1, b"bytes", [b"bytes"], ["a", None], [["a"]], object()])
def test_anything_else_is_refused_with_its_type(given: Any) -> None:
    with pytest.raises(SshConfigError, match="script: .*expected a?.*str.*, got"):
        join(given)
    with pytest.raises(SshConfigError, match="got bytes"):
        join(b"its items are numbers")  # type: ignore[arg-type]


def test_variables_given_as_the_script_are_refused_not_run() -> None:
    """``run(web, {"A": "x"})`` would run the names."""
    with pytest.raises(SshConfigError, match=r"script: expected .*got dict; .*env="):
        join({"A": "x"})


@pytest.mark.parametrize("kind", [set, frozenset])
def test_lines_without_an_order_are_refused(kind: Any) -> None:
    with pytest.raises(SshConfigError, match=f"script: expected .*got {kind.__name__}, .*order"):
        join(kind(["a", "b"]))


def test_an_item_of_a_wrong_type_is_named_by_its_number() -> None:
    with pytest.raises(SshConfigError, match="script: item 2: expected str, got int"):
        join(["echo", 1])  # type: ignore[list-item]


@pytest.mark.parametrize("shell", ["", "/bin/sh\0", 5, b"/bin/sh", Path("/bin/sh")])
def test_shell_that_is_not_a_path_is_never_sent(shell: Any) -> None:
    """A NUL in an exec request makes OpenSSH end the whole connection."""
    with pytest.raises(SshConfigError, match="shell"):
        deliver("echo", None, shell)


def test_a_script_of_sixteen_mib_is_accepted_and_one_byte_more_is_not() -> None:
    limit = 16 * 1024 * 1024
    assert len(join("x" * limit)) == limit
    with pytest.raises(SshConfigError, match=f"{limit + 1} bytes are too many"):
        join("x" * (limit + 1))
    with pytest.raises(SshConfigError, match="too many"):
        join("ż" * (limit // 2 + 1))  # characters would fit, bytes do not


@pytest.mark.parametrize("text", ["a\0b", "\0"], ids=["inside", "alone"])
def test_nul_cannot_be_sent(text: str) -> None:
    with pytest.raises(SshConfigError, match="NUL"):
        join(text)
    with pytest.raises(SshConfigError, match="NUL"):
        check_environment({"A": text})


def test_unencodable_text_is_refused_and_not_shown() -> None:
    """A UnicodeEncodeError would carry all of the text with it, values included."""
    for refused in (
        lambda: join("secret \ud800"),
        lambda: check_environment({"A": "secret \ud800"}),
    ):
        with pytest.raises(SshConfigError, match="surrogate") as caught:
            refused()
        assert "secret" not in repr(caught.value)
        assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    "text, empty", [("", True), (" \t\n\n", True), ("#", False), (":", False)]
)
def test_a_script_of_white_space_is_empty(text: str, empty: bool) -> None:
    assert is_empty(text) is empty


# The environment.


def test_values_of_any_type_become_text() -> None:
    given = {"A": 1, "B": 1.5, "D": True, "_e1": Path("/x"), "F": "text"}
    assert check_environment(given) == {
        "A": "1", "B": "1.5", "D": "True", "_e1": "/x", "F": "text",
    }  # fmt: skip
    assert check_environment(None) == {}


@pytest.mark.parametrize("given", [[("A", "b")], "A=b", 5])
def test_an_environment_is_a_mapping(given: Any) -> None:
    with pytest.raises(SshConfigError, match="env"):
        check_environment(given)


@pytest.mark.parametrize(
    "name", ["", "1A", "A-B", "A B", "A=B", "A\n", "ż", "A;touch x", "$(x)", 1, None, b"A"]
)
def test_a_name_that_no_shell_takes_is_refused_without_its_value(name: Any) -> None:
    with pytest.raises(SshConfigError, match="environment variable") as caught:
        check_environment({name: "the secret value"})
    assert "secret" not in str(caught.value)


# The form of what is sent.


def test_a_small_script_is_the_exec_request_itself() -> None:
    assert deliver("echo żółć") == Delivery(encoded("echo żółć"), b"")
    assert deliver("x" * 8192) == Delivery(b"x" * 8192, b"")
    assert deliver("x", prologue=lambda: "p;", before="b;") == Delivery(b"x", b"")


@pytest.mark.parametrize(
    "delivery",
    [
        deliver("x" * 8193),
        deliver("x" * 65537),
        deliver("ż" * 4097),
        deliver("true", {"A": "b"}),
        deliver("true", shell="/bin/bash"),
    ],
)
def test_everything_else_goes_over_stdin_as_one_line(delivery: Delivery) -> None:
    assert len(delivery.command) < 200
    assert delivery.preamble.count(b"\n") == 1 and delivery.preamble.endswith(b"\n")


@pytest.mark.parametrize(
    "version", ["SSH-2.0-dropbear_2022.83", "SSH-2.0-dropbear", "SSH-2.0-Unknown", ""]
)
def test_deliver_above_8_kib_goes_over_stdin_unless_to_openssh(version: str) -> None:
    """An exec request of more than 9,000 bytes ends a connection to dropbear, for everybody."""
    for size in (8193, 65536):
        delivery = deliver("x" * size)
        assert len(delivery.for_server(version).command) < 200
        openssh = delivery.for_server("SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3")
        assert openssh == Delivery(b"x" * size, b"")
    for text, env in [("x" * 65537, {}), ("x" * 9000, {"A": "b"})]:
        assert len(deliver(text, env).for_server("SSH-2.0-OpenSSH_9.2").command) < 200


def test_no_value_is_in_the_exec_request_where_every_user_of_the_server_could_see_it() -> None:
    delivery = deliver("echo the-script", {"NAME": "the-value"}, "/bin/bash")
    assert b"the-" not in delivery.command
    assert b"NAME" not in delivery.command


def test_the_request_survives_login_shells_that_are_no_posix_shells() -> None:
    """Nothing in it that csh or fish would take for theirs, inside single quotes."""
    command = deliver("true", {"A": "b"}, "/bin/bash").command.decode()
    assert command.startswith("exec /bin/bash -c '") and command.endswith("'")
    inside = command[len("exec /bin/bash -c '") : -1]
    assert not set(inside) & set("'\\!\n")


@pytest.mark.parametrize("shell", ["/usr/bin/fish", "/bin/csh", "tcsh"])
def test_a_shell_that_cannot_run_what_is_sent_is_refused(shell: str) -> None:
    """Success is what fish would report."""
    with pytest.raises(SshConfigError, match="shell: expected a POSIX shell such as '/bin/sh'"):
        deliver("true", shell=shell)


@pytest.mark.parametrize("first", ["0", "9", "[ x ]", ":h"])
def test_a_newline_is_not_written_so_that_what_follows_is_taken_for_a_part_of_it(
    first: str,
) -> None:
    """$10 may be the tenth parameter; to zsh $1[x] is a character of it, and $1:h its folder."""
    line = deliver(f"true\n{first}", {"A": "b"}).preamble.decode()
    assert "${1}" + first in line and "$1" + first not in line


# What the shells make of it.


def test_the_limit_of_the_exec_request_is_what_servers_take() -> None:
    assert known_servers.EXEC_LIMIT <= 9000 - 100  # dropbear
    assert known_servers.OPENSSH_EXEC_LIMIT <= 100_000
