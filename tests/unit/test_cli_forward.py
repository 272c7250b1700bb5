"""The arguments of ``ssh-service forward``: ssh's syntax, and complaints about the rest."""

from __future__ import annotations

from typing import Any

import pytest

from ssh_service import cli

pytest.importorskip("click")
pytest.importorskip("rich")

from ssh_service.cli.forward_specs import parse  # noqa: E402

from .command_line import complaint_of, in_process  # noqa: E402


@pytest.mark.parametrize(
    "text, listen, to",
    [
        ("5432:db.internal:5432", 5432, "db.internal:5432"),
        ("0:localhost:80", 0, "localhost:80"),
        ("10.0.0.1:8080:web:80", "10.0.0.1:8080", "web:80"),
        ("*:8080:web:80", "*:8080", "web:80"),
        (":8080:web:80", "*:8080", "web:80"),
        ("[::1]:8080:[2001:db8::1]:80", "[::1]:8080", "[2001:db8::1]:80"),
        ("8080:/run/docker.sock", 8080, "/run/docker.sock"),
        ("127.0.0.1:8080:/run/docker.sock", "127.0.0.1:8080", "/run/docker.sock"),
        ("/tmp/here:/run/docker.sock", "/tmp/here", "/run/docker.sock"),
        ("/tmp/here:web:80", "/tmp/here", "web:80"),
    ],
)
@pytest.mark.parametrize("option", ["-L", "-R"])
def test_ssh_s_forms_are_understood(option: str, text: str, listen: Any, to: str) -> None:
    assert parse(option, text) == (option, listen, to, text)


@pytest.mark.parametrize(
    "text, listen", [("1080", 1080), ("*:1080", "*:1080"), ("[::1]:1080", "[::1]:1080")]
)
def test_a_proxy_needs_only_a_port(text: str, listen: Any) -> None:
    assert parse("-D", text) == ("-D", listen, None, text)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["host"], "give -L, -R or -D"),
        (["-L", "80", "host"], "-L 80: expected [BIND:]PORT:HOST:PORT"),
        (["-L", "a:b:c:d:e", "host"], "-L a:b:c:d:e: expected"),
        (["-L", "80:web:http", "host"], "-L 80:web:http: expected"),
        (["-L", "80::80", "host"], "-L 80::80: expected"),
        (["-L", "80:*:80", "host"], "-L 80:*:80: expected"),
        (["-L", "80:::1:80", "host"], "-L 80:::1:80: expected"),
        (["-D", "web:80:80", "host"], "-D web:80:80: expected [BIND:]PORT"),
        (["-R", "8080", "host"], "a SOCKS proxy on the server's side is not offered"),
        (["-L", "0:web:70000", "host"], "-L 0:web:70000: the target: expected a port from 1"),
        (["-L", "0:web:0", "host"], "-L 0:web:0: the target: expected a port from 1"),
        (["-D", "70000", "host"], "-D 70000: the side that listens: expected a port from 1"),
        (["-L", "70000:web:22", "host"], "the side that listens: expected a port from 1 to 65535"),
        (["-L", "foo", "host"], "where a path of a Unix socket may stand for either side"),
        (["-L", "0:web:\uff19", "host"], "expected [BIND:]PORT:HOST:PORT"),
        (["-L", "0:web:80"], "Missing argument"),
    ],
)
def test_a_wrong_argument_is_one_line(arguments: Any, message: str) -> None:
    done = in_process("forward", *arguments)
    assert message in complaint_of(done)


def test_ctrl_c_while_the_program_is_loaded_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(arguments: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("ssh_service.cli.app.run", run)
    assert cli.main(["forward", "-D", "0", "host"]) == 130
    assert capsys.readouterr() == ("", "ssh-service: interrupted\n")
