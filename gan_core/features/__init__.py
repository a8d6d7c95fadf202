"""Activations as features: taken, pooled, written to Parquet with their lineage, and read back.

`extract` takes them from a network, `store` writes and reads them, `gan_core/baselines`
are what they must beat.
"""
