"""
Every example of docs/ runs as it stands, with a real server behind its names.

Those of README.md do in test_readme.py, those of fsspec.md in test_fsspec.py.  A page's ```python
blocks run in order, each after those above it; blocks that define tests are run by pytest.  ```py
blocks are others' code, which is not ours to run.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import re
import shutil
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

from ssh_service import api, list_jobs
from ssh_service.testing.local_sshd import Sshd
from tests.common import DROP_IN_DEFAULTS, PATIENCE

from .conftest import make_home

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
# What a page's examples need beyond this package's own extras for its tests.
_NEEDS = {"mlos_bench.md": "mlos_bench", "watching.md": "opentelemetry"}

# An example that needs what only another test starts, by a word in it.
_ELSEWHERE = {"forwarding.md": "psycopg"}  # test_forwarding_users.py

# What a page's examples are to print, among other things.
_SAID = {
    "drop_in.md": [" login\n", "'shared': ", "ConnectionMade("],
    "faq.md": ["started\n"],
    "forwarding.md": [
        "200 Bytes(to_server=",
        "b'HELLO OVER THERE'\nFalse\n",
        "the server listens on 127.0.0.1:",
    ],
    "jobs.md": ["part 1\npart 2\npart 3\nended(0)\n"],
    "many_hosts.md": [f"web{number:02} SUCCEEDED" for number in range(1, 41)],
    "moving.md": ["load average", "1\n\n3 ", "web1 SUCCEEDED\n", "web2 SUCCEEDED\n"],
    "paths.md": [
        "hello\nindex.html 5\n",
        "not SshPath\n",
        "b'more lin'\n",
        "['index.html', 'log.txt', 'token']\n",
    ],
    "recipes.md": [
        "mode = fast\n",
        "trusted blindly\n",
        "quick\n",
        "/tmp\n",
        "café\n",
        "fine\n",
        "[]\n",
        "'dials'",
    ],
    "security.md": ["trusted\n", "expected another key than SHA256:"],
    "start.md": ["Linux\n 3\n", "Linux\n\nLinux\n", "hello\n"],
    "tutorial.md": [
        "it's me\nfrom stdin\n",
        "a  b\n$HOME\n*\n",
        "1\n2\n3\nand what we say\n0\n",
        f"{[str(number) for number in range(20)]}\n" * 2,
        "the output so far: begun\n ended: True",
        "made: ",
        "lost: we closed it",
        "Status.FAILED hello\n",
    ],
    "watching.md": ["'connections': 1"],
}

# Loaded before `pytester` comes, which forgets afterwards what was loaded meanwhile: a second copy
# of OpenTelemetry would not know the first one's status codes, nor one of mlos_bench its classes.
for needed, module in (
    ("opentelemetry", "ssh_service.otel"),
    ("mlos_bench", "ssh_service.services.host_api"),
    ("mlos_bench", "mlos_bench.services.config_persistence"),
):
    if importlib.util.find_spec(needed) is not None:
        importlib.import_module(module)


def blocks(page: Path) -> List[str]:
    return _BLOCK.findall(page.read_text("utf-8"))


@pytest.fixture
def home(sshd: Sshd, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home and a folder in which web1, web2, ... are the test server."""
    tmp_path = pytester.path
    make_home(tmp_path, "web*", sshd, monkeypatch)
    for folder in ("srv", "tmp"):
        (tmp_path / folder).mkdir()
    levels = {name: logging.getLogger(name).level for name in ("", "ssh_service")}
    yield tmp_path
    for name, level in levels.items():  # an example may have asked for more
        logging.getLogger(name).setLevel(level)
    if "ssh_service.paramiko" in sys.modules:  # an example has called install() or configure()
        sys.modules["ssh_service.paramiko"].uninstall()
        sys.modules["ssh_service.paramiko"].configure(**DROP_IN_DEFAULTS)
    api.default_cache().cleanup()
    if "ssh_service.mlos_bench" in sys.modules:  # an example has called install()
        sys.modules["ssh_service.mlos_bench"].uninstall()


@contextlib.contextmanager
def no_jobs_left(text: str, sshd: Sshd) -> Iterator[None]:
    """Remove the jobs that examples leave behind, in the account of who runs the tests."""
    if "start_job(" not in text:
        yield
        return
    before = list_jobs(sshd.connect_params)
    yield
    for job in list_jobs(sshd.connect_params):
        if job not in before:
            job.wait(PATIENCE)
            job.remove()


