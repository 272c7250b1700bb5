"""Paths as bytes: split, joined and compared."""

from __future__ import annotations

import pytest

from ssh_service.copying import paths


@pytest.mark.parametrize(
    "path, folder, name",
    [
        (b"a", b".", b"a"),
        (b"/a", b"/", b"a"),
        (b"a/b", b"a", b"b"),
        (b"/a/b/c", b"/a/b", b"c"),
    ],
)
def test_a_path_is_a_folder_and_a_name(path: bytes, folder: bytes, name: bytes) -> None:
    assert (paths.folder_of(path), paths.basename(path)) == (folder, name)
    assert paths.join(folder, name) in (path, b"./" + path)
    assert paths.sibling(path, b"x") == path[: -len(name)] + b"x"


@pytest.mark.parametrize("path, name", [(b"a//", b"a"), (b"/", b""), (b"", b""), (b"a/..", b"..")])
def test_trailing_slashes_are_not_part_of_a_name(path: bytes, name: bytes) -> None:
    assert paths.basename(path) == name


@pytest.mark.parametrize(
    "path, folder, inside",
    [
        (b"/a/b", b"/a", True),
        (b"/a/b/c", b"/a/", True),
        (b"/a", b"/a", True),
        (b"/a", b"/", True),
        (b"/ab", b"/a", False),
        (b"/a", b"/a/b", False),
    ],
)
def test_a_path_is_within_a_folder_by_whole_names(
    path: bytes, folder: bytes, inside: bool
) -> None:
    assert paths.is_within(path, folder) is inside
