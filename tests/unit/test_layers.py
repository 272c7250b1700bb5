"""Which modules may import which, read from the source without running it."""

from __future__ import annotations

import ast
import functools
import re
import sys
import typing
from pathlib import Path
from typing import Dict, Iterator, List, Set, Tuple

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "ssh_service"

# A module (or a folder of modules) of the package, and what it may import of the others.
LEAVES = {"errors", "interruptions", "secret", "patterns", "settings", "algorithms", "user_files"}
CONNECTING = {"connect", "transport", "params", "known_hosts", "errors"}
MAY_IMPORT: Dict[str, Set[str]] = {
    "locks": set(),
    "errors": set(),
    "interruptions": set(),
    "local_paths": {"interruptions"},
    "secret": set(),
    "patterns": set(),
    "user_files": set(),
    "socket_errors": set(),
    "algorithms": {"errors", "patterns"},
    "settings": {"errors", "secret", "user_files"},
    "ssh_config": {"errors", "patterns", "user_files"},
    "known_hosts": {"errors", "patterns", "algorithms", "user_files"},
    "params": {"known_hosts", "ssh_config", *LEAVES},
    "threads": {"interruptions"},
    "strands": {"threads"},
    "background": {"threads", "strands", "errors"},
    "events": set(),
    "event_trackers": {"events", "background", "errors"},
    "known_servers": set(),
    "transport": {"algorithms", "known_servers", "threads", "errors", "interruptions"},
    "connect": {
        "transport",
        "params",
        "known_hosts",
        "background",
        "socket_errors",
        *LEAVES,
    },
    "connections": {"connect", "transport", "params", "background", "events", "errors"},
    "commands": {
        "known_servers",
        "transport",
        "background",
        "threads",
        "events",
        "event_trackers",
        "errors",
        "secret",
    },
    "sessions": {
        "known_servers",
        "commands",
        "connections",
        "params",
        "transport",
        "background",
        "errors",
    },
    "copying": {"known_servers", "transport", "background", "errors", "interruptions", "settings"},
    "operations": {
        "background",
        "sessions",
        "copying",
        "commands",
        "connections",
        "params",
        "event_trackers",
        "errors",
    },
    "defaults": {"connections"},
    "copies": {
        "defaults",
        "operations",
        "commands",
        "copying",
        "connections",
        "params",
        "transport",
    },
    "api": {
        "copies",
        "defaults",
        "operations",
        "commands",
        "connections",
        "params",
        "transport",
        "errors",
    },
    "forwarding": {
        "socket_errors",
        "api",
        "connections",
        "params",
        "transport",
        "background",
        "threads",
        "events",
        "errors",
    },
    "jobs": {
        "api",
        "operations",
        "commands",
        "connections",
        "params",
        "transport",
        "background",
        "errors",
    },
    "services": {"settings", "errors"},
    "ssh_service": {"services", "connections", "params", "errors"},
    "ssh_host_service": {"ssh_service", "operations", "jobs", "services", "errors"},
    "ssh_fileshare": {"ssh_service", "operations", "services"},
    "fleet": {
        "_moved",
        "operations",
        "copying",
        "commands",
        "connections",
        "params",
        "transport",
        "background",
        "errors",
    },
    "readiness": {"api", "commands", "connections", "params", "errors"},
    "paths": {
        "api",
        "commands",
        "operations",
        "copying",
        "connections",
        "params",
        "transport",
        "background",
        "settings",
        "errors",
    },
    "host": {
        "api",
        "forwarding",
        "jobs",
        "paths",
        "readiness",
        "commands",
        "connections",
        "params",
    },
    "fsspec": {"paths", "host", "copying", "params", "errors"},
    "drop_in": {
        "user_files",
        "api",
        "sessions",
        "connections",
        "params",
        "transport",
        "background",
        "secret",
        "errors",
    },
    "paramiko": {"drop_in", "connections", "transport"},
    "otel": {"connections", "events", "api"},
    "testing": {"connections", "ssh_host_service", "ssh_fileshare"},
    "_moved": set(),
}
# The package's face, its commands, and what sits on top of everything.
ON_TOP = {"__init__", "__main__", "cli", "demo", "mlos_bench"}

