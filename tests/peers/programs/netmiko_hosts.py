"""netmiko: short sessions with a Linux host, one after the other and in threads; a file there."""

import os

from netmiko import ConnectHandler, file_transfer
from where import HOST, KEY, PORT, SCRATCH, USER, in_threads, raised, report

DEVICE = {
    "device_type": "linux",
    "host": HOST,
    "port": PORT,
    "username": USER,
    "use_keys": True,
    "key_file": KEY,
}


def product(number):
    """Ask the host for a product."""
    with ConnectHandler(**DEVICE) as host:
        found = host.send_command(f"echo $(({number} * 7))")
        alive = host.is_alive()
    return found, alive, host.is_alive()


def copy():
    """Copy a file there; netmiko compares its checksum."""
    with open(os.path.join(SCRATCH, "netmiko-source"), "w", encoding="ascii") as file:
        file.write("a line\n" * 1000)
    with ConnectHandler(**DEVICE) as host:
        return file_transfer(
            host,
            source_file=file.name,
            dest_file="netmiko-target",
            file_system=SCRATCH,
            direction="put",
            overwrite_file=True,
        )


def stranger():
    """Log in as a user whom the server does not know."""
    ConnectHandler(**{**DEVICE, "username": "no-such-user"})


report(
    in_turn=[product(number) for number in range(4)],
    at_once=in_threads(product, 4),
    copied=copy(),
    refused=raised(stranger),
)
