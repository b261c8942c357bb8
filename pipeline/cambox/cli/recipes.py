"""What to annotate with: recipes to begin from, settings and models to choose from."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from cambox.cli.options import Json, app


@app.command()
def recipes(
    name: Annotated[
        str | None, typer.Argument(help="The recipe to print; without it all are listed")
    ] = None,
    settings: Annotated[
        bool, typer.Option("--settings", help="Print every key with its default and meaning")
    ] = False,
) -> None:
    """List the recipes that come with cambox, or print one to change.

    `cambox annotate precise` runs one as it is; `cambox recipes precise > mine.yaml` and `cambox
    annotate mine.yaml` run one of your own.
    """
    from cambox.config_file import recipe_names, recipe_text

    if settings:
        from cambox.settings_page import settings_page

        typer.echo(settings_page(), nl=False)
    elif name is not None:
        typer.echo(recipe_text(name), nl=False)
    else:
        for known in recipe_names():
            typer.echo(f"{known:12} {recipe_text(known).splitlines()[0].removeprefix('# ')}")


@app.command()
def models(
    pattern: Annotated[
        str, typer.Argument(help="Names with wildcards, such as 'swin_*' or 'torchvision/*vit*'")
    ],
    limit: Annotated[int, typer.Option(min=1, help="The most models to build and run")] = 30,
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
