"""All settings as a Markdown page, from the one place where they stand: ``config.py``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from cambox.config import Config

HEAD = """\
# Settings

Every key of a configuration. This page is made by `cambox recipes --settings`, and a key that is
not on it is an error. Change one without editing a file: `--set cam.top_k=3`.
"""

Schema = Mapping[str, Any]


def settings_page() -> str:
    """The page: for each section its keys, their types, defaults and meanings."""
    schema = Config.model_json_schema()
    tables = [
        table
        for name, field in schema["properties"].items()
        for table in _tables(name, field, schema["$defs"])
    ]
    return "\n".join([HEAD, *tables])


def _tables(name: str, field: Schema, sections: Schema) -> Iterator[str]:
    """The table of a section, then those of the sections in it."""
    section = sections[_section(field)]
    lines = [f"## {name}", "", section["description"], ""]
    lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
    required = section.get("required", ())
    inner: list[str] = []
    for key, entry in section["properties"].items():
        # A mapping that is made anew for each configuration has no default in the schema.
        value = entry.get("default", {})
        default = "must be given" if key in required else f"`{_plain(value)}`"
        if _section(entry):
            inner += _tables(f"{name}.{key}", entry, sections)
            default = "`null`" if value is None else "as below"
        meaning = entry["description"].replace("|", r"\|").replace("<", r"\<")
        lines.append(f"| `{name}.{key}` | {_type(entry)} | {default} | {meaning} |")
    yield "\n".join([*lines, ""])
    yield from inner


def _section(field: Schema) -> str:
    """The name of the section that a field is, or may be; empty for a plain setting."""
    names = [kind["$ref"].rpartition("/")[2] for kind in _kinds(field) if "$ref" in kind]
    return names[0] if names else ""


def _kinds(field: Schema) -> list[Schema]:
    return list(field.get("anyOf", [field]))


def _type(field: Schema) -> str:
    return " or ".join(_type_of_one(kind) for kind in _kinds(field))


def _type_of_one(kind: Schema) -> str:
    if "$ref" in kind:
        return "section"
    if "enum" in kind or "const" in kind:
        return " or ".join(f"`{value}`" for value in kind.get("enum", [kind.get("const")]))
    match kind["type"]:
        case "boolean":
            return "true or false"
        case "array" if "prefixItems" in kind:
            return f"[{', '.join(map(_type, kind['prefixItems']))}]"
        case "array":
            return f"list of {_type(kind['items'])}"
        case "object":
            keys = _type(kind["propertyNames"]) if "propertyNames" in kind else "anything"
            return f"mapping of {keys}"
        case name:
            return f"{name}{_range(kind)}"


def _range(kind: Schema) -> str:
    limits = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to"}
    return "".join(f" {word} {kind[key]:g}" for key, word in limits.items() if key in kind)


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
