"""Forwards as people use them: the manual's example of a database behind a bastion."""

from __future__ import annotations

import glob
import importlib.util
import os
import pwd
import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any, Dict, Iterator

import pytest

from ssh_service import SshClientCache, forward_local
from ssh_service.testing.local_sshd import Sshd
from tests.common import PATIENCE, eventually

PAGE = Path(__file__).resolve().parents[2] / "docs" / "forwarding.md"
# Root may not run PostgreSQL.
USER = "nobody"


def find_postgres() -> str:
    """Return the folder of PostgreSQL's programs; skip the test without it."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
    on_path = shutil.which("initdb")
    if not found and on_path is None:
        pytest.skip("needs PostgreSQL (Debian: apt install postgresql)")
    return found[-1] if found else os.path.dirname(str(on_path))


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Start a database of its own; return its port."""
    programs, folder = find_postgres(), tmp_path_factory.mktemp("postgres")
    options: Dict[str, Any] = {"cwd": str(folder), "stdout": subprocess.DEVNULL}
    if os.geteuid() == 0:
        owner = pwd.getpwnam(USER)
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        for parent in list(folder.parents)[:2]:  # pytest's own, closed to others
            os.chmod(parent, 0o711)

        def become() -> None:
            os.setgroups([])
            os.setgid(owner.pw_gid)
            os.setuid(owner.pw_uid)

        options["preexec_fn"] = become
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    data = str(folder / "data")
    subprocess.run(
        [f"{programs}/initdb", "-D", data, "-A", "trust", "-U", "deploy", "--no-sync"],
        check=True,
        timeout=60,
        **options,
    )
    server = subprocess.Popen(
        [f"{programs}/postgres", "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", data],
        stderr=subprocess.DEVNULL,
        **options,
    )
    try:
        asks = [f"{programs}/pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
        eventually(lambda: subprocess.run(asks).returncode == 0, "the database is up")
        yield port
    finally:
        server.terminate()
        server.wait(PATIENCE)


def test_a_database_answers_through_a_forward(
    sshd: Sshd, cache: SshClientCache, postgres: int
) -> None:
    """Asked by PostgreSQL's own client."""
    psql = shutil.which("psql")
    if psql is None:
        pytest.skip("needs psql (Debian: apt install postgresql-client)")
    with forward_local(sshd.connect_params, postgres, cache=cache) as forward:
        done = subprocess.run(
            [psql, "-h", "127.0.0.1", "-p", str(forward.port), "-U", "deploy", "-At", "-c",
             "SELECT sum(n), sum(length(repeat('x', n))) FROM generate_series(1, 3000) n",
             "postgres"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            timeout=PATIENCE,
        )  # fmt: skip
    assert (done.stdout, done.stderr) == ("4501500|4501500\n", "")


def test_the_manuals_database_behind_a_bastion(
    sshd: Sshd, postgres: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The example of docs/forwarding.md, with psycopg."""
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("needs psycopg (pip install 'psycopg[binary]')")
    (example,) = [
        block
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.S)
        if "psycopg" in block
    ]
    for theirs, ours in (
        ('"deploy@bastion"', repr(sshd.connect_params)),
        ("db.internal:5432", f"localhost:{postgres}"),
        ('"dbname": "postgres"', '"dbname": "postgres", "user": "deploy"'),
    ):
        assert theirs in example
        example = example.replace(theirs, ours)
    exec(compile(example, "forwarding.md", "exec"), {"forward_local": forward_local})
    assert capsys.readouterr().out == "(42,)\n"
    from ssh_service import close_all

    close_all()
