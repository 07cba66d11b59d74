"""The only SQL: jobs, attempts, leases, events and what is derived from them, in one SQLite file."""

from orchestrator.store.database import StoreError
from orchestrator.store.records import Ended, JobFilter, StoredCommand, StoredEvent
from orchestrator.store.store import MAX_STEP, Store

__all__ = ["MAX_STEP", "Ended", "JobFilter", "Store", "StoreError", "StoredCommand", "StoredEvent"]
