"""Everything is killed at every moment, and nothing may be lost, doubled or left behind."""
