"""`bridge check --online` against a provider that is not in order: exit 3, and a text that says what is wrong."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.support import certificates
from tests.support.processes import command, config
from tests.support.raw_server import REQUEST, RawServer, response


@pytest.mark.parametrize(
    ("certificate", "said"),
    [
        (certificates.GOOD, "of an authority that is not trusted here"),  # the system does not know ours
        (None, "the TLS handshake failed"),
    ],
    ids=["unknown authority", "no TLS"],
)
async def test_a_provider_whose_tls_is_not_in_order_is_told_and_ends_with_3(
    certificate: str | None, said: str, tmp_path: Path, bootstrap_servers: str, bridge_name: str
) -> None:
    context = None if certificate is None else certificates.serving(certificate)
    refusal = response(b"", status="400 Bad Request")
    async with RawServer([[REQUEST, refusal] if context else [refusal, REQUEST]], context) as server:
        origin = f"https://127.0.0.1:{server.port}"
        path = config(tmp_path, bootstrap_servers, bridge_name, origin)
        result = await asyncio.to_thread(command, "check", "-c", str(path), "--online", "--json")
        assert not server.heads
    rows = {row["subject"]: row for row in map(json.loads, result.stdout.splitlines())}
    wrong = [row for row in rows.values() if row["ok"] is False]
    assert [said in row["message"] for row in wrong] == [True], result.stdout  # nothing else is wrong
    assert result.returncode == 3
    assert "Traceback" not in result.stderr
    assert "sandbox-secret" not in result.stdout + result.stderr
