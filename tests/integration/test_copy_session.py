"""A session shared by clients: replies, sending, and the end."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import List

from ssh_service.copying.sftp import decode, encode
from ssh_service.copying.sftp.client import SftpClient
from ssh_service.copying.sftp.session import SftpSession
from tests.integration.sftp_processes import real_session
from tests.unit.sftp_harness import PATIENCE


def test_replies_reach_the_client_that_asked(sftp_server: str, tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / str(number)).write_bytes(bytes(number))
    wrong: List[object] = []

    def ask(session: SftpSession, number: int) -> None:
        with SftpClient(session) as client:
            for _ in range(50):
                replies = [client.ask(encode.stat, b"%d" % number) for _ in range(20)]
                while client.outstanding:
                    client.collect(PATIENCE)
                sizes = {decode.attributes(reply.body).size for reply in replies}
                if sizes != {number}:
                    wrong.append((number, sizes))

    with real_session(sftp_server, tmp_path) as session:
        threads = [threading.Thread(target=ask, args=(session, n)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
    assert not wrong
