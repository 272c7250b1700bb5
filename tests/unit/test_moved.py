"""Import paths of 0.1.0: they work, and say where the module is now."""

from __future__ import annotations

import importlib
import pickle
import sys
import warnings
from typing import Iterator

import pytest

from ssh_service import _moved, fleet
from ssh_service.commands.result import CompletedProcess


@pytest.fixture(autouse=True)
def old_paths_not_imported_yet() -> Iterator[None]:
    """Forget the old names, before and after, so that each test imports them anew."""
    old_names = [f"ssh_service.{old}" for old in _moved._NEW_PATHS]
    for name in old_names:
        sys.modules.pop(name, None)
    yield
    for name in old_names:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("old", sorted(_moved._NEW_PATHS))
def test_old_import_path_warns_and_gives_the_moved_module(old: str) -> None:
    """A program of 0.1.0 imports the same module under its old name."""
    new = f"ssh_service.{_moved._NEW_PATHS[old]}"
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        module = importlib.import_module(f"ssh_service.{old}")
    assert f"ssh_service.{old} has moved to {new}" in [str(warning.message) for warning in found]
    assert {warning.category for warning in found} == {DeprecationWarning}
    assert module is importlib.import_module(new)
    assert module.__name__ == new and module.__spec__ and module.__spec__.name == new


def test_old_pickle_loads_as_the_moved_class() -> None:
    """Results that 0.1.0 has stored can still be read."""
    result = CompletedProcess("true", None, b"out", b"", 3)
    old = pickle.dumps(result, protocol=0).replace(
        b"ssh_service.commands.result", b"ssh_service.outcome"
    )
    assert b"ssh_service.outcome" in old
    with pytest.warns(DeprecationWarning, match="ssh_service.outcome has moved"):
        loaded = pickle.loads(old)
    assert type(loaded) is CompletedProcess and loaded.stdout_bytes == b"out"


def test_unknown_module_is_still_an_import_error() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        importlib.import_module("ssh_service.no_such_module")


def test_old_name_warns_and_gives_the_renamed_object() -> None:
    """A program of 0.1.0 that annotates with `fleet.Host` still works."""
    with pytest.warns(DeprecationWarning, match="fleet.Host has been renamed to .*Destination"):
        assert fleet.Host is fleet.Destination
    with pytest.raises(AttributeError, match="'ssh_service.fleet' has no attribute 'nothing'"):
        fleet.nothing
