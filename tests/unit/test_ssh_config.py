"""ssh_config files; the referee is `ssh -G`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ssh_service import ssh_config
from ssh_service.errors import SshConfigError
from ssh_service.ssh_config import syntax
from tests.common import replace_in_place


def write(path: Path, *lines: str) -> str:
    path.write_text("".join(line + "\n" for line in lines))
    return str(path)


# --- compared with ssh -----------------------------------------------------------------------


# --- what a reader of ssh_config(5) expects --------------------------------------------------


def test_the_first_value_counts_and_identity_files_collect(tmp_path: Path) -> None:
    path = write(tmp_path / "c", "Port 1", "Port 2", "IdentityFile /a", "IdentityFile /b")
    config = ssh_config.lookup("web", [path])
    assert [value.arguments for value in config.all("port")] == [("1",)]
    assert [value.arguments for value in config.all("identityfile")] == [("/a",), ("/b",)]


def test_a_value_knows_its_file_and_line(tmp_path: Path) -> None:
    path = write(tmp_path / "c", "# comment", "", "Port 1")
    value = ssh_config.lookup("web", [path]).get("port")
    assert value is not None and value.origin == f"{path}:3"


def test_an_include_in_a_block_counts_for_that_block_only(tmp_path: Path) -> None:
    inner = write(tmp_path / "inner", "Host *", "Port 1")
    path = write(tmp_path / "c", "Host web", f"Include {inner}", "Host *", "Port 2")
    for host, port in (("web", "1"), ("db", "2")):
        value = ssh_config.lookup(host, [path]).get("port")
        assert value is not None and value.arguments == (port,)


def test_relative_includes_are_those_of_the_users_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh" / "config.d").mkdir(parents=True)
    write(tmp_path / ".ssh" / "config.d" / "b", "Port 2", "User late")
    write(tmp_path / ".ssh" / "config.d" / "a", "Port 1")
    path = write(tmp_path / "c", "Include config.d/*")
    config = ssh_config.lookup("web", [path])
    assert config.get("port").arguments == ("1",)  # type: ignore[union-attr]
    assert config.get("user").arguments == ("late",)  # type: ignore[union-attr]


def test_a_folder_among_what_is_included_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "config.d" / "archive").mkdir(parents=True)
    write(tmp_path / "config.d" / "web", "Port 1")
    path = write(tmp_path / "c", f"Include {tmp_path}/config.d/*")
    assert ssh_config.lookup("web", [path]).get("port") is not None


def test_included_file_writable_by_others_is_refused(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    write(inner, "ProxyCommand somebody-elses %h")
    inner.chmod(0o666)
    path = write(tmp_path / "c", f"Include {inner}")
    with pytest.raises(SshConfigError, match="inner: owner .* others could change it"):
        ssh_config.lookup("web", [path])
    inner.chmod(0o600)
    assert ssh_config.lookup("web", [path]).get("proxycommand") is not None


def test_a_file_for_each_of_many_clusters_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "config.d").mkdir()
    for number in range(100):
        write(tmp_path / "config.d" / f"{number:03}", f"Host node{number}", f"Port {number + 1}")
    path = write(tmp_path / "c", f"Include {tmp_path}/config.d/*")
    ssh_config.lookup("node7", [path])
    before = syntax._parse.cache_info().misses
    value = ssh_config.lookup("node99", [path]).get("port")
    assert value is not None and value.arguments == ("100",)
    assert syntax._parse.cache_info().misses == before


def test_include_of_the_systems_file_is_checked_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in ssh, where every included file is, whoever names it."""
    system = tmp_path / "etc"
    (system / "ssh_config.d").mkdir(parents=True)
    inner = system / "ssh_config.d" / "inner"
    write(inner, "Port 7")
    path = write(system / "ssh_config", "Include ssh_config.d/*")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys.modules["ssh_service.ssh_config.lookup"], "_SYSTEM_FILE", path)
    assert ssh_config.lookup("web").get("port").arguments == ("7",)  # type: ignore
    inner.chmod(0o666)
    with pytest.raises(SshConfigError, match="inner: owner .* others could change it"):
        ssh_config.lookup("web")
    inner.chmod(0o644)
    write(system / "ssh_config", "Include ~/inner")
    with pytest.raises(SshConfigError, match="ssh_config:1: Include ~/inner: ~ has no meaning"):
        ssh_config.lookup("web")


def test_config_replaced_in_place_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "c"
    write(path, "Port 1")
    assert ssh_config.lookup("web", [str(path)]).get("port").arguments == ("1",)  # type: ignore
    replace_in_place(path, "Port 2\n")
    assert ssh_config.lookup("web", [str(path)]).get("port").arguments == ("2",)  # type: ignore


def test_an_include_of_itself_ends_with_an_error(tmp_path: Path) -> None:
    path = tmp_path / "c"
    write(path, f"Include {path}")
    with pytest.raises(SshConfigError, match="nested deeper than 16"):
        ssh_config.lookup("web", [str(path)])


@pytest.mark.parametrize("criterion, user", [("final", "carol"), ("!final host *", None)])
def test_the_files_are_read_again_for_final_but_not_for_its_negation(
    tmp_path: Path, criterion: str, user: str
) -> None:
    """Only what is read again knows the HostName."""
    path = write(
        tmp_path / "config",
        "Match host db",
        "User carol",
        "Host web",
        "HostName db",
        f"Match {criterion}",
        "Port 7",
    )
    value = ssh_config.lookup("web", [path]).get("user")
    assert (value and value.arguments[0]) == user


