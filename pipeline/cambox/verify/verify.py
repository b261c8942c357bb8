"""Whether an output keeps its promise: each file, and the files of a folder together."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from cambox.console import Advance, say
from cambox.output.folders import Folder, recipe_folders
from cambox.output.publish import file_name
from cambox.verify.file import FileReport, verify_file
from cambox.verify.findings import Check, Problem

# Each holds one file in memory.
FILES_AT_ONCE = 8
LINES_OF_A_KIND = 20


@dataclass(frozen=True)
class Verification:
    """What is known of an output after all of it was read.

    Attributes:
        files: visible Parquet files, whole or not.
        rows: of the files that could be read.
        statuses: those rows by status.
        problems: in the order of the files.
        remarks: what a person should know although no promise is broken.
    """

    files: int
    rows: int
    statuses: Mapping[str, int]
    problems: tuple[Problem, ...]
    remarks: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def to_json(self) -> str:
        """One JSON object: ``ok`` and the fields."""
        return json.dumps({"ok": self.ok, **asdict(self)}, ensure_ascii=False)


def verify(
    uri: str,
    storage_options: Mapping[str, Any] | None = None,
    against_input: bool = False,
    input_storage_options: Mapping[str, Any] | None = None,
    on_file: Advance | None = None,
) -> Verification:
    """Read an output whole and say where it breaks its promise.

    Args:
        uri: the output's root, or one recipe's folder.
        storage_options: passed to the fsspec file system of the output.
        against_input: read each file's shard again and compare its samples.
        input_storage_options: passed to the fsspec file system of the shards.
        on_file: called in the calling thread with the number of files, after each.

    Raises:
        RequestError: there is no such output, or it cannot be listed.
    """
    folders = recipe_folders(uri, storage_options)
    files = sum(len(folder.parquet) for folder in folders)
    statuses: Counter[str] = Counter()
    problems: list[Problem] = []
    remarks: list[str] = []
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        for folder in folders:
            results = pool.map(
                lambda name, folder=folder: verify_file(
                    folder, name, against_input, input_storage_options
                ),
                folder.parquet,
            )
            reports: dict[str, FileReport] = {}
            for name, report in zip(folder.parquet, results, strict=True):
                reports[name] = report
                statuses.update(report.statuses)
                problems.extend(report.problems)
                if on_file is not None:
                    on_file(files)
            problems.extend(_names(folder, reports))
            problems.extend(_one_recipe(folder, reports))
            problems.extend(_in_the_way(folder))
            remarks.extend(_mixed_versions(folder, reports.values()))
    return Verification(files, statuses.total(), dict(statuses), tuple(problems), tuple(remarks))


def print_verification(verification: Verification, console: Console) -> None:
    """List the problems, those of one kind together, then say how it stands."""
    kinds: dict[str, list[Problem]] = defaultdict(list)
    for problem in verification.problems:
        kinds[problem.kind].append(problem)
    for kind, problems in kinds.items():
        say(console, *(f"{problem.file}: {problem.what}" for problem in problems[:LINES_OF_A_KIND]))
        if (more := len(problems) - LINES_OF_A_KIND) > 0:
            say(console, f"... and {more} more files: {kind}")
    say(console, *(f"remark: {remark}" for remark in verification.remarks))
    statuses = ", ".join(f"{name} {count}" for name, count in sorted(verification.statuses.items()))
    counts = f"{verification.files} files, {verification.rows} rows" + (
        f" ({statuses})" if statuses else ""
    )
    wrong = len({problem.file for problem in verification.problems})
    say(
        console,
        f"{counts}: all is as promised"
        if verification.ok
        else f"{counts}: {len(verification.problems)} problems in {wrong} files",
    )


def _names(folder: Folder, reports: Mapping[str, FileReport]) -> Iterator[Problem]:
    """A shard has one file, with the name that the shard's URI gives."""
    of_shard: dict[str, list[str]] = defaultdict(list)
    for name, report in reports.items():
        if report.shard_uri is not None:
            of_shard[report.shard_uri].append(name)
    for shard_uri, names in of_shard.items():
        expected = file_name(shard_uri)
        first, *others = sorted(names, key=lambda name: name != expected)
        if first != expected:
            yield Problem.of(
                folder.uri_of(first),
                Check.name,
                f"the file of {shard_uri} is called {expected}; rename it, or a run makes it again",
            )
        for other in others:
            yield Problem.of(
                folder.uri_of(other),
                Check.duplicate,
                f"{first} is from the same shard {shard_uri}; delete one of them",
            )


def _one_recipe(folder: Folder, reports: Mapping[str, FileReport]) -> Iterator[Problem]:
    recipes = {name: report.recipe for name, report in reports.items() if report.recipe is not None}
    ((usual, _),) = Counter(recipes.values()).most_common(1) or ((None, 0),)
    for name, recipe in recipes.items():
        if recipe != usual:
            example = next(other for other in recipes if recipes[other] == usual)
            yield Problem.of(
                folder.uri_of(name),
                Check.recipe,
                f"recipe or class list is not that of {example} beside it",
            )


def _in_the_way(folder: Folder) -> Iterator[Problem]:
    """Temporary files of our own publishing, and files that a reader would take for Parquet."""
    for name in folder.temporary:
        yield Problem.of(
            folder.uri_of(name),
            Check.leftover,
            "a temporary file of a run that was ended; delete it once no run is writing here",
        )
    for name in folder.visible:
        if not name.endswith(".parquet"):
            yield Problem.of(
                folder.uri_of(name),
                Check.foreign,
                "not a Parquet file, and readers of the folder trip over it; move it away",
            )


def _mixed_versions(folder: Folder, reports: Iterable[FileReport]) -> Iterator[str]:
    versions = Counter(pair for report in reports for pair in report.versions)
    libraries: dict[str, list[str]] = defaultdict(list)
    for (library, version), count in sorted(versions.items()):
        libraries[library].append(f"{version} in {count} files")
    for library, listed in libraries.items():
        if len(listed) > 1:
            yield f"{folder.uri}: mixed versions of {library}: {', '.join(listed)}"
