"""docs/mlos_bench.md says what is the case."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from mlos_bench.config.schemas.config_schemas import CONFIG_SCHEMA_DIR

from ssh_service.services import settings

from .experiment import VERSION

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "mlos_bench.md").read_text(encoding="utf-8")


def test_it_lists_every_setting_and_no_other() -> None:
    table = PAGE.partition("## Settings")[2].partition("##")[0]
    listed = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert len(listed) == len(set(listed))
    known = (settings.COMMON, settings.HOST, settings.FILE_SHARE)
    assert set(listed) == {name for settings in known for name in settings}


def test_it_marks_those_that_upstreams_schema_knows() -> None:
    folder = os.path.join(CONFIG_SCHEMA_DIR, "services", "remote", "ssh")
    with open(os.path.join(folder, "common-defs-subschemas.json"), encoding="utf-8") as file:
        common = json.load(file)["$defs"]["ssh_service_config"]["properties"]
    marked = re.findall(r"^\| `(\w+)` \| ✓ \|", PAGE, re.MULTILINE)
    assert set(marked) == {*common, "ssh_shell"}


def test_it_and_the_extra_name_the_versions_that_are_tested() -> None:
    setup = (ROOT / "setup.cfg").read_text()
    oldest = re.search(r"mlos_bench>=([\d.]+);", setup)
    assert oldest and f"mlos_bench {oldest.group(1)} (the first" in PAGE
    assert f"mlos_bench=={oldest.group(1)}" in (ROOT / "tox.ini").read_text()
    assert VERSION >= tuple(map(int, oldest.group(1).split(".")))
