"""Simulation: the whole engine in one thread, on virtual time, under seeded scheduling and faults, against a model.

    python -m tests.simulation --seed 17 --backend trio

replays one seed and prints what happened; `--runs 1000` plays that many, from that seed on.
"""
