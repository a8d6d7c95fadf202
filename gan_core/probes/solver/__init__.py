"""The solver behind the linear probes. Read `fit.py` (from features to models), `newton_cg.py` (the
minimiser and its certificate), `primal.py` (the features) and `dual.py` (their Gram matrix).
"""
