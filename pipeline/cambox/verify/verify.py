"""Whether an output keeps its promise: each file, and the files of a folder together."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from cambox.output.folders import Folder, foreign, leftovers
from cambox.output.publish import file_name
from cambox.output.reading import published_folders
from cambox.verify.file import FileReport, verify_file
from cambox.verify.findings import Check, Problem
from cambox.verify.input import InputRule

# Each holds one file in memory.
FILES_AT_ONCE = 8


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


def verify(
    uri: str,
    storage_options: Mapping[str, Any] | None = None,
    against_input: bool = False,
    input_storage_options: Mapping[str, Any] | None = None,
    on_file: Callable[[], None] | None = None,
) -> Verification:
    """Read an output whole and say where it breaks its promise.

    Args:
        uri: the output's root, or one recipe's folder.
        storage_options: passed to the fsspec file system of the output.
        against_input: read each file's shard again and compare its samples.
        input_storage_options: passed to the fsspec file system of the shards.
        on_file: called in the calling thread after each file.

    Raises:
        RequestError: there is no such output, or it cannot be listed.
    """
    filesystem, folders = published_folders(uri, storage_options)
    input_rule = InputRule(input_storage_options) if against_input else None
    statuses: Counter[str] = Counter()
    problems: list[Problem] = []
    remarks: list[str] = []
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        for folder in folders:
            results = pool.map(
                lambda path, folder=folder: verify_file(
                    filesystem, path, folder.uri_of(path), folder.name, input_rule
                ),
                folder.parquet,
            )
            reports: dict[str, FileReport] = {}
            for path, report in zip(folder.parquet, results, strict=True):
                reports[path] = report
                statuses.update(report.statuses)
                problems.extend(report.problems)
                if on_file is not None:
                    on_file()
            problems.extend(_names(folder, reports))
            problems.extend(_one_recipe(folder, reports))
            problems.extend(leftovers(folder))
            problems.extend(foreign(folder))
            remarks.extend(_mixed_versions(folder, reports.values()))
    files = sum(len(folder.parquet) for folder in folders)
    return Verification(files, statuses.total(), dict(statuses), tuple(problems), tuple(remarks))


def _names(folder: Folder, reports: Mapping[str, FileReport]) -> Iterator[Problem]:
    """A shard has one file, with the name that the shard's URI gives."""
    of_shard: dict[str, list[str]] = defaultdict(list)
    for path, report in reports.items():
        if report.origin is not None:
            of_shard[report.origin.shard_uri].append(path)
    for shard_uri, paths in of_shard.items():
        name = file_name(shard_uri)
        first, *others = sorted(paths, key=lambda path: folder.below(path) != name)
        if folder.below(first) != name:
            yield Problem.of(
                folder.uri_of(first),
                Check.name,
                f"the file of {shard_uri} is called {name}; rename it, or a run makes it again",
            )
        for other in others:
            yield Problem.of(
                folder.uri_of(other),
                Check.duplicate,
                f"{folder.below(first)} is from the same shard {shard_uri}; delete one of them",
            )


def _one_recipe(folder: Folder, reports: Mapping[str, FileReport]) -> Iterator[Problem]:
    recipes = {
        path: report.origin.recipe
        for path, report in reports.items()
        if report.origin is not None and report.origin.recipe is not None
    }
    ((usual, _),) = Counter(recipes.values()).most_common(1) or ((None, 0),)
    for path, recipe in recipes.items():
        if recipe != usual:
            example = next(other for other in recipes if recipes[other] == usual)
            yield Problem.of(
                folder.uri_of(path),
                Check.recipe,
                f"recipe or class list is not that of {folder.below(example)} beside it",
            )


def _mixed_versions(folder: Folder, reports: Iterable[FileReport]) -> Iterator[str]:
    versions: Counter[tuple[str, str]] = Counter()
    for report in reports:
        if report.origin is not None:
            versions.update(report.origin.versions)
    libraries: dict[str, list[str]] = defaultdict(list)
    for (library, version), count in sorted(versions.items()):
        libraries[library].append(f"{version} in {count} files")
    for library, listed in libraries.items():
        if len(listed) > 1:
            yield f"{folder.uri}: mixed versions of {library}: {', '.join(listed)}"
