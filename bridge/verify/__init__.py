"""Verify: proves the invariants from what is in Kafka, and from the provider. Reads only; changes nothing."""
