"""Provides paramiko's submodules under another package's name; they are the same modules."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from types import ModuleType
from typing import Any, Dict, List, Optional, Sequence

# Submodules in which one class is replaced; everything else in them is paramiko's.
REPLACED = {"client": "SSHClient", "transport": "Transport"}
_OWN = ("__main__",)


class _Shadow(ModuleType):
    """A paramiko module with one class replaced; attributes are set on paramiko's own module."""

    def __init__(self, name: str, real: ModuleType, replaced: Dict[str, Any]) -> None:
        super().__init__(name, real.__doc__)
        self.__dict__["_real"] = real
        self.__dict__["_replaced"] = replaced
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_real"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__["_replaced"] or name.startswith("__"):
            super().__setattr__(name, value)
        else:
            setattr(self.__dict__["_real"], name, value)

    def __delattr__(self, name: str) -> None:
        if name in self.__dict__:
            super().__delattr__(name)
        else:
            delattr(self.__dict__["_real"], name)

    def __dir__(self) -> List[str]:
        return dir(self.__dict__["_real"])


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds ``PACKAGE.NAME`` as ``paramiko.NAME``."""

    def __init__(self, package: str, classes: Dict[str, Any]) -> None:
        self._prefix = f"{package}."
        self._classes = classes

    def find_spec(
        self, fullname: str, path: Optional[Sequence[str]], target: Optional[ModuleType] = None
    ) -> Optional[importlib.machinery.ModuleSpec]:
        """Find a module of paramiko."""
        name = fullname[len(self._prefix) :]
        if not fullname.startswith(self._prefix) or name in _OWN:
            return None
        if importlib.util.find_spec(f"paramiko.{name}") is None:
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """Return an empty module, which `exec_module` replaces."""
        return ModuleType(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Replace the new module by paramiko's, without changing the latter's spec."""
        name = module.__name__[len(self._prefix) :]
        real = importlib.import_module(f"paramiko.{name}")
        replaced = REPLACED.get(name)
        if replaced is not None:
            real = _Shadow(module.__name__, real, {replaced: self._classes[replaced]})
            real.__spec__ = module.__spec__
        sys.modules[module.__name__] = real


def serve(package: ModuleType, classes: Dict[str, Any]) -> None:
    """Provide paramiko's submodules as submodules of a package, with `classes` replaced."""
    sys.meta_path.insert(0, _Finder(package.__name__, classes))
