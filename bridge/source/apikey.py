"""ApiKey: a secret that does not change, as `Credentials`.

There is nothing to fetch and nothing to renew. A key that was refused is said to be so at once, without a second
request; the next one tries it again, because somebody may have given it back its rights.
"""

from __future__ import annotations

from pydantic import SecretStr

from bridge.errors import AccessDenied


class ApiKey:
    """Implements `Credentials`; used concurrently by everything that asks the source."""

    def __init__(self, header: str, key: SecretStr) -> None:
        """`header`: the name of the one that carries it."""
        self._header = header
        self._key = key
        self._refused = False

    @property
    def header(self) -> str:
        """See `Credentials.header`."""
        return self._header

    async def authorization(self) -> str:
        """See `Credentials.authorization`."""
        if self._refused:
            self._refused = False
            raise AccessDenied("the provider refuses the key; check api_key, account and base_url")
        return self._key.get_secret_value()

    def refused(self, authorization: str) -> None:
        """See `Credentials.refused`."""
        self._refused = True

    def __repr__(self) -> str:
        return "ApiKey(***)"
