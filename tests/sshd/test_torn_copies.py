"""A signal handler raises anywhere in a copy: the destination stays usable."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path
from typing import Any, Dict

import pytest

from ssh_service import SshClientCache, download, run, upload
from ssh_service.copying.open_files import open_files
from ssh_service.testing.local_sshd import Sshd
from tests.common import PATIENCE, descriptors, eventually
from tests.injection import HOWS_OF_LOOPS, tear
from tests.trees import unfinished_files

# Seconds for the moments of one copy.
LIMIT = 3.0
_STRIDE = 61

pytestmark = [
    pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Place:
    """A destination, and a small file that goes there or comes from there."""

    def __init__(self, sshd: Sshd, cache: SshClientCache, folder: Path) -> None:
        self.web: Dict[str, Any] = {**sshd.connect_params, "connect_timeout": PATIENCE}
        self.cache = cache
        self.folder = folder / "there"
        self.folder.mkdir()
        self.source = folder / "source"
        self.source.write_bytes(os.urandom(1000))
        self.check()
        self._descriptors, self._threads = descriptors(), threading.active_count()

    def upload(self, name: str = "torn") -> None:
        upload(self.web, self.source, self.folder / name, cache=self.cache, timeout=PATIENCE)

    def download(self, name: str = "torn") -> None:
        download(self.web, self.source, self.folder / name, cache=self.cache, timeout=PATIENCE)

    def check(self) -> None:
        """Run a plain command and make a plain copy."""
        hello = run(self.web, "echo hello", cache=self.cache, timeout=PATIENCE)
        assert hello.stdout == "hello\n"
        for copy in (self.upload, self.download):
            copy("plain")
            assert (self.folder / "plain").read_bytes() == self.source.read_bytes()
            (self.folder / "plain").unlink()

    def is_at_rest(self) -> bool:
        """Tell whether nothing is held or counted that is not there."""
        stats = self.cache.stats()
        return (
            not stats["leases"]
            and not stats["waiting"]
            and not open_files.usage.used
            and descriptors() <= self._descriptors
            and threading.active_count() <= self._threads
        )

    def check_all(self) -> None:
        """Check that it works, and that nothing is held."""
        self.check()
        eventually(
            # What an exception's frames hold may be a cycle: the collector lets it go.
            lambda: self.is_at_rest() or (gc.collect() < 0),
            "what was torn has let go of all that it held",
        )


@pytest.fixture(name="place")
def a_place(sshd: Sshd, cache: SshClientCache, tmp_path: Path) -> Place:
    return Place(sshd, cache, tmp_path)


@pytest.mark.parametrize("how", HOWS_OF_LOOPS)
@pytest.mark.parametrize("way", ["upload", "download"])
def test_copy_interrupted_anywhere_leaves_usable_destination(
    way: str, how: str, place: Place
) -> None:
    """The next calls work, and no lease, session, descriptor or thread is lost."""
    tear(lambda: getattr(place, way), how, place.check_all, LIMIT, _STRIDE)
    # No copy waits for the removal of what is left: one of the next does it.
    eventually(
        lambda: place.check() or not unfinished_files(place.folder), "nothing unfinished is left"
    )


@pytest.mark.long
@pytest.mark.parametrize("how", HOWS_OF_LOOPS)
@pytest.mark.parametrize("way", ["upload", "download"])
def test_copy_interrupted_often_leaves_usable_destination(
    way: str, how: str, place: Place
) -> None:
    """The same at twenty times as many; all would take a quarter of an hour each."""
    tear(lambda: getattr(place, way), how, place.check_all, 20 * LIMIT, _STRIDE)
    place.check()
