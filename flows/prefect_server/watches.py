"""Names of the automations that `discern setup` makes: what the server does by itself when
something is seen, or is not.
"""

DIED = "Discern: a run's process has died"
NEVER_STARTED = "Discern: a run never started"
NEVER_ENDED = "Discern: a cancelled run never ended"
WAITED = "Discern: a scheduled run waited too long"
FAILED = "Discern: a run failed"
FELL = "Discern: accuracy fell"
ALL = (DIED, NEVER_STARTED, NEVER_ENDED, WAITED, FAILED, FELL)

SILENT = (DIED, NEVER_STARTED, NEVER_ENDED)
"""Those that take silence for death: a server that was away must not act on them at once
(flows/prefect_server/rearm.py).
"""
