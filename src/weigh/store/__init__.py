"""What weigh remembers between calls, in SQLite: calibrations, and the ledger of runs beside their estimates."""

from weigh.store.store import Store, default_path

__all__ = ["Store", "default_path"]
