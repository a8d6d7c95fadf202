"""Flows and the command line. Importing this package sets how OpenMP threads wait, before torch is
loaded.
"""

from __future__ import annotations

import os

# Threads that spin while they wait make torch up to four times slower, and burn a core each, as
# soon as anything else runs on the
# machine (measured: docs/benchmarks.md, "Waiting threads"). Whoever has a machine alone may set
# ACTIVE.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
