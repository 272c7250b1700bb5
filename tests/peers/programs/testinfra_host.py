"""testinfra's paramiko backend: checks of a host, by a new backend each, which is only dropped."""

from testinfra.backend.paramiko import ParamikoBackend
from testinfra.host import Host
from where import HOST, KEY, PORT, SCRATCH, USER, in_threads, report


def backend():
    """Make a backend; `testinfra.get_host` would return the one that it made before."""
    return ParamikoBackend(f"{USER}@{HOST}:{PORT}", ssh_identity_file=KEY)


def check(number):
    """Check what a test of a server checks."""
    host = Host(backend())
    passwd = host.file("/etc/passwd")
    failed = host.run("echo out; echo err >&2; exit %s", str(number + 1))
    return (
        passwd.exists,
        passwd.user,
        host.user(USER).uid,
        host.check_output("echo %s", "it's me"),
        (failed.rc, failed.stdout, failed.stderr),
        host.file(SCRATCH).is_directory,
        host.environment()["SSH_CONNECTION"].split()[2:],
    )


def lost():
    """Run a command with a backend whose connection was closed; it connects anew."""
    one = backend()
    first = one.run("echo first").stdout
    one.client.get_transport().close()
    return first, one.run("echo second").stdout


report(
    in_turn=[check(number) for number in range(4)],
    at_once=in_threads(check, 4),
    lost=lost(),
)
