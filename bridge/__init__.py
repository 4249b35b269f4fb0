"""Bridge: polls providers' REST APIs and publishes what changed to Kafka, each change exactly once.

The way of a change through the folders is source, detect, event, publish, store; `runtime` decides when,
`assembly` builds the parts, `cli` is the door for people. Kafka is the only database, the disk is a cache.
"""

__version__ = "0.1.0"
