"""
Shared connections: `cache` has the public class, `lender` does what `slots` decides.

A key's entry (`entries`) has the per-key lock and the refcount; `dials` makes its connections,
at the rate that `pacing` allows.
"""
