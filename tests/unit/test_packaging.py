"""All files are published, and nothing else, as far as the packaging files say."""

from __future__ import annotations

import configparser
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Iterator, List

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "ssh_service"


def listed(section: str, option: str) -> List[str]:
    found = configparser.ConfigParser()
    found.read(ROOT / "setup.cfg", "utf-8")
    return found[section][option].split()


def files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            yield path


def test_every_module_and_data_file_is_in_the_wheel() -> None:
    patterns = listed("options.package_data", "ssh_service")
    unused, missing = set(patterns), []
    for path in files(PACKAGE):
        name = path.relative_to(PACKAGE).as_posix()
        matching = {pattern for pattern in patterns if fnmatch(name, pattern)}
        unused -= matching
        folders = [PACKAGE, *(PACKAGE / part for part in path.relative_to(PACKAGE).parents)]
        is_module = path.suffix == ".py" and all((at / "__init__.py").exists() for at in folders)
        if not (is_module or matching):
            missing.append(name)
    assert (missing, unused) == ([], set())


def test_nothing_else_is_in_the_wheel() -> None:
    assert listed("options.packages.find", "include") == ["ssh_service", "ssh_service.*"]


def test_the_tests_the_documentation_and_the_benchmarks_are_in_the_sdist() -> None:
    rules = [line.split() for line in (ROOT / "MANIFEST.in").read_text("utf-8").splitlines()]
    for folder in ("benchmarks", "docs", "tests"):
        patterns = [words[2:] for words in rules if words[:2] == ["recursive-include", folder]]
        assert len(patterns) == 1, folder
        # The reference is there while the documentation is being built, and is no part of it.
        names = [path.name for path in files(ROOT / folder) if "reference" not in path.parts]
        assert [name for name in names if not any(fnmatch(name, p) for p in patterns[0])] == []


@pytest.mark.parametrize("page", ["README.md", "docs/start.md"])
def test_every_extra_that_users_are_told_of_is_there(page: str) -> None:
    known = configparser.ConfigParser()
    known.read(ROOT / "setup.cfg", "utf-8")
    text = (ROOT / page).read_text("utf-8")
    told = re.findall(r"'(?:\.|ssh-service)\[(\w+)\]'", text)
    told += re.findall(r"^\| `(\w+)` \| .* \|$", text, re.M)
    assert told and set(told) <= set(known["options.extras_require"])


def test_the_changelog_has_the_version_and_its_day() -> None:
    (version,) = listed("metadata", "version")
    sections = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    releases = [section for section in sections if section != "[Unreleased]"]
    newest, *earlier = (release.partition(" - ") for release in releases)
    assert newest[0] == f"[{version}]"
    assert newest[2] == "unreleased" or re.fullmatch(r"\d{4}-\d\d-\d\d", newest[2])
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", day) for _, _, day in earlier)


def test_the_oldest_releases_are_what_the_matrix_runs() -> None:
    """An extra's lowest versions are those that its environment in tox.ini installs."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    wanted = dict(config["options.extras_require"], install=config["options"]["install_requires"])
    floors = {
        (name, floor)
        for extra in ("install", "cli", "demo", "testing", "tests", "otel", "dask", "mlos")
        for name, floor in re.findall(r"^([\w-]+)>=([\d.]+)", wanted[extra], re.MULTILINE)
    }
    tox = (ROOT / "tox.ini").read_text("utf-8")
    pinned = dict(re.findall(r"^    (?:oldest|\w+old): ([\w-]+)==([\d.]+)$", tox, re.MULTILINE))

    def short(version: str) -> str:
        return re.sub(r"(\.0)+$", "", version)

    assert {name: short(version) for name, version in floors} == {
        name: short(pinned.get(name, "none")) for name, _ in floors
    }


def test_precommit_runs_the_versions_of_the_lint_extra() -> None:
    pinned = re.compile(r"[\w-]+==[\d.]+")
    hooks = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
    extra = "\n".join(listed("options.extras_require", "lint"))
    assert sorted(pinned.findall(hooks)) == sorted(pinned.findall(extra)) != []
