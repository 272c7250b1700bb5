"""Other projects' tests and programs, plainly and with `ssh_service.paramiko` in its place."""
