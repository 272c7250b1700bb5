"""asyncssh's server, which runs commands with sh: asyncssh_server.py PORT FOLDER."""

import asyncio
import contextlib
import os
import signal
import sys

import asyncssh

_SIZE = 65536


async def _take(process, child):
    """Pass on input and signals."""
    while True:
        try:
            data = await process.stdin.read(_SIZE)
        except asyncssh.SignalReceived as received:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, getattr(signal, f"SIG{received.signal}"))
            continue
        except (asyncssh.BreakReceived, asyncssh.TerminalSizeChanged):
            continue
        if not data:
            break
        with contextlib.suppress(ConnectionError):
            child.stdin.write(data)
            await child.stdin.drain()
    child.stdin.close()


async def _give(source, target):
    while True:
        data = await source.read(_SIZE)
        if not data:
            return
        target.write(data)
        await target.drain()


async def _run(process):
    child = await asyncio.create_subprocess_exec(
        "/bin/sh",
        "-c",
        process.command or "exec sh",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    taking = asyncio.create_task(_take(process, child))
    try:
        await asyncio.gather(
            _give(child.stdout, process.stdout), _give(child.stderr, process.stderr)
        )
        status = await child.wait()
        if status < 0:
            process.exit_with_signal(signal.Signals(-status).name[3:])
        else:
            process.exit(status)
    except (BrokenPipeError, asyncssh.ConnectionLost):
        pass
    finally:
        taking.cancel()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGHUP)


class _Server(asyncssh.SSHServer):
    def connection_requested(self, dest_host, dest_port, orig_host, orig_port):
        return True

    def server_requested(self, listen_host, listen_port):
        return True


async def main():
    port, folder = int(sys.argv[1]), sys.argv[2]
    await asyncssh.listen(
        "127.0.0.1",
        port,
        server_factory=_Server,
        server_host_keys=[f"{folder}/host_key"],
        authorized_client_keys=f"{folder}/authorized_keys",
        process_factory=_run,
        encoding=None,
        sftp_factory=True,
    )
    await asyncio.get_running_loop().create_future()


asyncio.run(main())
