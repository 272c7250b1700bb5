"""`cwd=`: a script runs in its folder, or nothing runs; in any login shell, by any way."""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

from ssh_service import Host, SshClientCache, fleet, run, start, start_job
from ssh_service.errors import SshCwdError, SshCwdNotFoundError
from ssh_service.testing.pytest_plugin import Sshd
from tests.common import PATIENCE, skip_without_terminals
from tests.servers import Dropbear, find_shell, sshd_with_shell
from tests.sshd import jobs
from tests.unit.command_line import in_process

# What any of the shells takes for something else than a character of a name.
ODD = 'it\'s a\\b !x $HOME `id` "q" * ~ -n ü'

Web = Dict[str, Any]


@contextlib.contextmanager
def login_shell(shell: str, folder: Path) -> Iterator[Web]:
    if shell == "user's":
        with Sshd(folder) as sshd:
            yield sshd.connect_params
    elif shell == "dropbear":
        with Dropbear(folder, find_shell("dash")) as dropbear:
            yield dropbear.connect_params
    else:
        with sshd_with_shell(folder, find_shell(shell)) as sshd:
            yield sshd.connect_params


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    folder = tmp_path / "folders" / ODD
    folder.mkdir(parents=True)
    return folder


def ways(shell: str) -> List[Dict[str, Any]]:
    """Return options by which a script reaches the server in other ways."""
    other: List[Dict[str, Any]] = [{"shell": "/bin/sh"}, {"shell": "/bin/sh", "env": {"A": "b"}}]
    if shell not in ("tcsh", "fish"):  # long scripts and variables need a POSIX shell
        other.append({"env": {"A": "b"}, "stdin": "input"})
    return [{}, {"stdin": "input"}, *other]


def test_restricted_login_shell_runs_nothing_elsewhere(
    tmp_path: Path, cache: SshClientCache
) -> None:
    """It refuses `cd`, `/bin/sh` and `exec`, and would go on with the next line."""
    rbash = tmp_path / "rbash"
    rbash.symlink_to(find_shell("bash"))
    with sshd_with_shell(tmp_path, str(rbash)) as sshd:
        common: Dict[str, Any] = {"cache": cache, "timeout": PATIENCE}
        assert run(sshd.connect_params, "cd /", **common).exit_status == 1  # it is restricted
        for options in ({}, {"stdin": "input"}, {"env": {"A": "b"}}):
            for cwd in ("/", "/gone", "~nobody-of-this-name/x"):
                with pytest.raises(SshCwdError, match="shell is restricted; nothing was run"):
                    run(sshd.connect_params, "echo elsewhere", cwd=cwd, **options, **common)


@pytest.mark.parametrize("shell", ["user's", "dash", "bash", "zsh", "tcsh", "fish", "dropbear"])
def test_cwd_is_entered_in_any_login_shell_or_nothing_runs(
    shell: str, tmp_path: Path, odd: Path, cache: SshClientCache
) -> None:
    """The output has the script's own bytes alone, whatever characters the path has."""
    file, gone, witness = tmp_path / "file", odd / "gone", tmp_path / "witness"
    file.write_text("")
    with login_shell(shell, tmp_path) as web:
        for options in ways(shell):
            script = "pwd" if "stdin" not in options else "pwd; cat"
            done = run(web, script, cwd=odd, cache=cache, timeout=PATIENCE, **options)
            assert done.stdout == f"{odd}\n{options.get('stdin', '')}", options
            assert (done.stderr, done.exit_status, done.command) == ("", 0, script)
            for path, cls, code in (
                (gone, SshCwdNotFoundError, errno.ENOENT),
                (file, SshCwdError, errno.ENOTDIR),
            ):
                with pytest.raises(cls) as caught:
                    run(
                        web, f"touch {witness}", cwd=path, cache=cache, timeout=PATIENCE, **options
                    )
                error = caught.value
                assert (error.errno, error.filename, error.ended) == (code, str(path), True)
                assert error.process is not None and ":missing>" not in error.process.stderr
                assert f"cwd {str(path)!r}" in str(error) and "nothing was run" in str(error)
            assert not witness.exists()
        args = run(web, args=["pwd"], cwd=odd, cache=cache, timeout=PATIENCE)
        assert args.stdout == f"{odd}\n"


@pytest.mark.parametrize("shell", ["dash", "bash", "zsh", "tcsh", "fish"])
def test_cwd_of_a_home_directory_is_expanded(
    shell: str, tmp_path: Path, cache: SshClientCache
) -> None:
    """An unknown user has no folder, whatever the shell makes of it."""
    with login_shell(shell, tmp_path) as web:
        home = run(web, "pwd", cache=cache, timeout=PATIENCE).stdout
        (Path(home.strip()) / "my folder").mkdir()
        for path, place in (
            ("~", home),
            ("~root", home),
            ("~/my folder", f"{home.strip()}/my folder\n"),
            ("~root/my folder/..", home),
        ):
            assert run(web, "pwd", cwd=path, cache=cache, timeout=PATIENCE).stdout == place
        for path in ("~no-such-user", "~no-such-user/x", "~/no such folder"):
            with pytest.raises(SshCwdNotFoundError):
                run(web, "touch ~/witness", cwd=path, cache=cache, timeout=PATIENCE)
        assert not (Path(home.strip()) / "witness").exists()


