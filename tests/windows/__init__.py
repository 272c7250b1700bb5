"""The library as a client on Windows, tried with a Windows Python under wine: see ``run.sh``."""
