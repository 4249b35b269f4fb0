"""Schema: the JSON Schemas (2020-12) of every event and document type, as files of `schemas/`.

Generated from `documents`, committed, and checked to be current by the tests: the folder is the contract that
consumers read, so it may not drift from what is published.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from bridge.event.catalog import CATALOG
from bridge.event.documents import DOCUMENTS, payload_model
from bridge.event.progress import Progress

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_NOUNS = {"customers": "customer", "tags": "tag", "users": "user"}

JsonSchema = dict[str, Any]
"""A JSON Schema document; `Any` because schemas are recursive JSON."""


def schemas() -> dict[str, JsonSchema]:
    """File name → schema, for every type that exists."""
    files: dict[str, JsonSchema] = {}
    for collection, model in DOCUMENTS.items():
        noun = _NOUNS[collection]
        files[f"document.{noun}.v1.json"] = schema_of(model, f"urn:bridge:schema:document.{noun}:v1")
    for kind in CATALOG:
        files[f"{kind.name}.v1.json"] = schema_of(payload_model(kind), kind.schema_id)
    files["progress.v1.json"] = schema_of(Progress, "urn:bridge:schema:progress:v1")
    return files


def export(folder: Path, files: Mapping[str, JsonSchema]) -> list[Path]:
    """Write these schemas into `folder` and remove files of types that no longer exist; the paths written."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.json"):
        if old.name not in files:
            old.unlink()
    for name, schema in files.items():
        (folder / name).write_bytes(_bytes(schema))
    return [folder / name for name in sorted(files)]


def stale(folder: Path, files: Mapping[str, JsonSchema]) -> list[str]:
    """Names of files that are missing, superfluous or different from what the models say."""
    present = {path.name: path.read_bytes() for path in folder.glob("*.json")}
    wanted = {name: _bytes(schema) for name, schema in files.items()}
    return sorted(name for name in present.keys() | wanted.keys() if present.get(name) != wanted.get(name))


def incompatible(old: Mapping[str, JsonSchema], new: Mapping[str, JsonSchema]) -> list[str]:
    """Why a consumer of `old` cannot read `new`: one sentence per broken promise, none when it can."""
    problems: list[str] = []
    for name, schema in sorted(old.items()):
        if name not in new:
            problems.append(f"{name}: the type is gone")
        else:
            problems += [f"{name}: {text}" for text in _broken(schema, new[name], schema, new[name], "")]
    return problems


def _broken(
    old: JsonSchema,
    new: JsonSchema,
    old_root: JsonSchema,
    new_root: JsonSchema,
    where: str,
) -> list[str]:
    old, new = _resolved(old, old_root), _resolved(new, new_root)
    problems: list[str] = []
    allowed, possible = _types(old, old_root), _types(new, new_root)
    if allowed is not None and (possible is None or not possible <= allowed):
        extra = "anything" if possible is None else ", ".join(sorted(possible - allowed))
        problems.append(f"{where or '/'} may now be {extra}")
    for field in sorted(set(old.get("required", ())) - set(new.get("required", ()))):
        problems.append(f"{where}/{field} is no longer always there")
    old_fields, new_fields = old.get("properties", {}), new.get("properties", {})
    for field, schema in sorted(old_fields.items()):
        if field in new_fields:
            problems += _broken(schema, new_fields[field], old_root, new_root, f"{where}/{field}")
        else:
            problems.append(f"{where}/{field} is gone")
    return problems


def _types(schema: JsonSchema, root: JsonSchema) -> set[str] | None:
    """The JSON types that a schema allows; None: any."""
    if "anyOf" in schema:
        found: set[str] = set()
        for branch in schema["anyOf"]:
            types = _types(_resolved(branch, root), root)
            if types is None:
                return None
            found |= types
        return found
    kind = schema.get("type")
    if kind is None:
        return None
    return set(kind) if isinstance(kind, list) else {kind}


def _resolved(schema: JsonSchema, root: JsonSchema) -> JsonSchema:
    reference = schema.get("$ref")
    if not isinstance(reference, str):
        return schema
    target: JsonSchema = root
    for part in reference.removeprefix("#/").split("/"):
        target = target[part]
    return target


class _Generator(GenerateJsonSchema):
    schema_dialect = DIALECT


def schema_of(model: type[BaseModel], schema_id: str) -> JsonSchema:
    """The schema of one model."""
    schema = model.model_json_schema(by_alias=True, schema_generator=_Generator)
    return {"$schema": DIALECT, "$id": schema_id, **schema}


def _bytes(schema: JsonSchema) -> bytes:
    return orjson.dumps(schema, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS) + b"\n"
