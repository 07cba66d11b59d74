"""How trained autoencoders are stored for others to load: one module per layout.

Every one has ``write(sae, folder, provenance)`` and ``read(folder) -> (DeployedSae, Provenance)``; ``library.py`` knows
them by name and tells which one a folder is in.
"""
