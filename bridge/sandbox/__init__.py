"""The world without the world: providers, broker and population for the demo, the tests and the simulator.

Everything here stands behind the same protocols as the real thing and passes the same contract tests. Some
modules need the extra `sandbox`; each says so in its error when the extra is missing. The service imports
nothing from here.
"""
