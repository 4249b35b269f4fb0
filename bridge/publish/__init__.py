"""Publish: whole transactions into Kafka, the state log out of it, the inbox; nothing else here speaks Kafka."""
