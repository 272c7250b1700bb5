"""The seam: which Service and Status a process gets, and why."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Dict, Optional

import pytest

ROOT = str(Path(__file__).resolve().parents[2])


def python(
    code: str, *, path: Optional[Path] = None, env: Optional[Dict[str, str]] = None
) -> "subprocess.CompletedProcess[str]":
    """Run code in a fresh interpreter that sees this package, and `path` before all else."""
    paths = [ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
    if path is not None:
        paths.insert(0, str(path))
    environ = {k: v for k, v in os.environ.items() if k != "SSH_SERVICE_STANDALONE"}
    environ.update(env or {}, PYTHONPATH=os.pathsep.join(paths))
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=60,
    )


WHERE_FROM = """
    from ssh_service.services.host_api import FileShareService, Service, Status
    print(*sorted({c.__module__.partition(".")[0] for c in (FileShareService, Service, Status)}))
"""

WITHOUT_MLOS = """
    import sys
    sys.modules["mlos_bench"] = None  # as where it is not installed
"""


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Return a folder with an mlos_bench that lacks one of the modules it needs."""
    package = tmp_path / "mlos_bench"
    package.mkdir()
    (package / "__init__.py").write_text("import a_module_nobody_has\n")
    return tmp_path


def test_without_mlos_bench_the_bundled_classes_are_used() -> None:
    done = python(WITHOUT_MLOS + WHERE_FROM)
    assert (done.stdout, done.returncode) == ("ssh_service\n", 0), done.stderr


def test_with_mlos_bench_its_classes_are_used() -> None:
    pytest.importorskip("mlos_bench")
    done = python(WHERE_FROM)
    assert (done.stdout, done.returncode) == ("mlos_bench\n", 0), done.stderr


def test_broken_mlos_bench_error_names_cause_and_remedy(
    broken: Path,
) -> None:
    done = python(WHERE_FROM, path=broken)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: mlos_bench is installed but cannot be used")
    assert "a_module_nobody_has" in last
    assert "SSH_SERVICE_STANDALONE=1" in last


def test_mlos_bench_without_needed_parts_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "mlos_bench").mkdir()
    (tmp_path / "mlos_bench" / "__init__.py").touch()
    done = python(WHERE_FROM, path=tmp_path)
    assert "ImportError: mlos_bench is installed but cannot be used" in done.stderr


def test_broken_mlos_bench_is_an_error_at_each_import(broken: Path) -> None:
    code = """
        for attempt in range(2):
            try:
                from ssh_service import SshHostService
            except ImportError as exc:
                print("mlos_bench is installed" in str(exc))
    """
    assert python(code, path=broken).stdout == "True\nTrue\n"


@pytest.mark.parametrize("word", ["1", "true", "YES"])
def test_standalone_is_chosen_whatever_is_installed(broken: Path, word: str) -> None:
    done = python(WHERE_FROM, path=broken, env={"SSH_SERVICE_STANDALONE": word})
    assert (done.stdout, done.returncode) == ("ssh_service\n", 0), done.stderr


def test_standalone_loads_nothing_of_mlos_bench() -> None:
    code = WHERE_FROM + """
    import sys
    print([name for name in sys.modules if name.partition(".")[0] == "mlos_bench"])
    """
    done = python(code, env={"SSH_SERVICE_STANDALONE": "1"})
    assert done.stdout == "ssh_service\n[]\n", done.stderr


@pytest.mark.parametrize("word", ["", "0", "false"])
def test_standalone_can_be_unset_by_value(broken: Path, word: str) -> None:
    done = python(WHERE_FROM, path=broken, env={"SSH_SERVICE_STANDALONE": word})
    assert "mlos_bench is installed but cannot be used" in done.stderr


def test_one_debug_line_names_the_base() -> None:
    code = WITHOUT_MLOS + """
    import logging
    logging.basicConfig(level=logging.DEBUG, format="%(name)s %(message)s")
    import ssh_service.services.host_api
    """
    said = [line for line in python(code).stderr.splitlines() if "host_api" in line]
    assert said == [
        "ssh_service.services.host_api "
        "Services are built on ssh_service.services.base_service.Service."
    ]


def test_invalid_config_is_also_a_validation_error() -> None:
    pytest.importorskip("mlos_bench")
    code = """
        import pickle
        from jsonschema.exceptions import ValidationError
        from ssh_service.errors import SshConfigError
        from ssh_service.services.host_api import InvalidConfig
        error = pickle.loads(pickle.dumps(InvalidConfig("ssh_prot: unknown")))
        print(isinstance(error, (ValidationError)), isinstance(error, SshConfigError))
        print(error, error.message, error.connection_id)
    """
    done = python(code)
    assert done.stdout == "True True\nssh_prot: unknown ssh_prot: unknown None\n", done.stderr


def test_elsewhere_a_wrong_config_is_an_ssh_config_error() -> None:
    code = WITHOUT_MLOS + """
    from ssh_service import SshConfigError
    from ssh_service.services.host_api import InvalidConfig
    print(InvalidConfig is SshConfigError)
    """
    assert python(code).stdout == "True\n"
