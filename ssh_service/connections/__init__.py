"""
Shared connections: `cache` has the public class; `slots` decides, and `lender` acts on it.

A key's entry (`entries`) has the per-key lock and the refcount.  `dials` makes the connections,
at the rate that `pacing` allows.
"""
