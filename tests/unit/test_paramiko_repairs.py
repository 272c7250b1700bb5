"""docs/paramiko_repairs.md and the code agree: anchors, modules, tests, paramiko's functions."""

from __future__ import annotations

import ast
import functools
import importlib
import re
from pathlib import Path
from typing import Dict, NamedTuple, Set

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "paramiko_repairs.md"
# The modules of paramiko that hold the classes which the page names.
PARAMIKO = (
    "agent",
    "auth_handler",
    "buffered_pipe",
    "channel",
    "compress",
    "hostkeys",
    "packet",
    "pkey",
    "proxy",
    "transport",
)


class Repair(NamedTuple):
    """A section of the page."""

    paramiko: str
    repaired: str
    tests: str


def slug(heading: str) -> str:
    """Return the anchor that MyST and GitHub give a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def repairs() -> Dict[str, Repair]:
    found = {}
    for section in re.split(r"^### ", PAGE.read_text("utf-8"), flags=re.M)[1:]:
        heading, _, text = section.partition("\n")
        lines = dict(re.findall(r"^- \*\*(.*?):\*\*\s((?:.|\n  )*)", text, re.M))
        assert {"paramiko", "You see", "Repaired", "Tests"} <= set(lines), heading
        found[slug(heading)] = Repair(lines["paramiko"], lines["Repaired"], lines["Tests"])
    return found


REPAIRS = repairs()


@functools.lru_cache(maxsize=None)
def anchors_in_code() -> Dict[str, Set[str]]:
    """Return the anchors that the code refers to, and from which modules."""
    found: Dict[str, Set[str]] = {}
    for path in sorted((ROOT / "ssh_service").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for match in re.findall(
            r"paramiko_repairs\.md((?:(?: and )?#[\w-]+)+)", path.read_text("utf-8")
        ):
            for anchor in re.findall(r"#([\w-]+)", match):
                found.setdefault(anchor, set()).add(module)
    return found


def test_repairs_code_refers_to_sections_of_the_page() -> None:
    assert set(anchors_in_code()) <= set(REPAIRS)


@pytest.mark.parametrize("anchor", sorted(REPAIRS))
def test_repairs_page_names_the_modules_that_refer_to_it(anchor: str) -> None:
    named = set(re.findall(r"`(ssh_service(?:\.\w+)+)`", REPAIRS[anchor].repaired))
    assert named == anchors_in_code().get(anchor, set())


@functools.lru_cache(maxsize=None)
def functions_of(path: str) -> Set[str]:
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("anchor", sorted(REPAIRS))
def test_repairs_tests_exist(anchor: str) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", REPAIRS[anchor].tests)
    assert named
    for path, name in named:
        assert name in functions_of(path), f"{path} has no {name}"


@pytest.mark.parametrize("anchor", sorted(REPAIRS))
def test_repairs_functions_exist_in_the_installed_paramiko(anchor: str) -> None:
    modules = [importlib.import_module(f"paramiko.{name}") for name in PARAMIKO]
    for owner, name in re.findall(r"`([A-Z]\w+)\.(\w+)`", REPAIRS[anchor].paramiko):
        classes = [vars(module)[owner] for module in modules if owner in vars(module)]
        assert classes and hasattr(classes[0], name), f"paramiko has no {owner}.{name}"
