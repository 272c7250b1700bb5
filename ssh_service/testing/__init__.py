"""
For tests, ours and yours: servers, a network that misbehaves, and pytest fixtures of them.

`local_sshd` runs a real OpenSSH server, `mock_sshd` one inside the process; `fault_proxy` delays
and cuts connections to them; `pytest_plugin` has the fixtures.
"""
