"""Airflow's SSHHook: a connection for each task, as its operators do, in turn and in threads."""

from airflow.providers.ssh.hooks.ssh import SSHHook
from where import HOST, KEY, PORT, USER, in_threads, raised, report


def hook(**more):
    """Make a hook for the server."""
    return SSHHook(
        remote_host=HOST, port=PORT, username=USER, key_file=KEY, conn_timeout=20, **more
    )


def run(number, command="echo $((%d * 7)); echo to stderr >&2"):
    """Run a command as SSHOperator does."""
    task = hook()
    with task.get_conn() as client:
        status, out, err = task.exec_ssh_client_command(
            client, command % number, get_pty=False, environment=None, timeout=20
        )
    return status, out.decode(), err.decode()


def fail(number):
    """Run a command that fails with a status."""
    return run(number, "exit %d")


def slow():
    """Run a command that takes longer than it may."""
    task = hook(cmd_timeout=1)
    with task.get_conn() as client:
        task.exec_ssh_client_command(client, "sleep 20", get_pty=False, environment=None)


report(
    in_turn=[run(number) for number in range(5)],
    at_once=in_threads(run, 4),
    statuses=[fail(number) for number in (0, 3, 255)],
    too_slow=raised(slow),
    connection_test=hook().test_connection(),
)