# Which packages from outside the standard library a module may import.
OUTSIDE: Dict[str, Set[str]] = {
    "services": {"mlos_bench", "jsonschema"},
    "mlos_bench": {"mlos_bench", "jsonschema"},
    "testing": {"pytest", "mockssh", "paramiko"},
    "errors": {"paramiko"},
    "settings": set(),
    "ssh_service": set(),
    "ssh_host_service": set(),
    "ssh_fileshare": set(),
    "cli": {"click", "rich"},
    "fleet": {"distributed"},
    "fsspec": {"fsspec"},
    "otel": {"opentelemetry"},
    "demo": {"rich"},
}
THE_REST_MAY_USE = {"paramiko", "cryptography"}
ENGINE = {
    "api",
    "background",
    "commands",
    "connect",
    "connections",
    "copies",
    "defaults",
    "strands",
    "threads",
    "event_trackers",
    "events",
    "jobs",
    "known_servers",
    "operations",
    "sessions",
    "transport",
}


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].replace(".py", "")


def sources() -> List[Tuple[str, Path, ast.Module]]:
    paths = sorted(PACKAGE.rglob("*.py"))
    return [(layer_of(p), p, ast.parse(p.read_text(), str(p))) for p in paths]


SOURCES = sources()
LAYERS = sorted({layer for layer, _, _ in SOURCES})


@functools.lru_cache(maxsize=None)
def imported(path: Path, tree: ast.AST) -> Tuple[str, ...]:
    """Return the dotted names a module imports, wherever in it, relative ones made absolute."""
    return tuple(_imported(path, tree))


