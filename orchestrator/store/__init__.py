"""The only SQL: jobs, attempts, leases, events and what is derived from them, in one SQLite file."""

from orchestrator.store.store import Ended, JobFilter, Store, StoredCommand, StoredEvent

__all__ = ["Ended", "JobFilter", "Store", "StoredCommand", "StoredEvent"]
