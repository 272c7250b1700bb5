"""
Helpers for tests, ours and yours: SSH servers, a fault-injecting proxy, and pytest fixtures.

`local_sshd` runs a real OpenSSH server, `mock_sshd` a server inside the process; `fault_proxy`
delays and cuts connections to them; `pytest_plugin` contains the fixtures.
"""
