"""An account of the sandbox as its provider's other customers use it: writes over HTTP, with a token of their own."""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlsplit

ACCOUNT = "T12345678"


class Account:
    """One connection. Every call raises `AssertionError` for anything but a 2xx answer. `Any`: JSON."""

    def __init__(self, url: str) -> None:
        """`url`: the sandbox's origin."""
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
        login = base64.b64encode(b"sandbox:sandbox-secret").decode()
        grant = {"grant_type": "client_credentials", "audience": f"https://api.dintero.com/v1/accounts/{ACCOUNT}"}
        self._authorization = f"Basic {login}"
        self._authorization = f"Bearer {self._call('POST', 'auth/token', grant)['access_token']}"

    def close(self) -> None:
        """Release the connection."""
        self._connection.close()

    def customers(self) -> list[dict[str, Any]]:
        """All living ones, in order of creation."""
        found: list[dict[str, Any]] = []
        while page := self._call("GET", f"customers/users?type=any&limit=100{_after(found)}"):
            known = {row["id"] for row in found}
            new = [row for row in page if row["id"] not in known]
            if not new:
                break
            found += new
        return found

    def tags(self) -> list[dict[str, Any]]:
        """All of them."""
        rows: list[dict[str, Any]] = self._call("GET", "customers/tags")
        return rows

    def set_tags(self, customer_id: str, tags: Sequence[str]) -> None:
        """Exactly these, by id."""
        self._call("PUT", f"customers/users/{quote(customer_id, safe='')}/tags", list(tags))

    def rename(self, customer_id: str, new: str) -> None:
        """Another customer_id."""
        self._call("POST", f"customers/users/{quote(customer_id, safe='')}/change_customer_id", {"customer_id": new})

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        self._connection.request(
            method,
            f"/v1/accounts/{ACCOUNT}/{path}",
            None if body is None else json.dumps(body),
            {"Authorization": self._authorization, "Content-Type": "application/json"},
        )
        answer = self._connection.getresponse()
        said = answer.read()
        assert 200 <= answer.status < 300, f"{method} {path}: {answer.status} {said[:200]!r}"
        return json.loads(said)


def _after(rows: Sequence[dict[str, Any]]) -> str:
    return f"&starting_after={rows[-1]['id']}" if rows else ""
