"""What the table [kafka] accepts, and how the client is kept from leaking or surprising."""

from __future__ import annotations

import logging
from pathlib import Path

import aiokafka.client
import pytest
from aiokafka.protocol.metadata import MetadataRequest_v5
from pydantic import ValidationError

from bridge.errors import ConfigurationError
from bridge.publish.settings import (
    KafkaSettings,
    client_findings,
    client_options,
    compression,
    quiet_client_loggers,
)

SERVERS = ["kafka.example:9092"]


def test_a_password_is_handed_to_the_client_and_shown_to_nobody() -> None:
    settings = KafkaSettings.model_validate(
        {
            "bootstrap_servers": SERVERS,
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_plain_username": "bridge",
            "sasl_plain_password": "hunter2",
        }
    )
    assert client_options(settings)["sasl_plain_password"] == "hunter2"
    assert "hunter2" not in f"{settings!r} {settings} {settings.model_dump_json()}"


@pytest.mark.parametrize(
    "wrong",
    [
        {"security_protocol": "SASL_SSL"},
        {"ssl_keyfile": "key.pem"},
        {"session_timeout_s": 2.0, "heartbeat_s": 1.0},
        {"produce_deadline_s": 20.0},
        {"no_such_key": 1},
        {"bootstrap_servers": []},
    ],
)
def test_refuses_what_cannot_work(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        KafkaSettings.model_validate({"bootstrap_servers": SERVERS} | wrong)


def test_names_the_key_of_a_certificate_that_is_not_there() -> None:
    settings = KafkaSettings(bootstrap_servers=SERVERS, security_protocol="SSL", ssl_cafile=Path("/nowhere/ca.pem"))
    with pytest.raises(ConfigurationError, match=r"kafka\.ssl_cafile"):
        client_options(settings)


def test_names_the_key_of_a_certificate_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("not a certificate")
    settings = KafkaSettings(bootstrap_servers=SERVERS, security_protocol="SSL", ssl_cafile=file)
    with pytest.raises(ConfigurationError, match=r"kafka\.ssl_"):
        client_options(settings)


def test_a_codec_without_its_library_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiokafka.codec.has_lz4", lambda: False)
    settings = KafkaSettings(bootstrap_servers=SERVERS, compression_type="lz4")
    with pytest.raises(ConfigurationError, match="cramjam"):
        compression(settings)


@pytest.mark.parametrize("root_level", [logging.DEBUG, logging.WARNING])
def test_client_never_logs_at_debug(root_level: int) -> None:
    root, client = logging.getLogger(), logging.getLogger("aiokafka.conn")
    before = root.level, logging.getLogger("aiokafka").level, client.level
    try:
        root.setLevel(root_level)
        logging.getLogger("aiokafka").setLevel(logging.NOTSET)
        client.setLevel(logging.DEBUG)
        quiet_client_loggers()
        assert client.getEffectiveLevel() == max(root_level, logging.INFO)
        assert logging.getLogger("aiokafka.never.seen.before").getEffectiveLevel() >= logging.INFO
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
        quiet_client_loggers()
        assert client.getEffectiveLevel() == logging.CRITICAL, "configured anew, and quieter"
    finally:
        root.setLevel(before[0])
        logging.getLogger("aiokafka").setLevel(before[1])
        client.setLevel(before[2])


def test_the_clients_extension_is_in() -> None:
    assert client_findings() == []


def test_the_client_asks_about_topics_without_creating_them() -> None:
    request = aiokafka.client.MetadataRequest(["some.topic"])
    assert request.build(MetadataRequest_v5).allow_auto_topic_creation is False
