"""The plugin as its users meet it: in a pytest run of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ssh_service import local_sshd, pytest_plugin

ASKS_FOR_SSHD = "def test_it(sshd): pass"


@pytest.fixture
def without_sshd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytest_plugin, "find_sshd", lambda: None)
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


def test_importing_the_plugin_imports_nothing_beyond_its_needs() -> None:
    script = (
        "import sys; import ssh_service.pytest_plugin;"
        "print([name for name in ('mockssh', 'mlos_bench') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", script]).strip() == b"[]"


def test_mock_sshd_is_found_beside_the_others() -> None:
    assert pytest_plugin.MockSshd.__name__ == "MockSshd"
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        pytest_plugin.Nonsense


def test_no_sshd_without_a_key_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_sshd.shutil, "which", lambda name, path=None: None)
    assert local_sshd.find_sshd() is None


@pytest.mark.parametrize(
    "code, said",
    [
        (
            "threading.Thread(target=time.sleep, args=(6,), name='left', daemon=True).start()",
            "left",
        ),
        ("globals()['keep'] = socket.socket()", "socket:"),
    ],
)
def test_our_own_tests_may_leave_nothing(
    pytester: pytest.Pytester, request: pytest.FixtureRequest, code: str, said: str
) -> None:
    conftest = request.config.rootpath / "tests" / "conftest.py"
    pytester.makeconftest(conftest.read_text())
    pytester.makepyfile(f"import socket, threading, time\ndef test_it():\n    {code}\n")
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines([f"*the test left behind: *{said}*"])
