"""Jump hosts through the cache: each hop a leased connection of it, under its own trust."""

from __future__ import annotations

import socket
import time
from typing import Any, Callable, Dict, List, Tuple

import pytest

from ssh_service import SshClient, SshClientCache, operations, run
from ssh_service.errors import SshAuthError, SshConnectError, SshConnectionLost, SshHostKeyError
from ssh_service.testing.local_sshd import Sshd
from tests.common import PATIENCE, eventually


@pytest.fixture
def three(sshd_factory: Callable[..., Sshd]) -> Tuple[Sshd, Sshd, Sshd]:
    """Return two jump hosts and a destination."""
    return sshd_factory(), sshd_factory(), sshd_factory()


def through(target: Sshd, *hops: Sshd) -> Dict[str, Any]:
    """Return parameters for a destination behind hops, the last of them nearest to it."""
    given = target.connect_params
    if hops:
        given["tunnel"] = through(hops[-1], *hops[:-1])
    return given


def test_two_hops_are_gone_through_and_each_is_dialled_once(
    three: Tuple[Sshd, Sshd, Sshd], cache: SshClientCache
) -> None:
    first, second, last = three
    web = through(last, first, second)
    assert run(web, "echo there", cache=cache, timeout=PATIENCE).stdout == "there\n"
    assert run(through(second, first), "echo hop", cache=cache, timeout=PATIENCE).stdout == "hop\n"
    assert run(first.connect_params, "echo near", cache=cache, timeout=PATIENCE).stdout
    assert [server.logins() for server in three] == [1, 1, 1]
    assert len(cache) == 3


def test_many_callers_behind_one_hop_share_it(
    three: Tuple[Sshd, Sshd, Sshd], cache: SshClientCache
) -> None:
    hop, one, other = three
    futures = [
        operations.submit(cache, through(target, hop), f"echo {number}", timeout=PATIENCE)
        for number in range(10)
        for target in (one, other)
    ]
    assert [future.result(PATIENCE).stdout for future in futures] == [
        f"{number}\n" for number in range(10) for _ in range(2)
    ]
    assert [server.logins() for server in three] == [1, 1, 1]


def test_a_hop_in_use_never_expires(three: Tuple[Sshd, Sshd, Sshd], cache: SshClientCache) -> None:
    hop, target, _ = three
    operations.submit(
        cache, hop.connect_params, "true", timeout=PATIENCE, idle_timeout=0.2
    ).result(PATIENCE)
    process = operations.submit(cache, through(target, hop), "sleep 1; echo end", timeout=PATIENCE)
    assert process.result(PATIENCE).stdout == "end\n"
    assert hop.logins() == 1


def test_lost_jump_host_loses_its_connections_and_all_redial(
    three: Tuple[Sshd, Sshd, Sshd], cache: SshClientCache
) -> None:
    hop, target, _ = three
    web = through(target, hop)
    future = operations.submit(cache, web, "sleep 20")
    eventually(lambda: "Starting session: command" in target.log(), "the command begins")
    hop.cut()
    assert isinstance(future.exception(PATIENCE), SshConnectionLost)
    assert run(web, "echo again", cache=cache, timeout=PATIENCE).stdout == "again\n"


def test_a_hop_is_trusted_by_its_own_known_hosts(
    three: Tuple[Sshd, Sshd, Sshd], cache: SshClientCache, tmp_path: Any
) -> None:
    hop, target, _ = three
    empty = tmp_path / "known_hosts"
    empty.write_text("")
    web = through(target, hop)
    web["tunnel"]["known_hosts"] = str(empty)
    with pytest.raises(SshHostKeyError) as caught:
        run(web, "true", cache=cache, timeout=PATIENCE)
    assert target.logins() == 0 and hop.logins() == 0
    named = f"{hop.host}:{hop.port} (jump host of {target.host}): host key of "
    assert named in str(caught.value)


def test_an_error_of_a_jump_host_says_whose_it_is(
    three: Tuple[Sshd, Sshd, Sshd], cache: SshClientCache
) -> None:
    """Of two hops, the one that fails; its connection id alone looks like any host's."""
    first, second, last = three
    web = through(last, first, second)
    web["host"], web["known_hosts"] = "web1", None
    with socket.create_server(("127.0.0.1", 0)) as sock:
        web["tunnel"]["tunnel"]["port"] = closed = sock.getsockname()[1]
    with pytest.raises(SshConnectError) as caught:
        run(web, "true", cache=cache, timeout=PATIENCE)
    assert f":{closed} (jump host of {second.host}): " in str(caught.value)
    assert str(caught.value).count("jump host of") == 1
    web["tunnel"]["tunnel"]["port"] = first.port
    web["tunnel"]["client_keys"] = None
    with pytest.raises(SshAuthError, match=rf":{second.port} \(jump host of web1\): "):
        run(web, "true", cache=cache, timeout=PATIENCE)


def test_a_dead_hop_ends_within_the_callers_one_time_out(
    three: Tuple[Sshd, Sshd, Sshd], cache: SshClientCache
) -> None:
    hop, target, _ = three
    hop.freeze(listener=True)
    try:
        web = {**through(target, hop), "connect_timeout": 1.0}
        began = time.monotonic()
        with pytest.raises(SshConnectError):
            run(web, "true", cache=cache)
        assert time.monotonic() - began < 2 * 1.0 + 1
    finally:
        hop.thaw()
        cache.cleanup()


def test_closing_the_cache_leaves_no_hop_behind(
    three: Tuple[Sshd, Sshd, Sshd], cache: SshClientCache
) -> None:
    first, second, last = three
    run(through(last, first, second), "true", cache=cache, timeout=PATIENCE)
    cache.cleanup()
    seen: List[int] = []
    eventually(
        lambda: not any(server.session_pids() for server in three), f"all sessions end {seen}"
    )


def test_closing_the_cache_is_no_loss_of_what_goes_through_a_hop(
    three: Tuple[Sshd, Sshd, Sshd],
) -> None:
    """Also where the hop is older than the connection through it."""
    hop, target, _ = three
    told: List[Any] = []

    class Client(SshClient):
        def connection_lost(self, exc: Any) -> None:
            told.append(exc)

    cache = SshClientCache(client_factory=Client)
    run(hop.connect_params, "true", cache=cache, timeout=PATIENCE)
    run(through(target, hop), "true", cache=cache, timeout=PATIENCE)
    cache.cleanup()
    eventually(lambda: len(told) == 2, "both are told")
    assert told == [None, None]
