"""Experiment trackers: each a module that speaks to one library, behind one protocol.

Nothing a tracker does holds up or harms a run: see ``relay``. Libraries are optional, and imported only when asked for.
"""