def test_cwd_of_csh_that_vanishes_meanwhile_runs_nothing(
    tmp_path: Path, odd: Path, cache: SshClientCache
) -> None:
    """That shell goes on with the next line after a `cd` that failed."""
    other = tmp_path / "other"
    other.mkdir()
    with login_shell("tcsh", tmp_path) as web:
        home = Path(run(web, "pwd", cache=cache, timeout=PATIENCE).stdout.strip())
        (home / ".cshrc").write_text(f"alias cd 'chdir {other}'\n")
        with pytest.raises(SshCwdError, match="may not be entered"):
            run(web, f"touch {tmp_path}/witness", cwd=odd, cache=cache, timeout=PATIENCE)
    assert not (tmp_path / "witness").exists()


def test_cwd_that_may_not_be_entered_is_an_error(
    sshd: Sshd, tmp_path: Path, cache: SshClientCache
) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may enter every folder")
    tmp_path.chmod(0)
    try:
        with pytest.raises(SshCwdError, match="may not be entered") as caught:
            run(sshd.connect_params, "true", cwd=tmp_path, cache=cache, timeout=PATIENCE)
        assert caught.value.errno == errno.EACCES
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("more", [{}, {"env": {"A": "b"}}, {"stdin": "input\n"}], ids=str)
def test_cwd_with_a_terminal_shows_no_mark(
    sshd: Sshd, odd: Path, more: Dict[str, Any], cache: SshClientCache
) -> None:
    skip_without_terminals()
    web = sshd.connect_params
    done = run(web, "pwd; exit 3", cwd=odd, pty=True, cache=cache, timeout=PATIENCE, **more)
    assert done.stdout.replace("input\r\n", "") == f"{odd}\r\n" and done.exit_status == 3
    with pytest.raises(SshCwdNotFoundError) as caught:
        run(web, "echo on", cwd=odd / "x", pty=True, cache=cache, timeout=PATIENCE, **more)
    assert caught.value.process is not None
    assert (
        ":missing>" not in caught.value.process.stdout
        and "on\r\n" not in caught.value.process.stdout
    )


def test_cwd_works_alike_in_start_hosts_fleets_and_the_command_line(
    sshd: Sshd, odd: Path, cache: SshClientCache
) -> None:
    web, gone = sshd.connect_params, odd / "gone"
    with start(web, "pwd", cwd=odd, cache=cache) as process:
        assert list(process.lines()) == [f"{odd}\n"]
    with start(web, "pwd", cwd=gone, cache=cache) as process:
        with pytest.raises(SshCwdNotFoundError):
            list(process.lines())
    assert Host(web, cache=cache).run("pwd", cwd=odd).stdout == f"{odd}\n"
    (good,) = fleet.run([web], "pwd", cwd=odd, timeout=PATIENCE)
    (bad,) = fleet.run([web], "pwd", cwd=gone, timeout=PATIENCE)
    assert good.stdout == f"{odd}\n"
    assert isinstance(bad.error, SshCwdNotFoundError) and bad.sent
    again = pickle.loads(pickle.dumps(bad.error))
    assert (type(again), again.errno, str(again)) == (
        SshCwdNotFoundError, errno.ENOENT, str(bad.error),
    )  # fmt: skip
    options = ["-H", f"{sshd.host}:{sshd.port}", "-i", str(sshd.client_key), "--host-key", "off"]
    if sshd.username:
        options += ["-l", sshd.username]
    done = in_process("run", *options, "-F", "none", "--cwd", str(odd), "--", "pwd")
    assert done.stdout.endswith(f"{odd}\n") and done.returncode == 0
    done = in_process("run", *options, "-F", "none", "--cwd", str(gone), "--", "pwd")
    assert (done.stdout, done.returncode) == ("", 1) and "does not exist" in done.stderr


def test_cwd_without_a_script_looks_for_the_folder_all_the_same(
    sshd: Sshd, odd: Path, cache: SshClientCache
) -> None:
    assert run(sshd.connect_params, "", cwd=odd, cache=cache, timeout=PATIENCE).exit_status == 0
    with pytest.raises(SshCwdNotFoundError):
        run(sshd.connect_params, "", cwd=odd / "gone", cache=cache, timeout=PATIENCE)


def test_time_out_of_a_command_in_a_folder_is_a_time_out(
    sshd: Sshd, odd: Path, cache: SshClientCache
) -> None:
    with pytest.raises(TimeoutError) as caught:
        run(sshd.connect_params, "echo on; exec sleep 60", cwd=odd, cache=cache, timeout=1.5)
    assert getattr(caught.value, "ended", None) is True


def test_cwd_of_a_job_may_be_another_users_home(
    job_host: jobs.JobHost, tmp_path: Path, cache: SshClientCache
) -> None:
    """As for `run`; a name that no user has is a folder's."""
    home = os.path.expanduser("~root")
    if os.geteuid() != 0:
        pytest.skip("needs root, who may enter that folder")
    job = start_job(job_host.web, "pwd", cwd="~root/..", cache=cache)
    assert job.result(PATIENCE).stdout == f"{os.path.realpath(os.path.dirname(home))}\n"
    job.remove()
