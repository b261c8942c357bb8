"""Measurements, as ratios taken in one run."""

from __future__ import annotations

import typer

from bench.boxes import boxes
from bench.flips import flip
from bench.kills import kills
from bench.memory import memory
from bench.mutations import mutations
from bench.rebox import rebox
from bench.runs import flat, planning
from bench.settings_fuzz import settings
from bench.throughput import throughput
from bench.workers import actors, schedule
from bench.zoom import zoom

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)
app.command()(throughput)
app.command("plan")(planning)
app.command()(schedule)
app.command("ray")(actors)
app.command()(flat)
app.command()(rebox)
app.command()(boxes)
app.command()(memory)
app.command()(zoom)
app.command("flips")(flip)
app.command()(settings)
app.command()(mutations)
app.command()(kills)

if __name__ == "__main__":
    app()
