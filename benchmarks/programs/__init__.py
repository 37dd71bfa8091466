"""What is run in fresh processes: each engine's way to do each workload. Nothing here is imported by the rest."""