def make_paramiko_home(home: Path, sshd: Sshd) -> None:
    """Put the server where paramiko looks, which does not read ssh_config."""
    shutil.copy(sshd.client_key, home / ".ssh" / "id_ed25519")
    with open(home / ".ssh" / "known_hosts", "a", encoding="ascii") as file:
        file.write(Path(sshd.known_hosts).read_text())


def here(text: str, sshd: Sshd, home: Path) -> str:
    """Let an example's user be the server's, and its folders be in the scratch home."""
    text = re.sub(r"(?<![\w.}])/tmp/", f"{home}/tmp/", text)  # first, as the home may lie there
    text = text.replace('.connect("web1"', f'.connect("{sshd.host}", {sshd.port}')
    text = text.replace('fresh("web1")', f'fresh("{sshd.host}")')
    text = text.replace("deploy@", f"{sshd.username}@").replace('"deploy"', repr(sshd.username))
    return text.replace("/srv/www/", f"{home}/srv/")


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES[1:] if blocks(page) and page.name != "fsspec.md"],
    ids=lambda p: p.name,
)
def test_a_pages_examples_run_as_they_stand(
    page: Path, sshd: Sshd, home: Path, pytester: pytest.Pytester, capsys: Any
) -> None:
    if page.name == "drop_in.md":
        make_paramiko_home(home, sshd)
    with no_jobs_left(page.read_text("utf-8"), sshd):
        run_examples(page, sshd, home, pytester)
    said = capsys.readouterr().out
    assert [text for text in _SAID.get(page.name, []) if text not in said] == []


def run_examples(page: Path, sshd: Sshd, home: Path, pytester: pytest.Pytester) -> None:
    needed = _NEEDS.get(page.name)
    names: Dict[str, Any] = {"__name__": "example"}
    for number, block in enumerate(blocks(page), 1):
        if needed and needed in block and importlib.util.find_spec(needed) is None:
            pytest.skip(f"examples from no. {number} on need {needed}")
        if page.name in _ELSEWHERE and _ELSEWHERE[page.name] in block:
            continue
        if needed == "opentelemetry" and "otel" in block:
            pytest.importorskip(needed, reason=f"example no. {number} needs the extra otel")
        if re.search(r"^def test_", block, re.M):
            pytester.makepyfile(**{f"test_{page.stem}_{number}": block})
            count = len(re.findall(r"^def test_", block, re.M))
            pytester.runpytest_subprocess().assert_outcomes(passed=count)
            next(pytester.path.glob("test_*.py")).unlink()
            continue
        code = compile(here(block, sshd, home), f"{page.name}, example {number}", "exec")
        exec(code, names)


def test_examples_that_do_not_run_are_others_code() -> None:
    fences = {
        page.name: set(re.findall(r"^```(\{?[\w-]+\}?)", page.read_text("utf-8"), re.M))
        for page in PAGES
    }
    known = {"python", "console", "json", "jsonc", "{toctree}", "{error-class}", "{from-code}"}
    assert {name for name, found in fences.items() if found - known - {"py"}} == set()
    others = {name for name, found in fences.items() if "py" in found}
    assert others == {"drop_in.md", "forwarding.md", "moving.md"}


def test_examples_name_no_other_file_of_this_machine() -> None:
    """They run here, perhaps as root: what they write is below /tmp/ or /srv/www/ (see `here`)."""
    named = {
        path
        for page in PAGES
        for block in blocks(page)
        for path in re.findall(r"(?<![\w.}/:~])(/[\w.-][\w./-]*)", block)
        if not path.startswith(("/tmp/", "/srv/www/"))
    }
    only_read = {"/dev/null", "/etc", "/etc/hosts", "/etc/passwd", "/run/docker.sock", "/tmp"}
    assert named - only_read == {"/build"}  # a pattern


def test_every_link_between_the_pages_leads_somewhere() -> None:
    missing = []
    for page in PAGES:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text("utf-8")):
            if not link.startswith("reference/") and not (page.parent / link).exists():
                missing.append(f"{page.name}: {link}")
    assert missing == []
