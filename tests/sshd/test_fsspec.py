"""The file system for fsspec on a real server: fsspec's own tests of file systems, and ours."""

from __future__ import annotations

import importlib
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterator

import pytest

if not os.environ.get("SSH_SERVICE_REQUIRE_FSSPEC"):
    pytest.importorskip("fsspec", reason="needs the extra fsspec")

import fsspec  # noqa: E402
from fsspec.implementations.sftp import SFTPFileSystem  # noqa: E402
from fsspec.tests import abstract  # noqa: E402

from ssh_service import SshConfigError, SshHostKeyError, api  # noqa: E402
from ssh_service.fsspec import SshFileSystem, register  # noqa: E402
from ssh_service.testing.fault_proxy import FaultProxy  # noqa: E402
from ssh_service.testing.pytest_plugin import Sshd  # noqa: E402
from tests.sshd.conftest import make_home  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # others' own

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def no_leaks() -> None:
    """Allow for the threads that dask and pyarrow keep for the process."""


@pytest.fixture
def files(sshd: Sshd) -> Iterator[SshFileSystem]:
    yield SshFileSystem(**sshd.connect_params)
    SshFileSystem.clear_instance_cache()
    api.default_cache().cleanup()


class Fixtures(abstract.AbstractFixtures):
    @pytest.fixture
    def fs(self, files: SshFileSystem) -> SshFileSystem:
        return files

    @pytest.fixture
    def fs_path(self, tmp_path: Path) -> str:
        (tmp_path / "there").mkdir()
        return str(tmp_path / "there")


class TestCopy(abstract.AbstractCopyTests, Fixtures):
    pass


class TestGet(abstract.AbstractGetTests, Fixtures):
    pass


class TestPut(abstract.AbstractPutTests, Fixtures):
    pass


if hasattr(abstract, "AbstractOpenTests"):  # not in fsspec's oldest releases

    class TestOpen(abstract.AbstractOpenTests, Fixtures):
        pass

    class TestPipe(abstract.AbstractPipeTests, Fixtures):
        pass


def test_importing_the_package_imports_no_fsspec() -> None:
    code = "import ssh_service, sys; ssh_service.Host; ssh_service.SshPath; print(*sys.modules)"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    said = subprocess.run([sys.executable, "-c", code], env=env, check=True, stdout=-1, timeout=60)
    assert "fsspec" not in said.stdout.decode().split()


def test_urls_name_the_host_and_the_path() -> None:
    strip, kwargs = SshFileSystem._strip_protocol, SshFileSystem._get_kwargs_from_urls
    assert kwargs("sshservice://deploy@web1:2222/srv/x") == {
        "host": "web1",
        "username": "deploy",
        "port": 2222,
    }
    assert kwargs("/srv/x") == {} == kwargs("sshservice:///srv")
    assert strip("sshservice://deploy@web1:2222/srv/x/") == "/srv/x" == strip("/srv/x")
    assert strip("ssh://web1/~/x") == "~/x" and strip("sftp://web1") == "/" == strip("/")
    assert strip(["sshservice://[fe80::1]/a", "b/"]) == ["/a", "b"]
    with pytest.raises(SshConfigError, match="a password cannot be part of it"):
        kwargs("sshservice://deploy:geheim@web1/srv")
    with pytest.raises(SshConfigError, match="key_filename"):
        SshFileSystem("web1", key_filename="x")
    web = SshFileSystem("web1", username="deploy", config=None)
    assert web.unstrip_protocol("/srv/x") == "sshservice://deploy@web1/srv/x"
    assert web.unstrip_protocol("x") == "sshservice://deploy@web1/~/x"
    assert web._strip_protocol(web.unstrip_protocol("x")) == "~/x"
    again = pickle.loads(pickle.dumps(web))
    assert again == web and again.ssh_host == web.ssh_host
    plain, secret = SshFileSystem("web1"), SshFileSystem("web1", password="geheim")
    assert SshFileSystem.from_json(plain.to_json()) == plain
    for write in (pickle.dumps, SshFileSystem.to_json):
        with pytest.raises(Exception, match="not picklable"):
            write(secret)
    assert "geheim" not in repr(secret)


def test_files_are_listed_read_and_replaced(files: SshFileSystem, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(bytes(range(100)))
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "loop").symlink_to(".")
    (tmp_path / "dangling").symlink_to("nothing")
    types = {Path(entry["name"]).name: entry["type"] for entry in files.ls(str(tmp_path))}
    assert types == {
        "folder": "directory",
        "file": "file",
        "link": "file",
        "loop": "link",
        "dangling": "link",
    }
    assert files.find(str(tmp_path)) == sorted(
        str(tmp_path / name) for name in ("file", "link", "loop", "dangling")
    )
    assert files.ls(str(tmp_path / "file"), detail=False) == [str(tmp_path / "file")]
    path = str(tmp_path / "file")
    assert files.info(path)["size"] == files.size(path) == 100 and files.isfile(path)
    assert files.modified(path).timestamp() == int((tmp_path / "file").stat().st_mtime)
    assert files.cat_file(path, 10, 20) == bytes(range(10, 20))
    assert files.cat_file(path, -5) == bytes(range(95, 100)) == files.tail(path, 5)
    assert files.cat_ranges([path] * 2, [0, 98], [2, 200]) == [b"\0\1", b"bc"]
    assert files.lexists(str(tmp_path / "dangling")) and not files.exists(
        str(tmp_path / "dangling")
    )
    with files.open(path, "rt", encoding="latin-1") as file:
        assert file.read(3) == "\0\1\2"
    files.mv(path, str(tmp_path / "folder"))
    assert (tmp_path / "folder" / "file").exists() and not (tmp_path / "file").exists()
    files.rm([str(tmp_path / "folder"), str(tmp_path / "loop")], recursive=True)
    assert sorted(os.listdir(tmp_path)) == ["dangling", "link"]
    with pytest.raises(FileNotFoundError):
        files.ls(str(tmp_path / "missing"))


