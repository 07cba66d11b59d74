"""The only SQL: jobs, attempts, leases, events and what is derived from them, in one SQLite file."""

from orchestrator.store.database import StoreError
from orchestrator.store.records import Ended, Holding, JobFilter, QueueChanges, StoredCommand, StoredEvent
from orchestrator.store.series import MAX_STEP, Kind, Range, Sample, Series
from orchestrator.store.store import Store

__all__ = [
    "MAX_STEP",
    "Ended",
    "Holding",
    "JobFilter",
    "Kind",
    "QueueChanges",
    "Range",
    "Sample",
    "Series",
    "Store",
    "StoreError",
    "StoredCommand",
    "StoredEvent",
]
