"""The parts of the simulated world: people, the columns that hold them, the truth log, the clockwork of changes.

`bridge.sandbox.world` puts them together; nobody else needs to look in here.
"""
