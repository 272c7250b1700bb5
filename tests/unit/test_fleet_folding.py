"""Hosts are folded to ranges, which stand for the same hosts."""

from __future__ import annotations

import random
from typing import Any, List

import pytest

from ssh_service import SshConfigError, fleet


@pytest.mark.parametrize(
    "hosts, folded",
    [
        ([], []),
        (["db"], ["db"]),
        (["web1", "web2", "web3", "db"], ["web[1-3]", "db"]),
        ([f"web{n:02}" for n in range(1, 41)], ["web[01-40]"]),
        (["web9", "web10", "web12"], ["web[9-10,12]"]),
        (["a1", "a01", "a2", "a02"], ["a[1-2,01-02]"]),
        (["web3", "web1", "web3"], ["web[1,3]"]),
        ([f"r{r}-n{n:02}" for r in (1, 2) for n in (1, 2, 3)], ["r[1-2]-n[01-03]"]),
        (["me@h1:22", "me@h2:22", "you@h1:22"], ["me@h[1-2]:22", "you@h1:22"]),
        (["10.0.0.1", "10.0.0.2", "::1", "[::2]:22"], ["10.0.0.[1-2]", "::1", "[::2]:22"]),
        (["x12345678901", "x12345678902"], ["x12345678901", "x12345678902"]),
    ],
)
def test_hosts_that_differ_in_a_number_are_folded(hosts: List[str], folded: List[str]) -> None:
    assert fleet.fold(hosts) == folded


def expanded(patterns: List[str]) -> List[str]:
    return sorted(host for pattern in patterns for host in fleet.expand(pattern))


def test_folded_hosts_expand_to_the_same_hosts() -> None:
    choose = random.Random(18).choice
    numbers = ["", "0", "1", "2", "3", "9", "10", "11", "00", "01", "09", "099", "100"]
    for _ in range(500):
        hosts = [
            f"{choose(['a', 'b', 'u1@a'])}{choose(numbers)}{choose(['-', 'x'])}{choose(numbers)}"
            f"{choose(['', ':22', ':23'])}"
            for _ in range(choose(range(12)))
        ]
        assert expanded(fleet.fold(hosts)) == sorted(set(hosts))


def test_many_scattered_hosts_fold_into_patterns_that_can_be_expanded() -> None:
    hosts = [f"web{number}" for number in range(0, 4000, 2)]
    assert expanded(fleet.fold(hosts)) == sorted(hosts)


@pytest.mark.parametrize("hosts", ["web1", b"web1", [1]])
def test_what_is_no_list_of_texts_is_refused(hosts: Any) -> None:
    with pytest.raises(SshConfigError, match="fold: .* text"):
        fleet.fold(hosts)
