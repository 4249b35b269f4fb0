"""Store: what was last published, per shard; a cache of the state topic that may be thrown away at any time."""