def test_match_exec_is_not_run_where_the_block_is_out_already(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    path = write(tmp_path / "c", f'Match host other exec "touch {trace}"', "Port 1")
    ssh_config.lookup("web", [path], allow_exec=True)
    assert not trace.exists()


@pytest.mark.parametrize(
    "line, reason",
    [
        ('User "open', "a quote is not closed"),
        ("Port", "port needs a value"),
        ('User ""', "user needs a value"),
        ("ProxyJump # one", "proxyjump needs a value"),
        ('"User alice', "a quote is not closed"),
        ("Match", "match needs a value"),
        ("Match host", "Match host needs a value"),
        ("Match host web all", "'all' cannot be combined"),
    ],
)
def test_a_line_that_makes_no_sense_is_an_error_with_file_and_line(
    tmp_path: Path, line: str, reason: str
) -> None:
    path = write(tmp_path / "c", "# one", line)
    with pytest.raises(SshConfigError, match=f"c:2: {reason}"):
        ssh_config.lookup("web", [path])


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_an_error_about_a_garbled_file_can_be_shown(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "config"
    path.write_bytes(("Host web\nUser me\n" + "x" * 1000).encode(encoding))
    with pytest.raises(SshConfigError, match="config:[13]: .* needs a value") as caught:
        ssh_config.lookup("web", [str(path)])
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


@pytest.mark.parametrize("end", ["\r\n", "\n", " \f\n"])
@pytest.mark.parametrize("begin", ["", "\ufeff"])
def test_files_of_other_systems_are_read_as_ones_own(tmp_path: Path, begin: str, end: str) -> None:
    path = tmp_path / "c"
    lines = ["Host web", '\tUser\t= "alice" ', "\t", "Host db", "  Port=7"]
    path.write_bytes((begin + end.join(lines) + end).encode())
    said = {}
    for host in ("web", "db"):
        config = ssh_config.lookup(host, [str(path)])
        said[host] = [(name, config.all(name)[0].arguments) for name in config.keywords()]
    assert said == {"web": [("user", ("alice",))], "db": [("port", ("7",))]}


def test_a_named_file_must_exist_a_default_one_need_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    ssh_config.lookup("web")
    with pytest.raises(SshConfigError, match="No such file"):
        ssh_config.lookup("web", [str(tmp_path / "missing")])


def test_the_users_own_file_must_not_be_writable_by_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    path = tmp_path / ".ssh" / "config"
    write(path, "Port 1")
    path.chmod(0o622)
    with pytest.raises(SshConfigError, match="others could change it"):
        ssh_config.lookup("web")
    path.chmod(0o600)
    assert ssh_config.lookup("web").get("port") is not None


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "c"
    write(path, "Port 1")
    assert ssh_config.lookup("web", [str(path)]).get("port") is not None
    write(path, "User longer-than-before")
    assert ssh_config.lookup("web", [str(path)]).get("port") is None


def test_tokens_and_the_environment_are_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = {"%": "%", "h": "web"}
    assert ssh_config.expand_tokens("a%h%%h-%h", tokens, "c:1") == "aweb%h-web"
    for bad in ("%z", "end%"):
        with pytest.raises(SshConfigError, match="c:1: unknown token"):
            ssh_config.expand_tokens(bad, tokens, "c:1")
    monkeypatch.setenv("SOMETHING", "here")
    assert ssh_config.expand_environment("/a/${SOMETHING}/b", "c:1") == "/a/here/b"
    for bad in ("${NO_SUCH_VARIABLE}", "${SOMETHING"):
        with pytest.raises(SshConfigError, match="c:1: environment variable"):
            ssh_config.expand_environment(bad, "c:1")


@pytest.mark.parametrize(
    "name", ["$(id)", "`id`", "a;id", "a|id", "a>f", "a&id", "a'b", "-oX", "\\"]
)
def test_a_host_or_user_that_is_more_than_a_name_gets_into_no_command(
    tmp_path: Path, name: str
) -> None:
    for letter in "hnr":
        tokens = {**dict.fromkeys("hnr", "web"), letter: name, "%": "%"}
        with pytest.raises(SshConfigError, match=f"c:1: .* cannot stand for %{letter}"):
            ssh_config.expand_command(f"nc %{letter}", tokens, "c:1")
    assert ssh_config.expand_command("nc %h %%", {"h": "web", "%": "%"}, "c:1") == "nc web %"
    trace = tmp_path / "trace"
    path = write(tmp_path / "c", f'Match exec "touch {trace}; echo %r"', "Port 1")
    with pytest.raises(SshConfigError, match="cannot stand for %r"):
        ssh_config.lookup("web", [path], user=name, allow_exec=True)
    assert not trace.exists()


@pytest.mark.parametrize("user", ["DOM\\user", "first.last@example.com", "a b", "größe"])
def test_a_user_with_an_unusual_name_gets_into_commands(user: str) -> None:
    assert ssh_config.expand_command("nc %r", {"r": user}, "c:1") == f"nc {user}"
