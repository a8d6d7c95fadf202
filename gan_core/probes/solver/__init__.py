"""The solver behind the linear probes, in reading order: `fit.py` (from features to models),
`newton_cg.py` (the minimiser and its certificate), `primal.py` (the features as a matrix) and
`dual.py` (their Gram matrix, where there are fewer rows than dimensions).
"""
