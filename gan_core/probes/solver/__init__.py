"""The solver behind the linear probes."""
