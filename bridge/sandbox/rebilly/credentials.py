"""How a delivery proves who it is from: Basic, or Digest once it was challenged (RFC 7617, RFC 7616 with MD5). Pure."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import md5

PARAMETER = re.compile(r'(\w+)\s*=\s*(?:"([^"]*)"|([^\s,]+))')


def basic(username: str, password: str) -> str:
    """The value of `Authorization`; UTF-8, as the receiver has to expect."""
    return "Basic " + b64encode(f"{username}:{password}".encode()).decode()


def digest(challenge: str, method: str, target: str, username: str, password: str, cnonce: str) -> str | None:
    """The answer to a `WWW-Authenticate: Digest …`; None when the challenge is another. target: path with query."""
    scheme, _, rest = challenge.partition(" ")
    asked = {name.lower(): quoted or bare for name, quoted, bare in PARAMETER.findall(rest)}
    if scheme.lower() != "digest" or asked.get("algorithm", "MD5").upper() != "MD5" or "nonce" not in asked:
        return None
    realm, nonce, count = asked.get("realm", ""), asked["nonce"], "00000001"
    middle = f"{nonce}:{count}:{cnonce}:auth" if "auth" in asked.get("qop", "") else nonce
    response = _hash(f"{_hash(f'{username}:{realm}:{password}')}:{middle}:{_hash(f'{method}:{target}')}")
    parts = {"username": username, "realm": realm, "nonce": nonce, "uri": target, "response": response}
    parts |= {"opaque": asked["opaque"]} if "opaque" in asked else {}
    text = ", ".join(f'{name}="{value}"' for name, value in parts.items())
    if "qop" in asked:
        text += f', algorithm=MD5, qop=auth, nc={count}, cnonce="{cnonce}"'
    return f"Digest {text}"


def _hash(text: str) -> str:
    return md5(text.encode(), usedforsecurity=False).hexdigest()
