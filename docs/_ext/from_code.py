"""
Parts of the pages that are generated from the code.

``{from-code} NAME``
    A table: ``connect-parameters``, ``service-settings``, ``host-settings``,
    ``file-share-settings``, ``call-settings``; ``servers``, what was found with each server; of
    the benchmarks, what `figures` makes.
``{error-class} NAME``
    The description of an error, from its docstring.  The build fails if an error has none.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Set

import astroid
import figures
from docutils import nodes
from docutils.statemachine import StringList
from numpydoc.docscrape import NumpyDocString
from pygments.lexers import JavascriptLexer
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import ssh_service
from ssh_service import errors, params
from ssh_service.services import settings

SERVERS = Path(__file__).resolve().parents[1] / "servers.json"

OURS = "ssh_service"

# Public names that the reference lacks: mlos_bench's if it is installed, or not objects.
_NOT_OURS = {"FileShareService", "Service", "Status", "__version__"}
# Classes whose bases are not for users; the reference shows what they inherit as their own.
_WITH_BASES = {"ssh_service.paths.path.SshPath"}

# Where the map of a package's modules begins in its docstring; it is for its developers.
_MAP = re.compile(r"\n\n(?:From the bottom up;|\| module \|).*\Z", re.DOTALL)
# The longest word of code that is not broken at its hyphens, in characters.
_SHORT = 24

_log = logging.getLogger(__name__)


def _settings(settings: Mapping[str, settings.Setting]) -> Iterator[str]:
    rows = ((f"`{name}`", one.may_be, one.default) for name, one in settings.items())
    return figures.table(("name", "value", "default"), rows)


def _connect_parameters() -> Iterator[str]:
    return figures.table(
        ("name", "meaning"),
        ((f"`{name}`", meaning) for name, meaning in params.SETTINGS.items()),
    )


def _servers() -> Iterator[str]:
    report = json.loads(SERVERS.read_text("utf-8"))
    servers = report["servers"]
    for server in servers:
        yield f"- **{server['name']}**: {server['version']}"
    yield ""
    rows = (
        (check, *(server["outcomes"][check] for server in servers)) for check in report["checks"]
    )
    yield from figures.table(("", *(server["name"] for server in servers)), rows)
    limits = [
        f"- {server['name']}, {check}: {reason}"
        for server in servers
        for check, reason in server["limits"].items()
    ]
    if limits:
        yield ""
        yield "The limits of servers' own:"
        yield ""
        yield from limits
    yield ""
    yield f"Checked on {report['checked']}."


_TABLES = {
    **figures.TABLES,
    "call-settings": lambda: _settings(settings.PER_CALL),
    "connect-parameters": _connect_parameters,
    "file-share-settings": lambda: _settings(settings.FILE_SHARE),
    "host-settings": lambda: _settings(settings.HOST),
    "servers": _servers,
    "service-settings": lambda: _settings(settings.COMMON),
}


class _Made(SphinxDirective):
    """A directive whose content is generated Markdown."""

    required_arguments = 1

    def lines(self, name: str) -> Iterable[str]:
        raise NotImplementedError

    def run(self) -> List[nodes.Node]:
        made = nodes.container()
        lines = StringList(list(self.lines(self.arguments[0])), source=__file__)
        self.state.nested_parse(lines, self.content_offset, made)
        for table in made.findall(nodes.table):
            table["classes"].append(self.arguments[0])
        return made.children


class FromCode(_Made):
    """See the module."""

    def lines(self, name: str) -> Iterable[str]:
        """Make one of the tables."""
        if name.startswith("benchmark-"):
            self.env.note_dependency(str(figures.FIGURES))
        return _TABLES[name]()


class ErrorClass(_Made):
    """See the module."""

    def lines(self, name: str) -> Iterator[str]:
        """Describe an error as its docstring does."""
        _described(self.env).add(name)
        kind = getattr(errors, name)
        said = NumpyDocString(kind.__doc__)
        bases = ", ".join(f"`{base.__name__}`" for base in kind.__bases__)
        yield f"Also: {bases}."
        yield ""
        text = " ".join([*said["Summary"], *said["Extended Summary"]])
        yield text.replace("``", "`")
        yield ""
        for attribute in said["Attributes"]:
            meaning = " ".join(attribute.desc).replace("``", "`")
            yield f"- `{attribute.name}`: {meaning}"


def _described(env: BuildEnvironment) -> Set[str]:
    if not hasattr(env, "described_errors"):
        env.described_errors = set()
    found: Set[str] = env.described_errors
    return found


def _forget_none(app: Sphinx, env: BuildEnvironment) -> None:
    public = {name for name in errors.__all__ if isinstance(getattr(errors, name), type)}
    for name in sorted(public - _described(env)):
        _log.warning("no page says what to do about %s: add it to errors.md", name)
    described = {*env.domaindata["py"]["objects"], *app.config.internal_names}
    for name in ssh_service.__all__:
        if f"{OURS}.{name}" not in described and name not in _NOT_OURS:
            _log.warning("the reference does not have %s", name)
    for module in (*app.config.public_modules, f"{OURS}.jobs"):
        for name in _exported(module):
            if not {f"{module}.{name}", f"{OURS}.{name}"} & described and name not in _NOT_OURS:
                _log.warning("the reference does not have %s.%s", module, name)


def _exported(name: str) -> Iterator[str]:
    """List the public classes and functions of a module, if what it needs is installed."""
    try:
        module = importlib.import_module(name)
    except ImportError:
        return
    for each in getattr(module, "__all__", ()):
        found = getattr(module, each)
        if inspect.isroutine(found) or inspect.isclass(found):
            if found.__module__.startswith(f"{OURS}."):
                yield each


def _skip_private(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool:
    """Leave out of the reference what is not for users: modules, and names of public modules."""
    if what in ("module", "package"):
        return name not in app.config.public_modules
    return skip or name in app.config.internal_names


def _unfold(module: astroid.nodes.Module) -> None:
    """List the names that the package loads lazily first in the reference, verbs before others."""
    if module.name != OURS:
        return
    for node in module.body:
        if isinstance(node, astroid.nodes.If) and node.test.as_string() == "TYPE_CHECKING":
            module.body = [*reversed(node.body), *module.body]
            return


def _merge_bases(cls: astroid.nodes.ClassDef) -> None:
    """Show a class with the methods of its bases, the nearest first."""
    if cls.qname() not in _WITH_BASES:
        return
    for base in cls.ancestors():
        if base.root().name.startswith(f"{OURS}."):
            known = {getattr(node, "name", None) for node in cls.body}
            cls.body += [
                node
                for node in base.body
                if isinstance(node, astroid.nodes.FunctionDef) and node.name not in known
            ]


def _prepare(module: astroid.nodes.Module) -> None:
    if module.name.startswith(f"{OURS}.") and module.doc_node is not None:
        module.doc_node.value = _MAP.sub("\n", module.doc_node.value)
    _unfold(module)


def _mark_short_code(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Let the style sheet keep options such as ``--dry-run`` on one line."""
    for code in doctree.findall(nodes.literal):
        if max(map(len, code.astext().split()), default=0) <= _SHORT:
            code["classes"].append("short")


def setup(app: Sphinx) -> Dict[str, Any]:
    """Register the directives with Sphinx."""
    app.add_config_value("public_modules", (), "env")
    app.add_config_value("internal_names", (), "env")
    app.add_directive("from-code", FromCode)
    app.add_directive("error-class", ErrorClass)
    app.add_lexer("jsonc", JavascriptLexer)  # JSON with comments
    app.connect("env-check-consistency", _forget_none)
    app.connect("autoapi-skip-member", _skip_private)
    app.connect("doctree-resolved", _mark_short_code)
    astroid.MANAGER.register_transform(astroid.nodes.Module, _prepare)
    astroid.MANAGER.register_transform(astroid.nodes.ClassDef, _merge_bases)
    return {"parallel_read_safe": False}
