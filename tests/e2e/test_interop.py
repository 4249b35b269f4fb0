"""What others see: any Kafka client reads the events, the official CloudEvents SDK decodes them, the schemas hold."""

from __future__ import annotations

import time
from pathlib import Path

import orjson
import pytest
from cloudevents.v1.kafka import KafkaMessage, from_binary
from confluent_kafka import Consumer
from jsonschema import Draft202012Validator

from tests.support.processes import bridge, config, put, ready, sandbox, source_ids, wait_for

SCHEMAS = Path(__file__).parents[2] / "schemas"
RATES = {"sign_up": 1200, "edit": 3000, "rename": 600, "delete": 600, "tag_create": 300, "tag_delete": 200}
EXPECTED = {
    f"bridge.{kind}.v1"
    for kind in (
        "customer.snapshot",
        "customer.created",
        "customer.updated",
        "customer.renamed",
        "customer.deleted",
        "tag.snapshot",
        "tag.created",
        "tag.deleted",
    )
}
READ_S = 60.0


@pytest.mark.timeout(200)
def test_another_client_and_the_cloudevents_sdk_read_every_event_type(
    tmp_path: Path, bootstrap_servers: str, bridge_name: str
) -> None:
    validators = {
        schema["$id"]: Draft202012Validator(schema)
        for schema in (orjson.loads(path.read_bytes()) for path in SCHEMAS.glob("*.json"))
    }
    with sandbox(tmp_path, "--customers", "300", "--switch", "timestamp_precision=milliseconds") as url:
        path = config(tmp_path, bootstrap_servers, bridge_name, url)
        process = bridge(tmp_path, path)
        wait_for("the bridge", lambda: ready(path))
        put(f"{url}/sandbox/rates", RATES)
        consumer = Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "group.id": f"{bridge_name}-reader",
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
            }
        )
        consumer.subscribe([f"{bridge_name}.customers", f"{bridge_name}.tags"])
        seen: set[str] = set()
        ids: set[str] = set()
        deadline = time.monotonic() + READ_S
        while seen != EXPECTED and time.monotonic() < deadline:
            message = consumer.poll(1.0)
            if message is None or message.error():
                continue
            key, value = message.key() or b"", message.value() or b""
            pairs: list[tuple[str, bytes]] = message.headers() or []  # type: ignore[assignment]  # wider in the stubs
            headers = dict(pairs)
            event = from_binary(KafkaMessage(headers=headers, key=key.decode(), value=value))
            data = event.data if isinstance(event.data, dict) else orjson.loads(event.data)
            validators[event["dataschema"]].validate(data)
            assert key.decode() == event["partitionkey"] == data["key"]
            assert data["key"] == f"{source_ids(1, 4)[0]}/{event['subject']}"
            assert event["sequence"] == str(data["sequence"])
            assert event["id"] not in ids
            ids.add(event["id"])
            seen.add(event["type"])
        consumer.close()
        assert process.terminate() == 0, process.said()
    assert seen == EXPECTED
