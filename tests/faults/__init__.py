"""Injectors of faults: servers that do what no server may, and helpers to meet them."""
