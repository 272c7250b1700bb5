"""The README's examples run as they stand, with a real server behind the name they use."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Iterator

import pytest

from ssh_service import api
from ssh_service.testing.local_sshd import Sshd

from .conftest import make_home

README = Path(__file__).resolve().parents[2] / "README.md"


def example(name: str, language: str = "python") -> str:
    found = re.search(
        rf"<!-- example: {name} -->\n```{language}\n(.*?)```", README.read_text("utf-8"), re.S
    )
    assert found, f"README.md has no example {name!r}"
    return found.group(1)


@pytest.fixture
def home(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home and a folder in which web1 is the test server, and deploy its user."""
    make_home(tmp_path, "web1", sshd, monkeypatch)
    yield tmp_path
    api.default_cache().cleanup()


def perform(text: str, sshd: Sshd, home: Path) -> Dict[str, Any]:
    """Run an example as this server's user, with its files in the scratch home."""
    for theirs, ours in (
        ("deploy", sshd.username),
        ("/srv/www/site", str(home / "www")),
        ("/tmp/setup.sh", str(home / "copied.sh")),
    ):
        text = text.replace(theirs, ours)
    names: Dict[str, Any] = {}
    exec(compile(text, str(README), "exec"), names)
    return names


def test_the_first_example_runs_and_copies(
    sshd: Sshd, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    perform(example("run"), sshd, home)
    assert (home / "www" / "index.html").read_text() == "hello"
    assert "Linux" in capsys.readouterr().out


def test_the_first_example_run_again_brings_the_copy_up_to_date(sshd: Sshd, home: Path) -> None:
    """As it says; the folder does not go into its first copy."""
    perform(example("run"), sshd, home)
    (Path("site") / "index.html").write_text("hello again")
    perform(example("run"), sshd, home)
    assert os.listdir(home / "www") == ["index.html"]
    assert (home / "www" / "index.html").read_text() == "hello again"


def test_the_job_and_the_forward_of_the_example_run(
    sshd: Sshd, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    perform(example("outlive"), sshd, home)
    assert re.fullmatch(
        r"db.internal's database is at 127.0.0.1:\d+\ndone\n\n", capsys.readouterr().out
    )


def test_the_services_example_succeeds_and_prints_the_output(
    sshd: Sshd, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = perform(example("services"), sshd, home)
    assert names["results"]["stdout"] == "mode fast\n"
    assert capsys.readouterr().out == "mode fast\n\n"


def test_mlos_bench_loads_the_services_of_the_example(sshd: Sshd, home: Path) -> None:
    persistence = pytest.importorskip("mlos_bench.services.config_persistence")
    from ssh_service import SshFileShareService, SshHostService, Status
    from ssh_service.mlos_bench import install, uninstall

    text = example("mlos", "json").replace("deploy", sshd.username)
    (home / "services.jsonc").write_text(text)
    install()
    try:
        loader = persistence.ConfigPersistenceService()
        service = loader.load_services([str(home / "services.jsonc")], {}, loader)
    finally:
        uninstall()
    owners = {type(method.__self__) for method in service.export().values()}
    assert {SshHostService, SshFileShareService} <= owners
    with service:
        _, info = service.remote_exec(["echo hello"], {"ssh_hostname": "web1"}, {})
        status, results = service.get_remote_exec_results(info)
    assert (status, results["stdout"]) == (Status.SUCCEEDED, "hello\n")


def test_every_example_is_run_and_every_link_leads_somewhere() -> None:
    text = README.read_text("utf-8")
    assert set(re.findall(r"<!-- example: (\w+) -->", text)) == {
        "run",
        "outlive",
        "services",
        "mlos",
        "cache",
        "fixture",
    }
    assert len(re.findall(r"^```(?:python|json)$", text, re.M)) == 6
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    links += re.findall(r"`(ssh_service/[\w./]+)`", text)
    missing = [link for link in links if not (README.parent / link).exists()]
    assert links and not missing


def test_the_commands_are_those_of_the_makefile() -> None:
    targets = re.findall(r"^(\w+):", (README.parent / "Makefile").read_text("utf-8"), re.M)
    assert set(re.findall(r"^\$ make (\w+)", README.read_text("utf-8"), re.M)) <= set(targets)


def test_the_example_of_a_test_passes(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(example("fixture"))
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_readme_hook_example_is_called_at_the_end(sshd: Sshd, home: Path) -> None:
    """As a program, which ends with the example: the hook is called all the same."""
    code = example("cache").replace("deploy", sshd.username)
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=60, check=True
    )
    said = done.stdout.decode()
    assert "load average" in said and said.endswith("lost: we closed it\n")
