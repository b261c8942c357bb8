"""The promise "every shard exactly once", measured: a clean run, and what differs from it."""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
from rich.console import Console

from cambox.config import Config
from cambox.engines.local import LocalEngine
from cambox.output.ledger import plan
from cambox.output.publish import is_temporary, recipe_uri
from cambox.planned import annotate_planned
from cambox.sources.shards import find_shards
from cambox.summary import RunSummary

QUIET = Console(file=io.StringIO())

# Of a sample: the shard's URI and the key.
Samples = Counter[tuple[str, str]]


class LocalRuns:
    """Runs in this process that share one loaded model, so that hundreds of them take seconds."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.engine = LocalEngine(config)

    def run(self, uri: str | Path | None = None) -> RunSummary:
        """The same as ``cambox.run.run``, into an output of one's own."""
        config = self.config if uri is None else with_output(self.config, uri)
        self.engine.config = config
        shards = find_shards(config.input.shards)
        return annotate_planned(
            config, self.engine, plan(shards, self.engine.recipe, config.output), QUIET
        )

    def folder(self, uri: str | Path) -> Path:
        """Where the files of a run into this output are."""
        return Path(recipe_uri(with_output(self.config, uri).output, self.engine.recipe))

    def clean(self, uri: str | Path) -> Clean:
        """A run that nothing disturbs."""
        summary = self.run(uri)
        assert summary.complete
        shards = [shard.uri for shard in find_shards(self.config.input.shards)]
        return Clean(visible(summary.folder), samples_in_tars(shards))


def with_output(config: Config, uri: str | Path) -> Config:
    """The configuration with another output."""
    return config.model_copy(update={"output": config.output.model_copy(update={"uri": str(uri)})})


@dataclass(frozen=True)
class Clean:
    """What a run that nothing disturbed left, and the samples that it should have had.

    Attributes:
        samples: read from the tars with the standard library, not by the code under test.
    """

    files: dict[str, bytes]
    samples: Samples


def visible(folder: str | Path) -> dict[str, bytes]:
    """A folder's files that Parquet readers see, whatever is in them."""
    paths = Path(folder).iterdir() if Path(folder).is_dir() else ()
    return {path.name: path.read_bytes() for path in paths if path.name[0] not in "._"}


def temporaries(folder: str | Path) -> list[Path]:
    """What publishers that died left in a folder."""
    paths = Path(folder).iterdir() if Path(folder).is_dir() else ()
    return [path for path in paths if is_temporary(path.name)]


def let_a_day_pass(folder: str | Path) -> None:
    """Make temporary files so old that nobody can still be writing them."""
    yesterday = time.time() - 25 * 3600
    for path in temporaries(folder):
        os.utime(path, (yesterday, yesterday))


def samples_in_tars(shards: Sequence[str | Path]) -> Samples:
    """Every key of every shard, once."""
    samples: Samples = Counter()
    for shard in shards:
        with tarfile.open(shard) as archive:
            keys = {name.rpartition("/")[2].partition(".")[0] for name in archive.getnames()}
        samples.update((str(shard), key) for key in keys)
    return samples


def samples_in_rows(folder: str | Path) -> Samples:
    """Every row of every visible file."""
    samples: Samples = Counter()
    for data in visible(folder).values():
        table = pq.read_table(io.BytesIO(data), columns=["shard", "key"])
        samples.update(zip(*(column.to_pylist() for column in table.columns), strict=True))
    return samples


@dataclass
class FaultTable:
    """What the tests measured: fault, times injected, samples lost, samples duplicated."""

    measured: dict[tuple[int, str], tuple[int, ...]] = field(default_factory=dict)

    def measure(
        self, line: int, fault: str, injected: int, folder: str | Path, expected: Samples
    ) -> tuple[int, int]:
        """Count and note the samples lost and duplicated; ``injected`` is counted, too."""
        rows = samples_in_rows(folder)
        lost, duplicated = (expected - rows).total(), (rows - expected).total()
        self.add([(line, fault, injected, lost, duplicated)])
        return lost, duplicated

    def add(self, entries: Iterable[tuple[int, str, int, int, int]]) -> None:
        """Count what was measured here or in another process."""
        for line, fault, *counts in entries:
            before = self.measured.get((line, fault), (0, 0, 0))
            self.measured[line, fault] = tuple(map(sum, zip(before, counts, strict=True)))

    def entries(self) -> list[tuple[int, str, int, int, int]]:
        """One line of the table each."""
        return [(*name, *counts) for name, counts in sorted(self.measured.items())]

    def check(self, line: int, fault: str, injected: int, folder: str | Path, clean: Clean) -> None:
        """The output is the clean run's, byte for byte, and something did go wrong on the way."""
        assert injected > 0, f"{fault} was never injected"
        counts = self.measure(line, fault, injected, folder, clean.samples)
        assert counts == (0, 0), f"{fault}: samples lost and duplicated: {counts}"
        found = visible(folder)
        assert found.keys() == clean.files.keys()
        differing = [name for name, data in found.items() if data != clean.files[name]]
        assert not differing, f"{fault}: not the clean run's bytes: {differing}"

    def lines(self) -> list[str]:
        """The table as Markdown."""
        head = ["| line | fault | injected | lost | duplicated |", "|---|---|---|---|---|"]
        return head + [
            f"| {line} | {fault} | {injected} | {lost} | {duplicated} |"
            for line, fault, injected, lost, duplicated in self.entries()
        ]
