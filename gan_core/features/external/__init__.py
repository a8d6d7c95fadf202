"""Features of external networks: load, check, hook."""
