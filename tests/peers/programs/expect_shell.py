"""paramiko-expect: conversations with a shell on a terminal, in turn and in threads."""

import paramiko
from paramiko_expect import SSHClientInteraction
from where import HOST, KEY, PORT, USER, in_threads, report


def talk(number):
    """Talk to a shell that has a prompt of ours."""
    client = paramiko.SSHClient()
    client.load_system_host_keys()
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    client.connect(HOST, PORT, USER, key_filename=KEY)
    found = []
    with SSHClientInteraction(client, timeout=20, display=False) as shell:
        shell.send("exec env -i PS1='prompt> ' TERM=dumb sh")
        shell.expect(r"prompt> ")
        for word in ("one", "two"):
            shell.send(f"echo {word} {number}")
            shell.expect(r"prompt> ")
            found.append(shell.current_output_clean)
        shell.send("read answer; echo $answer; exit 3")
        shell.send("yes")
        found.append(shell.expect())
        status = shell.channel.recv_exit_status()
    client.close()
    return found, status


report(
    in_turn=[talk(number) for number in range(3)],
    at_once=in_threads(talk, 4),
)
