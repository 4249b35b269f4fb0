"""A Kafka that lets nobody in without a password, and nobody do anything without a right.

Three listeners: one without a login for the tests themselves, which may do everything; one with a password; one with
a password and TLS, under an authority of its own.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from concurrent.futures import Future
from pathlib import Path

from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclBinding, AclBindingFilter, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType

from bridge.sandbox.kafka import KafkaSettings, LocalKafka
from bridge.sandbox.kafka.java import find_java
from bridge.sandbox.kafka.ports import free_port

USER = "bridge"
PASSWORD = "correct-horse-battery-staple"

TOPIC, GROUP, TRANSACTIONAL_ID = ResourceType.TOPIC, ResourceType.GROUP, ResourceType.TRANSACTIONAL_ID
READ, WRITE, CREATE, DESCRIBE_CONFIGS = (
    AclOperation.READ,
    AclOperation.WRITE,
    AclOperation.CREATE,
    AclOperation.DESCRIBE_CONFIGS,
)

Right = tuple[ResourceType, str, AclOperation]
"""On everything whose name begins so."""


class Guarded:
    """See the module. `folder` holds the certificates. Belongs to no event loop."""

    def __init__(self, folder: Path) -> None:
        self.authority = folder / "authority.pem"
        ports = [free_port() for _ in range(4)]
        self.open, self.with_password, self.with_tls = (f"127.0.0.1:{port}" for port in ports[:3])
        keystore = folder / "broker.p12"
        _make_certificate(keystore, self.authority)
        login = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
        properties = {
            "listeners": (
                f"PLAINTEXT://{self.open},SASL_PLAINTEXT://{self.with_password},SASL_SSL://{self.with_tls},"
                f"CONTROLLER://127.0.0.1:{ports[3]}"
            ),
            "advertised.listeners": (
                f"PLAINTEXT://{self.open},SASL_PLAINTEXT://{self.with_password},SASL_SSL://{self.with_tls}"
            ),
            "controller.quorum.voters": f"1@127.0.0.1:{ports[3]}",
            "listener.security.protocol.map": (
                "PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT"
            ),
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl_plaintext.plain.sasl.jaas.config": login,
            "listener.name.sasl_ssl.plain.sasl.jaas.config": login,
            "connection.failed.authentication.delay.ms": "20",
            "ssl.keystore.type": "PKCS12",
            "ssl.keystore.location": keystore.as_posix(),
            "ssl.keystore.password": PASSWORD,
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
        }
        self.broker = LocalKafka(KafkaSettings(port=ports[0], heap_mib=256, properties=properties))

    def grant(self, *rights: Right) -> None:
        """Give them to the user."""
        admin = self._admin()  # has to outlive its answers
        _wait(admin.create_acls([_binding(right) for right in rights]).values())

    def revoke(self, *rights: Right) -> None:
        """Take them away again."""
        admin = self._admin()
        _wait(admin.delete_acls([_filter(right) for right in rights]).values())

    def _admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.open, "log_level": 0})


def least_rights(name: str) -> list[Right]:
    """What the README asks for, of a bridge that creates its topics."""
    return [
        (TOPIC, f"{name}.", READ),
        (TOPIC, f"{name}.", WRITE),
        (TOPIC, f"{name}.", DESCRIBE_CONFIGS),
        (TOPIC, f"{name}.", CREATE),
        (TRANSACTIONAL_ID, f"{name}-", WRITE),
        (GROUP, name, READ),
    ]


def _binding(right: Right) -> AclBinding:
    kind, prefix, operation = right
    pattern, user = ResourcePatternType.PREFIXED, f"User:{USER}"
    return AclBinding(kind, prefix, pattern, user, "*", operation, AclPermissionType.ALLOW)


def _filter(right: Right) -> AclBindingFilter:
    kind, prefix, operation = right
    pattern, user = ResourcePatternType.PREFIXED, f"User:{USER}"
    return AclBindingFilter(kind, prefix, pattern, user, "*", operation, AclPermissionType.ALLOW)


def _wait(futures: Iterable[Future[object]]) -> None:
    for future in futures:
        future.result(30)


def _make_certificate(keystore: Path, authority: Path) -> None:
    """Self-signed for this address, with the tool beside the Java that runs the broker."""
    tool = find_java().executable.resolve().with_name("keytool")
    store = ["-keystore", str(keystore), "-storepass", PASSWORD, "-alias", "broker"]
    make = ["-genkeypair", "-keyalg", "EC", "-dname", "CN=broker", "-ext", "san=ip:127.0.0.1", "-ext", "bc=ca:true"]
    for arguments in ([*make, "-validity", "30", "-storetype", "PKCS12"], ["-exportcert", "-rfc", "-file", authority]):
        subprocess.run([tool, *arguments, *store], check=True, capture_output=True)
