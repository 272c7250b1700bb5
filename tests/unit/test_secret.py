"""The wrapper around secrets, and the patterns of ssh."""

from __future__ import annotations

import copy
import pickle
import random
import time

import pytest

from ssh_service.patterns import is_match, is_match_list
from ssh_service.secret import Secret

MARKER = "a-marker-that-must-not-show"


@pytest.mark.parametrize("value", [MARKER, MARKER.encode(), MARKER + "\udcff", b"\xff" + b"x"])
def test_a_secret_comes_back_whole_and_shows_nowhere(value: "str | bytes") -> None:
    secret = Secret(value)
    shown = f"{secret} {secret!r} {secret!s:>10}" + "%s %r" % (secret, secret) + str([secret])
    assert "marker" not in shown and "***" in shown
    assert not hasattr(secret, "__dict__")
    as_bytes = value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
    assert secret.reveal_bytes() == as_bytes
    assert secret.reveal().encode("utf-8", "surrogateescape") == as_bytes
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="not picklable.*: name a key file, pass a function"):
            pickle.dumps(secret, protocol)
    assert copy.copy(secret) is secret and copy.deepcopy([secret])[0] is secret


def test_equal_secrets_are_equal_and_others_are_not() -> None:
    assert Secret("x") == Secret(b"x") and hash(Secret("x")) == hash(Secret(b"x"))
    assert Secret("x") != Secret("y") and Secret("x") != "x"
    assert Secret("x") and not Secret("")


@pytest.mark.parametrize(
    "text, pattern, matches",
    [
        ("web", "web", True),
        ("web", "we", False),
        ("web", "w*", True),
        ("web", "*", True),
        ("web", "***", True),
        ("", "*", True),
        ("", "", True),
        ("web", "", False),
        ("web", "w?b", True),
        ("wb", "w?b", False),
        ("[web]:22", "[web]:22", True),
        ("w", "[web]", False),
        ("a.b.c", "*.b.*", True),
        ("abab", "*ab", True),
    ],
)
def test_a_pattern_matches_the_whole_text(text: str, pattern: str, matches: bool) -> None:
    assert is_match(text, pattern) is matches


def test_patterns_mean_what_the_regular_expression_means() -> None:
    import re

    rng = random.Random(1)
    for _ in range(3000):
        text = "".join(rng.choice("ab") for _ in range(rng.randrange(8)))
        pattern = "".join(rng.choice("ab?*") for _ in range(rng.randrange(6)))
        expression = pattern.replace("?", ".").replace("*", ".*")
        assert is_match(text, pattern) == bool(re.fullmatch(expression, text)), (text, pattern)


def test_a_hostile_pattern_takes_no_time() -> None:
    started = time.monotonic()
    assert not is_match("a" * 1000, "*a" * 500 + "b")
    assert time.monotonic() - started < 1


def test_a_negated_pattern_forbids_the_list() -> None:
    assert is_match_list("web", ["w*", "!db"])
    assert not is_match_list("web", ["w*", "!web"])
    assert not is_match_list("web", ["!db"])
