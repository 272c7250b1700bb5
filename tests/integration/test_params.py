"""Destinations, resolved; the referee is `ssh -G`."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.keys import needs_ssh
from tests.unit.test_params import configured


@pytest.fixture(autouse=True)
def home(user_home: Path) -> Path:
    return user_home


@needs_ssh
@pytest.mark.parametrize(
    "lines",
    [
        "ProxyJump none\nProxyCommand nc a\n",
        "ProxyJump NONE\nProxyCommand nc a\nProxyCommand nc b\n",
        "ProxyCommand none\nProxyJump one\n",
        "ProxyJump one\nProxyCommand nc a\n",
        "ProxyCommand nc a\nProxyJump none\n",
        "ProxyJump none\nProxyJump one\n",
        "ProxyJump none\nProxyJump one\nProxyCommand nc a\n",
        "ProxyJump none\nProxyCommand none\nProxyJump one\n",
    ],
)
def test_route_is_the_one_that_ssh_takes(home: Path, tmp_path: Path, lines: str) -> None:
    lines = "Host web\n" + lines
    found = configured(home, lines)
    (tmp_path / "config").write_text(lines)
    said = subprocess.run(
        ["ssh", "-G", "-F", str(tmp_path / "config"), "web"],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ).stdout
    theirs = dict(line.partition(" ")[::2] for line in said.splitlines())
    if lines.lower().startswith("host web\nproxyjump none") and "proxycommand" not in theirs:
        about = subprocess.run(["ssh", "-V"], stderr=subprocess.PIPE, text=True).stderr
        if about.startswith("OpenSSH_8."):
            pytest.skip("ssh 8 had ProxyJump none take away ProxyCommand; newer ones do not")
    jump = theirs.get("proxyjump", "none")
    assert (jump != "none") == (found.tunnel is not None)
    if found.tunnel is None:
        command = theirs.get("proxycommand", "none")
        assert (found.proxy_command or "none") == command
