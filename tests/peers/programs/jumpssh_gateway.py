"""jumpssh: sessions with a host, and through it with another, which is the same one."""

import os

from jumpssh import RunCmdError, SSHSession
from where import HOST, KEY, PORT, SCRATCH, USER, in_threads, raised, report


def direct(number):
    """Use a session."""
    with SSHSession(HOST, USER, port=PORT, private_key_file=KEY).open() as session:
        result = session.run_cmd(f"echo $(({number} * 7))")
        wrong = raised(lambda: session.run_cmd("exit 3"))
        status = session.get_exit_code("exit 4")
        active = session.is_active()
    return result.output, result.exit_code, wrong, status, active, session.is_active()


def through(number):
    """Use a session through a gateway."""
    with SSHSession(HOST, USER, port=PORT, private_key_file=KEY) as gateway:
        remote = gateway.get_remote_session(
            HOST, USER, port=PORT, private_key_file=KEY, compress=bool(number % 2)
        )
        again = gateway.get_remote_session(HOST, USER, port=PORT, private_key_file=KEY)
        path = os.path.join(SCRATCH, f"jumpssh-{number}")
        remote.file(path, content="written\n", use_sudo=False)
        with open(f"{path}.local", "w", encoding="ascii") as file:
            file.write("put\n")
        remote.put(f"{path}.local", f"{path}.put")
        found = remote.get_cmd_output(f"cat {path} {path}.put")
        there = remote.exists(path), remote.exists(f"{path}.none")
        return found, there, again.is_active()


report(
    error=RunCmdError.__name__,
    in_turn=[direct(number) for number in range(4)],
    at_once=in_threads(direct, 4),
    gateway=[through(number) for number in range(2)],
    gateway_at_once=in_threads(lambda number: through(number + 2), 3),
)
