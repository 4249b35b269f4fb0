"""A real Apache Kafka on this machine, for `bridge demo`, `bridge kafka` and the tests.

`settings` says what differs from Kafka's defaults, `java` finds a runtime and the jars, `archive` keeps their classes
ready, `lock` lets one process at a time do either, `node` runs the process, `leash` ends it when we die without a word,
`ports` chooses and probes ports, `foreground` is the command.
"""

from bridge.sandbox.kafka.foreground import run_foreground
from bridge.sandbox.kafka.node import LocalKafka
from bridge.sandbox.kafka.settings import KafkaSettings

__all__ = ["KafkaSettings", "LocalKafka", "run_foreground"]