def _imported(path: Path, tree: ast.AST) -> Iterator[str]:
    package = ("ssh_service", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package[: len(package) - node.level + 1]
                base = ".".join(filter(None, (*parents, node.module)))
            for alias in node.names:
                yield f"{base}.{alias.name}"


def imports_of(layer: str) -> Tuple[Set[str], Set[str]]:
    """Return what a layer imports: other layers of the package, and roots from outside."""
    inside, outside = set(), set()
    for owner, path, tree in SOURCES:
        if owner != layer:
            continue
        for name in imported(path, tree):
            parts = name.split(".")
            if parts[0] != "ssh_service":
                outside.add(parts[0])
            elif len(parts) > 1 and parts[1] in LAYERS:
                inside.add(parts[1])
    return inside - {layer}, outside


@pytest.mark.parametrize("folder", ["copying", "copying/sftp", "copying/local", "paths"])
def test_inside_a_package_with_a_map_imports_go_up_in_it_only(folder: str) -> None:
    package = PACKAGE / folder
    text = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
    rows = re.findall(r"^([a-z_]+(?:, [a-z_]+)*)  +[a-z]", text, re.MULTILINE)
    order = [name for row in rows for name in row.split(", ")]
    modules = {path.stem for path in package.iterdir() if path.name[:2] != "__"}
    assert sorted(order) == sorted(modules)
    dotted = (PACKAGE.name, *folder.split("/"))
    for _, path, tree in SOURCES:
        if package not in path.parents or path.parent == package and path.stem == "__init__":
            continue
        own = path.relative_to(package).parts[0].replace(".py", "")
        for name in imported(path, tree):
            parts = tuple(name.split("."))
            other = parts[len(dotted)] if parts[: len(dotted)] == dotted else own
            assert other == own or order.index(other) < order.index(own), path


@pytest.mark.parametrize("folder", ["", "connections", "commands", "jobs", "transport"])
def test_map_in_contributing_names_every_module(folder: str) -> None:
    """Every module is in CONTRIBUTING's map."""
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
    begin = f"Inside `{folder}`:" if folder else "## Find your way"
    table = text[text.index(begin) :].split("|---|---|\n", 1)[1].split("\n\n", 1)[0]
    rows = [line.split(" | ")[0] for line in table.splitlines()]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    modules = {path.name.replace(".py", "") for path in (PACKAGE / folder).iterdir()}
    assert sorted(named) == sorted(name for name in modules if name[:1] != "_" and "." not in name)


def test_places_in_contributing_exist() -> None:
    """The table of "where something new goes" names files that exist, and names in them."""
    root = PACKAGE.parent
    text = (root / "CONTRIBUTING.md").read_text()
    table = text[text.index("## Where something new goes") : text.index("## Glossary")]
    paths = set(re.findall(r"`([\w/]+\.(?:py|md|cfg))`", table))
    folders = {path: root if (root / path).exists() else PACKAGE for path in paths}
    assert [path for path in paths if not (folders[path] / path).exists()] == []
    for names, path in re.findall(r"((?:`\w+`(?:, | and | or )?)+) in `([\w/]+\.py)`", table):
        source = (folders[path] / path).read_text()
        for name in re.findall(r"\w+(?=`)", names):
            assert re.search(rf"^(?:class |def )?{name}\b", source, re.MULTILINE), (name, path)


def standard_library() -> Set[str]:
    names = getattr(sys, "stdlib_module_names", None)  # Python 3.10 and later
    if names is None:
        pytest.skip("this Python has no list of its standard library")
    return set(names)


def defined_types(node: ast.AST) -> List[str]:
    """Return the names of the types that a statement defines: a class, ``Path = Union[...]``."""
    if isinstance(node, ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript):
        generic = node.value.value
        if isinstance(generic, ast.Name) and generic.id in vars(typing):
            return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return []


def test_no_two_classes_or_type_aliases_have_one_name() -> None:
    """A name that is met in a message, a signature or a search stands for one thing."""
    places: Dict[str, List[str]] = {}
    for _, path, tree in SOURCES:
        for node in ast.walk(tree):
            for name in defined_types(node):
                places.setdefault(name, []).append(str(path.relative_to(PACKAGE)))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_every_module_has_its_place_in_the_table() -> None:
    assert set(LAYERS) - set(MAY_IMPORT) - ON_TOP == set()


@pytest.mark.parametrize("layer", [layer for layer in LAYERS if layer in MAY_IMPORT])
def test_imports_go_one_way(layer: str) -> None:
    inside, _ = imports_of(layer)
    assert inside <= MAY_IMPORT[layer] | {"locks", "local_paths"}


def assert_no_cycles(table: Dict[str, Set[str]]) -> None:
    done: Set[str] = set()
    left = dict(table)
    while left:
        free = {module for module, needs in left.items() if needs <= done}
        assert free, f"a cycle among {sorted(left)}"
        done |= free
        left = {module: needs for module, needs in left.items() if module not in free}


def test_the_table_has_no_cycles() -> None:
    assert_no_cycles(MAY_IMPORT)


@pytest.mark.parametrize(
    "layer", sorted({layer for layer, path, _ in SOURCES if path.parent != PACKAGE})
)
def test_the_modules_of_a_folder_import_each_other_one_way(layer: str) -> None:
    trees = {path.stem: (path, tree) for owner, path, tree in SOURCES if owner == layer}
    table: Dict[str, Set[str]] = {}
    for module, (path, tree) in trees.items():
        # Not what is imported for its types alone, or by a function.
        imports = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
        names = {name for node in imports for name in imported(path, node)}
        parts = [name.split(".") for name in names if name.startswith(f"ssh_service.{layer}.")]
        table[module] = {part[2] for part in parts} & set(trees)
    assert_no_cycles(table)


@pytest.mark.parametrize("layer", LAYERS)
def test_packages_from_outside_enter_by_their_doors_only(layer: str) -> None:
    _, outside = imports_of(layer)
    foreign = outside - standard_library()
    assert foreign <= OUTSIDE.get(layer, THE_REST_MAY_USE)


def test_modules_never_import_the_packages_face() -> None:
    lazily = {"SshClient", "SshClientCache", "SshService", "SshHostService", "Service", "Status"}
    for layer, path, tree in SOURCES:
        if layer in ON_TOP:
            continue
        names = {name for name in imported(path, tree) if name.count(".") == 1}
        assert not {name.partition(".")[2] for name in names} & lazily, path


def paramiko_private_names() -> Set[str]:
    """Collect the private attributes that paramiko's connection classes give their objects."""
    paramiko = pytest.importorskip("paramiko")
    folder = Path(paramiko.__file__).parent
    names = set()
    for module in ("transport", "channel", "packet", "sftp_client", "sftp", "auth_handler"):
        text = (folder / f"{module}.py").read_text()
        names |= set(re.findall(r"\bself\.(_[a-z]\w*)", text))
        names |= set(re.findall(r"\bdef (_[a-z]\w*)", text))
    return names


def test_only_the_transport_touches_paramikos_private_parts() -> None:
    private = paramiko_private_names()
    for layer, path, tree in SOURCES:
        if layer == "transport" or path.stem == "mock_sshd":
            continue
        own = set(re.findall(r"\b(?:self\.|def )(_[a-z]\w*)", path.read_text()))
        touched = {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and node.attr in private - own
            and not (isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"})
        }
        assert not touched, path


@pytest.mark.parametrize("layer", sorted(ENGINE & set(LAYERS)))
def test_the_engine_reads_the_monotonic_clock_only(layer: str) -> None:
    """No wait depends on a clock that may jump."""
    for owner, path, tree in SOURCES:
        if owner != layer:
            continue
        wall = [
            node.lineno
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and (node.value.id, node.attr) in {("time", "time"), ("datetime", "now")}
        ]
        assert not wall, path
        assert "time.time" not in set(imported(path, tree)), path


@pytest.mark.parametrize("name", ["SshClientCache", "SshHostService"])
def test_shared_classes_state_their_thread_safety_and_guarantees(name: str) -> None:
    import ssh_service

    text = getattr(ssh_service, name).__doc__
    assert "Thread safety" in text and "Guarantees" in text
