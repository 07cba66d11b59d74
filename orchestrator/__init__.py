"""Queues jobs, runs each in its own container, streams its log and metrics, keeps its artifacts."""
