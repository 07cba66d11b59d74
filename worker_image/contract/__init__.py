"""The agreement between orchestrator and worker: job parameters, events, commands and the run directory.

Standard library and pydantic only. Both sides import it; it imports neither.
"""
