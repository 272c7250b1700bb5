"""Paths on a host without their files."""

from __future__ import annotations

import copy
import operator
import pickle
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, Callable

import pytest

import ssh_service
from ssh_service import Host, SshConfigError, SshPath

WEB, DB = Host("deploy@web1"), Host("db1")


@pytest.mark.parametrize(
    "text",
    [
        "/",
        "/etc",
        "/etc/hosts",
        "a",
        "a/b.tar.gz",
        "a//b/./c/",
        "..",
        "a/..",
        ".",
        ".x",
        "//x",
        "~",
        "~/a",
    ],
)
def test_parts_are_those_of_pathlib(text: str) -> None:
    path: Any = WEB.path(text)
    pure = PurePosixPath(text)
    assert str(path) == str(pure) == path.as_posix()
    for name in ("parts", "name", "stem", "suffix", "suffixes", "root", "anchor"):
        assert getattr(path, name) == getattr(pure, name)
    assert str(path.parent) == str(pure.parent) and path.parent.host is WEB
    assert list(map(str, path.parents)) == list(map(str, pure.parents))
    assert path.is_absolute() == pure.is_absolute()
    assert path.match("*.gz") == pure.match("*.gz")
    assert path == WEB.path(pure) == WEB.path(path)
    assert hash(path) == hash(WEB.path(text))


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path / "a" / "b",
        lambda path: path / "/x",
        lambda path: path / PurePosixPath("a/b"),
        lambda path: path.joinpath("a", "b"),
        lambda path: path.joinpath(),
        lambda path: path.with_name("new"),
        lambda path: path.with_suffix(".new"),
        lambda path: path.with_suffix(""),
        lambda path: path.relative_to("/srv"),
        lambda path: "/x" / path,
        lambda path: path.with_name("a/b"),
        lambda path: path.with_name(""),
        lambda path: path.with_suffix("new"),
        lambda path: path.relative_to("/etc"),
        lambda path: path.relative_to("etc"),
    ],
)
def test_arithmetic_is_that_of_pathlib(change: Callable[[Any], Any]) -> None:
    pure = PurePosixPath("/srv/www/site.tar.gz")
    try:
        expected = change(pure)
    except ValueError:
        with pytest.raises(ValueError):
            change(WEB.path(pure))
    else:
        found: Any = change(WEB.path(pure))
        assert isinstance(found, SshPath) and found.host == WEB
        assert str(found) == str(expected)


def test_newer_names_are_there_with_every_python() -> None:
    path = WEB.path("/srv/www/site.tar.gz")
    assert str(path.with_stem("new")) == "/srv/www/new.gz"
    assert path.is_relative_to("/srv") and path.is_relative_to(WEB.path("/srv/www"))
    assert not path.is_relative_to("/etc") and not path.is_relative_to(DB.path("/srv"))
    assert str(path / PureWindowsPath("a\\b")) == "/srv/www/site.tar.gz/a/b"


def test_only_paths_of_one_host_are_equal_and_can_be_combined() -> None:
    path = WEB.path("/etc")
    assert path == Host("deploy@web1").path("/etc") and path != DB.path("/etc")
    assert path != PurePosixPath("/etc") and path != "/etc"
    assert len({path, DB.path("/etc"), Host("deploy@web1").path("/etc")}) == 2
    assert sorted([WEB.path("b"), WEB.path("a")]) == [WEB.path("a"), WEB.path("b")]
    assert WEB.path("a") <= WEB.path("a") and WEB.path("b") >= WEB.path("a") < WEB.path("c")
    for compare in (operator.lt, operator.le, operator.gt, operator.ge):
        with pytest.raises(TypeError):
            compare(path, DB.path("/etc"))
    with pytest.raises(SshConfigError, match="expected a path of deploy@web1, got one of db1"):
        path / DB.path("x")
    with pytest.raises(ValueError):
        path.relative_to(DB.path("/"))
    with pytest.raises(SshConfigError, match="expected a path of deploy@web1"):
        path.rename(DB.path("x"))
    wrong: Any
    for wrong in (5, None, b"x"):
        with pytest.raises(TypeError):
            path / wrong
    with pytest.raises(TypeError):
        PurePosixPath("/srv") / path  # type: ignore[operator]


