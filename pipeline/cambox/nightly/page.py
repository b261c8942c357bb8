"""The report as one page that needs nothing else: no script, no font, no picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

# A page with a line for each of a million shards opens in no browser; the JSON file has them all.
MOST_LINES = 200


def render_page(report: Mapping[str, Any]) -> str:
    """HTML with the worst news first.

    Args:
        report: a ``RunReport`` as its JSON file has it.
    """
    environment = Environment(
        loader=PackageLoader("cambox.nightly", package_path=""),
        # Names of shards and messages of errors are other people's text.
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(report=report, most=MOST_LINES)
