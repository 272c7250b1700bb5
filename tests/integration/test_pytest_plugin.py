"""The plugin as its users meet it: in a pytest run of their own."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from ssh_service.testing import local_sshd, pytest_plugin

ASKS_FOR_SSHD = "def test_it(sshd): pass"


@pytest.fixture
def without_sshd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_sshd, "find_sshd", lambda: None)
    monkeypatch.delenv("SSH_SERVICE_REQUIRE_SSHD", raising=False)


@pytest.mark.usefixtures("without_sshd")
def test_without_an_sshd_its_tests_are_skipped_with_the_cure(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(ASKS_FOR_SSHD)
    result = pytester.runpytest_inprocess("-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*needs OpenSSH's sshd (Debian: apt install openssh-server)*"])


@pytest.mark.usefixtures("without_sshd")
def test_required_its_absence_is_an_error(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(ASKS_FOR_SSHD)
    pytester.runpytest_inprocess("--require-sshd").assert_outcomes(errors=1)


@pytest.mark.usefixtures("without_sshd")
@pytest.mark.parametrize("value, outcome", [("1", "errors"), ("0", "skipped"), ("", "skipped")])
def test_the_environment_can_require_it(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, value: str, outcome: str
) -> None:
    monkeypatch.setenv("SSH_SERVICE_REQUIRE_SSHD", value)
    pytester.makepyfile(ASKS_FOR_SSHD)
    pytester.runpytest_inprocess().assert_outcomes(**{outcome: 1})


def test_the_fixtures_need_no_import(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import socket

        def test_proxy_in_front_of_mock_server(mock_sshd, fault_proxy):
            proxy = fault_proxy(mock_sshd.host, mock_sshd.port)
            with socket.create_connection((proxy.host, proxy.port), timeout=5) as sock:
                sock.settimeout(5)
                assert sock.recv(4) == b"SSH-"
        """)
    pytester.runpytest_inprocess().assert_outcomes(passed=1)


def test_the_plugin_loads_nothing_before_a_test_asks_for_it() -> None:
    script = (
        "import sys; import ssh_service.testing.pytest_plugin;"
        "print(sorted(n for n in sys.modules if n.startswith('ssh_service'))"
        " + [n for n in ('paramiko', 'mockssh', 'mlos_bench', 'subprocess') if n in sys.modules])"
    )
    code = "import pytest, subprocess, sys; del sys.modules['subprocess'];" + script
    loaded = subprocess.check_output([sys.executable, "-c", code]).decode().strip()
    packages = ["ssh_service", "ssh_service._moved", "ssh_service.testing"]
    assert loaded == str([*packages, "ssh_service.testing.pytest_plugin"])


def test_a_service_is_configured_for_either_server(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import pytest
        from ssh_service import Status

        @pytest.fixture(params=["sshd", "mock_sshd"])
        def server(request):
            return request.getfixturevalue(request.param)

        def test_both_services(server, ssh_host_service, ssh_fileshare, tmp_path):
            host, share = ssh_host_service(server, ssh_max_output=2), ssh_fileshare(server)
            (tmp_path / "it").write_text("hi")
            share.upload(server.target, str(tmp_path / "it"), str(tmp_path / "there"))
            _, info = host.remote_exec([f"cat {tmp_path}/there"], server.target, {})
            status, results = host.get_remote_exec_results(info)
            assert (status, results["stdout"]) == (Status.SUCCEEDED, "hi")

        def test_a_cache_of_the_tests_own(server, ssh_cache):
            with ssh_cache.lease(server.connect_params):
                assert len(ssh_cache) == 1
        """)
    skipped = 2 if local_sshd.find_sshd() is None else 0
    # In a process of its own: cryptography cannot be loaded twice in one.
    pytester.runpytest_subprocess().assert_outcomes(passed=4 - skipped, skipped=skipped)


def test_mock_sshd_fixture_is_found() -> None:
    assert pytest_plugin.MockSshd.__name__ == "MockSshd"
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        pytest_plugin.Nonsense


def test_no_sshd_without_a_key_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    assert local_sshd.find_sshd() is None


@pytest.mark.parametrize(
    "code, said",
    [
        (
            "threading.Thread(target=time.sleep, args=(3,), name='left', daemon=True).start()",
            "left",
        ),
        ("globals()['keep'] = socket.socket()", "socket:"),
    ],
)
def test_our_own_tests_may_leave_nothing(
    pytester: pytest.Pytester,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    said: str,
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(request.config.rootpath))  # for `tests.common`
    conftest = (request.config.rootpath / "tests" / "conftest.py").read_text()
    assert "_PATIENCE = 10.0\n" in conftest
    pytester.makeconftest(conftest.replace("_PATIENCE = 10.0\n", "_PATIENCE = 0.2\n"))
    pytester.makepyfile(f"import socket, threading, time\ndef test_it():\n    {code}\n")
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines([f"*the test left behind: *{said}*"])


@pytest.mark.parametrize("option, outcome", [("--require-sshd", "errors"), ("-rs", "skipped")])
def test_require_sshd_also_requires_sftp_server(
    pytester: pytest.Pytester,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    outcome: str,
) -> None:
    monkeypatch.delenv("SSH_SERVICE_REQUIRE_SSHD", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    conftest = (request.config.rootpath / "tests" / "conftest.py").read_text()
    assert '"/usr/lib' in conftest
    pytester.makeconftest(conftest.replace('"/usr/lib', '"/nowhere/lib'))
    pytester.makepyfile("def test_it(sftp_server): pass")
    pytester.runpytest_inprocess(option).assert_outcomes(**{outcome: 1})
