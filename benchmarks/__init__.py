"""
How fast it is, beside its neighbours: all in one run, interleaved, as ratios.

``python -m benchmarks`` needs OpenSSH's client and server.  Every other neighbour is optional, and
one that is not installed is passed over, aloud.
"""
