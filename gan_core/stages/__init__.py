"""The stages: one module each, which reads its inputs' folders, calls the library, and
writes into a work folder.

A stage module offers `run(request, progress) -> StageOutcome` and nothing that costs an import of
torch at module level. What a stage is to the planner (version, content files, whether it runs in a
child process) is in `specs.py`, which stays light: `discern run` plans without importing any of
the modules here.
"""
