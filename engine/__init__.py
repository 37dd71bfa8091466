"""The structured-concurrency core: pure rules and the life of a run, on anyio alone.

Nothing in this folder knows of disks, threads pools or terminals: those are ports (`ports.py`) that the
composition root fills in. Read `flow.py`, then `pipeline.py`, then `states.py`, and you have the whole of it.
"""