@pytest.mark.parametrize(
    "segments, why",
    [
        (("",), "expected a path, got ''; '.' is the home directory"),
        (("a\0b",), r"expected no NUL character, got 'a\\x00b'"),
        (("a", "b\0"), "expected no NUL character"),
        (("a\ud800",), r"expected a path that can be encoded, got 'a\\ud800'"),
        ((b"/etc",), "expected a str, such as '/etc/hosts', got bytes"),
        ((None,), "expected a str, such as '/etc/hosts', got NoneType"),
        ((5,), "expected a str"),
    ],
)
def test_what_is_no_path_is_refused_at_once(segments: Any, why: str) -> None:
    with pytest.raises(SshConfigError, match=f"path: {why}"):
        WEB.path(*segments)


def test_what_is_no_host_is_refused() -> None:
    for host in ("web1", None, {"host": "web1"}):
        with pytest.raises(SshConfigError, match="host: expected a Host"):
            SshPath(host, "/etc")


def test_path_is_immutable_and_can_be_copied() -> None:
    path: Any = WEB.path("/etc/hosts")
    for name in ("name", "host", "_pure", "other"):
        with pytest.raises(AttributeError):
            setattr(path, name, "x")
        with pytest.raises(AttributeError):
            delattr(path, name)
    for other in (pickle.loads(pickle.dumps(path)), copy.copy(path), copy.deepcopy(path)):
        assert other == path and hash(other) == hash(path) and type(other) is SshPath


def test_path_is_shown_with_its_host() -> None:
    assert repr(WEB.path("/etc/hosts")) == "Host('deploy@web1').path('/etc/hosts')"
    assert eval(repr(WEB.path("~/x")), {"Host": Host}) == WEB.path("~/x")
    assert f"{WEB.path('/etc')}" == "/etc"
    secret = repr(Host("web1", password="geheim").path("x"))
    assert "geheim" not in secret


def test_only_the_start_of_a_path_is_a_home_directory() -> None:
    """A file with such a name is never taken for somebody's home directory."""
    assert str(WEB.path("~root/x")) == "~root/x"
    names = [WEB.path(".") / "~root", WEB.path("a").with_name("~root"), WEB.path("./~root")]
    names += [WEB.path("/a/~root").relative_to("/a"), WEB.path("a").parent / "~root"]
    names += [WEB.path("~").with_name("~root"), WEB.path("./~root/x").parent]
    for path in names:
        assert str(path) == "./~root" and path == WEB.path("./~root") != WEB.path("~root")
    assert str(WEB.path("/a/~root")) == "/a/~root" and str(WEB.path("a", "~root")) == "a/~root"
    assert str(WEB.path("~root/x").relative_to("~root")) == "x"
    assert str(WEB.path("~root/x").relative_to(".")) == "~root/x"
    with pytest.raises(ValueError):
        WEB.path("./~root/x").relative_to("~root")
    assert str(WEB.path("~root").with_suffix(".d")) == "./~root.d"


@pytest.mark.parametrize("mode", [-1, 0o10000, "644", None, True])
def test_bad_mode_is_refused_before_anything_is_sent(mode: Any) -> None:
    path = Host("nowhere.invalid").path("x")
    for call in (path.chmod, path.mkdir, path.touch):
        with pytest.raises(SshConfigError, match="mode: expected permissions from 0 to 0o7777"):
            call(mode)


def test_copies_refuse_a_path_and_say_what_they_take() -> None:
    with pytest.raises(SshConfigError, match="remote_path: expected one path, a str"):
        WEB.upload("x", WEB.path("/y"))  # type: ignore[arg-type]
    assert ssh_service.SshPath is SshPath
