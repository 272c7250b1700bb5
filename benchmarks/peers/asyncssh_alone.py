"""asyncssh itself: an event loop in a thread, and its SFTP client for copies."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, Coroutine, List, Sequence

import asyncssh

from benchmarks.peers.base import Peer
from benchmarks.target import CIPHER, Target

__all__ = ["PEERS"]


class _Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine there and wait for its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def close(self) -> None:
        """End it."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _connect(target: Target) -> Any:
    return await asyncssh.connect(**target.connect_params, encryption_algs=[CIPHER])


class _Asyncssh(Peer):
    """One event loop in a thread; callers wait for its futures."""

    name = "asyncssh"

    @staticmethod
    def version() -> str:
        """Tell which version is measured."""
        return asyncssh.__version__

    def connect(self) -> None:
        """Make the connection."""
        self._loop = _Loop()
        self._connection = self._loop.wait(_connect(self.target))

    def close(self) -> None:
        """End the connection."""
        self._connection.close()
        self._loop.wait(self._connection.wait_closed())
        self._loop.close()

    def run(self, command: str) -> str:
        """Run a command."""
        return str(self._loop.wait(self._connection.run(command)).stdout)

    def upload(self, local: str, remote: str) -> None:
        """Copy there by SFTP."""
        self._loop.wait(self._copy("put", local, remote))

    def download(self, remote: str, local: str) -> None:
        """Copy here by SFTP."""
        self._loop.wait(self._copy("get", remote, local))

    async def _copy(self, way: str, source: str, target: str) -> None:
        async with self._connection.start_sftp_client() as sftp:
            await getattr(sftp, way)(source, target, recurse=True, preserve=True)

    @classmethod
    def dial_all(cls, targets: Sequence[Target], command: str) -> List[str]:
        """Gather all."""

        async def one(target: Target) -> str:
            async with await _connect(target) as connection:
                return str((await connection.run(command)).stdout)

        async def all_of_them() -> List[str]:
            return list(await asyncio.gather(*map(one, targets)))

        loop = _Loop()
        try:
            found: List[str] = loop.wait(all_of_them())
            return found
        finally:
            loop.close()


PEERS = [_Asyncssh]
