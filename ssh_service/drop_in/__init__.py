"""
What is behind `ssh_service.paramiko`: clients of paramiko's that share connections.

`clients` has the client and its `connect`, `membership` what a client does on a shared connection,
`target` how it is dialled, `patience` how long others wait for that, `trust` which host keys
are accepted, `identity` what credentials are compared by, `sharing` the settings and counters,
`modules` paramiko's modules under another name, `installing` how paramiko's own classes come to
share.
"""
