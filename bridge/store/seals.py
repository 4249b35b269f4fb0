"""Seals: the checksums of what a cache file holds, so that a flipped bit is noticed by whoever reads it."""

from __future__ import annotations

import json
import sqlite3
import zlib


class CacheDamaged(sqlite3.DatabaseError):
    """What the cache holds does not match its checksum; throw the file away and restore."""


def crc_of(hashed: int, value: bytes) -> int:
    """Of a value; it also knows whose it is."""
    return zlib.crc32(value, hashed & 0xFFFFFFFF)


def sealed(text: str) -> str:
    """The text with its checksum."""
    return f"{text} {zlib.crc32(text.encode())}"


def unsealed(found: object) -> str:
    """The text without. Raises `ValueError`. A flipped bit turns SQLite's texts into blobs and the reverse."""
    if type(found) is not str:
        raise ValueError("damaged")
    text, _, crc = found.rpartition(" ")
    if str(zlib.crc32(text.encode())) != crc:
        raise ValueError("damaged")
    return text


def checked(hashed: int, key: str, value: bytes, crc: int) -> bytes:
    """The value, if it is the one of this key. Raises `CacheDamaged`."""
    if type(value) is not bytes or crc_of(hashed, value) != crc:
        raise CacheDamaged(f"the cached value of {json.dumps(key)} is damaged")
    return value
