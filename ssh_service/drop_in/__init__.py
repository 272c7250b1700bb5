"""
The implementation of `ssh_service.paramiko`: paramiko clients that share connections.

`clients` contains the client class and its `connect`; `membership` implements a client's use of a
shared connection, `target` the dial, `patience` the time limits of clients that wait for another
client's dial, `trust` the check of host keys, and `identity` the comparison of credentials;
`sharing` holds the settings and counters; `modules` provides paramiko's modules under another
name; `installing` makes paramiko's own classes share connections.
"""
