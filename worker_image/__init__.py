"""What runs inside a job's container, and the contract the orchestrator shares with it."""
