"""The demonstration on a real server."""

from __future__ import annotations

import pytest

from ssh_service import demo
from ssh_service.local_sshd import Sshd


def test_every_step_holds_on_a_real_server(
    sshd: Sshd, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"known_hosts": sshd.known_hosts, "config": None}
    plain = demo.connect_params
    monkeypatch.setattr(demo, "connect_params", lambda options: {**plain(options), **known})
    address = f"{sshd.username}@{sshd.host}:{sshd.port}"
    status = demo.main(["--host", address, "--key", sshd.client_key])
    shown = capsys.readouterr().out
    assert status == 0, shown
    assert "120 files there and back, 0 differ" in shown
    assert "All of it held" in shown


def test_a_server_whose_key_is_not_known_is_refused(
    sshd: Sshd, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: str
) -> None:
    empty = f"{tmp_path}/known_hosts"
    open(empty, "w").close()
    plain = demo.connect_params
    monkeypatch.setattr(
        demo, "connect_params", lambda options: {**plain(options), "known_hosts": empty}
    )
    address = f"{sshd.username}@{sshd.host}:{sshd.port}"
    assert demo.main(["--host", address, "--key", sshd.client_key]) == 1
    assert "host key" in capsys.readouterr().err