def test_no_other_file_is_removed_and_none_is_emptied(
    files: SshFileSystem, tmp_path: Path
) -> None:
    """A name may look like a pattern; a copy of a file onto itself leaves it as it is."""
    for name in ("part[1]", "part1", "a*", "ab"):
        (tmp_path / name).write_text(name)
    files.rm([str(tmp_path / "part[1]"), f"{tmp_path}/a*"])
    assert sorted(os.listdir(tmp_path)) == ["ab", "part1"]
    (tmp_path / "link").symlink_to("ab")
    os.chmod(tmp_path / "ab", 0o640)
    for name in ("ab", "link"):
        files.cp_file(f"{tmp_path}/ab", f"{tmp_path}/{name}")
    files.cp_file(f"{tmp_path}/part1", f"{tmp_path}/link")
    assert (tmp_path / "ab").read_text() == "part1" and (tmp_path / "link").is_symlink()
    assert (tmp_path / "ab").stat().st_mode & 0o777 == 0o640
    files.rm(f"{tmp_path}/*")
    assert not os.listdir(tmp_path)


def test_transaction_replaces_files_at_its_end(files: SshFileSystem, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with files.transaction:
        with files.open(str(path), "wb") as file:
            file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["file"]
    with pytest.raises(ZeroDivisionError), files.transaction:
        with files.open(str(path), "wb") as file:
            file.write(b"newer")
        1 / 0
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["file"]


def test_lost_connection_is_no_missing_file(
    sshd: Sshd, tmp_path: Path, fault_proxy: Callable[..., FaultProxy]
) -> None:
    with fault_proxy(sshd) as proxy:
        files = SshFileSystem(**proxy.connect_params)
        for method in (files.exists, files.isdir, files.isfile, files.lexists):
            assert files.exists(str(tmp_path))
            proxy.limit_after(10, "to_server")
            with pytest.raises(ConnectionError):
                method(str(tmp_path))
            proxy.heal()
    SshFileSystem.clear_instance_cache()
    api.default_cache().cleanup()


def test_register_replaces_fsspecs_own_until_it_is_undone(sshd: Sshd, tmp_path: Path) -> None:
    assert fsspec.get_filesystem_class("sftp") is SFTPFileSystem
    with register():
        for name in ("ssh", "sftp"):
            assert fsspec.get_filesystem_class(name) is SshFileSystem
        strange = {**sshd.connect_params, "known_hosts": str(tmp_path / "empty")}
        host = strange.pop("host")
        (tmp_path / "empty").touch()
        with pytest.raises(SshHostKeyError):
            fsspec.open(f"sftp://{host}:{sshd.port}/etc/hosts", **strange).open()
    for name in ("ssh", "sftp"):
        assert fsspec.get_filesystem_class(name) is SFTPFileSystem
    undoing = register(["ssh"])
    assert fsspec.get_filesystem_class("sftp") is SFTPFileSystem
    undoing.close()
    with pytest.raises(SshConfigError, match="protocols: expected some of"):
        register(["http"])
    SshFileSystem.clear_instance_cache()
    api.default_cache().cleanup()


def test_installed_package_brings_the_protocol() -> None:
    from importlib.metadata import distribution

    points = {point.name: point.value for point in distribution("ssh-service").entry_points}
    if "sshservice" not in points:
        pytest.skip("the installed package is older than this checkout")
    assert points["sshservice"] == "ssh_service.fsspec:SshFileSystem"
    assert fsspec.get_filesystem_class("sshservice") is SshFileSystem


def test_the_pages_examples_run_as_they_stand(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """With pandas, a CSV file over there; with dask, a folder of parquet files."""
    for name in ("pandas", "dask.dataframe", "pyarrow"):
        if os.environ.get("SSH_SERVICE_REQUIRE_FSSPEC"):
            importlib.import_module(name)
        pytest.importorskip(name, reason=f"the examples with {name} need it")
    make_home(tmp_path, "web*", sshd, monkeypatch)
    (tmp_path / "tmp").mkdir()
    fsspec.register_implementation("sshservice", SshFileSystem, clobber=True)
    page = (ROOT / "docs" / "fsspec.md").read_text("utf-8")
    names: Dict[str, Any] = {"__name__": "example"}
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)):
        text = re.sub(r"/tmp/", f"{tmp_path}/tmp/", block)
        text = text.replace("deploy", sshd.username)
        exec(compile(text, f"fsspec.md, example {number}", "exec"), names)
    folder = f"{tmp_path}/tmp/sales"
    assert capsys.readouterr().out == f"60\n['{folder}/all.csv']\n60\n3\n"
    SshFileSystem.clear_instance_cache()
    api.default_cache().cleanup()
