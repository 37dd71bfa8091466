"""The SQLite journal: what happened to every run, in one documented file that anything that reads SQLite can read."""

from .journal import SQLiteJournal
from .reading import Reader

__all__ = ["Reader", "SQLiteJournal"]
