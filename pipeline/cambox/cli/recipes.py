"""What to annotate with: recipes to begin from, settings and models to choose from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer
from rich.console import Console
from typer import Argument, Option

from cambox.cli.options import Json, app

HEAD = """\
# Settings

Every key of a configuration. This page is made by `cambox recipes --settings`, and a key that is
not on it is an error. Change one without editing a file: `--set cam.top_k=3`.
"""

Schema = Mapping[str, Any]


@app.command()
def recipes(
    name: Annotated[
        str | None, Argument(help="The recipe to print; without it all are listed")
    ] = None,
    settings: Annotated[
        bool, Option("--settings", help="Print every key with its default and meaning")
    ] = False,
) -> None:
    """List the recipes that come with cambox, or print one to change.

    `cambox annotate precise` runs one as it is; `cambox recipes precise > mine.yaml` and `cambox
    annotate mine.yaml` run one of your own.
    """
    from cambox.config_file import recipe_names, recipe_text

    if settings:
        typer.echo(settings_page(), nl=False)
    elif name is not None:
        typer.echo(recipe_text(name), nl=False)
    else:
        for known in recipe_names():
            typer.echo(f"{known:12} {recipe_text(known).splitlines()[0].removeprefix('# ')}")


@app.command()
def models(
    pattern: Annotated[
        str, Argument(help="Names with wildcards, such as 'swin_*' or 'torchvision/*vit*'")
    ],
    limit: Annotated[int, Option(min=1, help="The most models to build and run")] = 30,
    as_json: Json = False,
) -> None:
    """Say which models have a map, how fine, and at what cost.

    Builds each with random weights and probes it. Kinds: affine, fixed class weights; frozen,
    norms and gates behind the pooling are held at each image's values; derivative, where that is
    not enough; attention, what each token hands to the class through the last attention; cells,
    layers over all cells at once (VGG).
    """
    from cambox.models.inspect import inspect_models, matching_models, print_models, to_json

    console = Console(stderr=as_json)
    inspected = list(inspect_models(matching_models(pattern, limit), console))
    if as_json:
        typer.echo(to_json(inspected))
    else:
        print_models(inspected, console)


def settings_page() -> str:
    """All settings as a Markdown page, from the one place where they stand: ``config.py``."""
    from cambox.config import Config

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
    inner: list[str] = []
    for key, entry in section["properties"].items():
        # A mapping that is made anew for each configuration has no default in the schema.
        value = entry.get("default", {})
        text = value if isinstance(value, str) else json.dumps(value)
        default = "must be given" if key in section.get("required", ()) else f"`{text}`"
        if _section(entry):
            inner += _tables(f"{name}.{key}", entry, sections)
            default = "`null`" if value is None else "as below"
        meaning = " ".join(entry["description"].split())
        meaning = meaning.replace("|", r"\|").replace("<", r"\<")
        lines.append(f"| `{name}.{key}` | {_type(entry)} | {default} | {meaning} |")
    yield "\n".join([*lines, ""])
    yield from inner


def _section(field: Schema) -> str:
    """The name of the section that a field is, or may be; empty for a plain setting."""
    return next((kind["$ref"][len("#/$defs/") :] for kind in _kinds(field) if "$ref" in kind), "")


def _kinds(field: Schema) -> list[Schema]:
    return list(field.get("anyOf", [field]))


def _type(field: Schema) -> str:
    return " or ".join(_type_of_one(kind) for kind in _kinds(field))


def _type_of_one(kind: Schema) -> str:
    match kind:
        case {"$ref": _}:
            return "section"
        case {"enum": values}:
            return " or ".join(f"`{value}`" for value in values)
        case {"const": value}:
            return f"`{value}`"
        case {"type": "boolean"}:
            return "true or false"
        case {"prefixItems": items}:
            return f"[{', '.join(map(_type, items))}]"
        case {"type": "array", "items": items}:
            return f"list of {_type(items)}"
        case {"type": "object"}:
            return f"mapping of {_type(kind.get('propertyNames', {'type': 'anything'}))}"
    limits = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to"}
    within = (f" {word} {kind[key]:g}" for key, word in limits.items() if key in kind)
    return f"{kind['type']}{''.join(within)}"
