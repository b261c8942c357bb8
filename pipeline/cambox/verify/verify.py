"""Whether an output keeps its promise: each file, and the files of a folder together."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from cambox.console import Advance, counted, say
from cambox.output.folders import Folder, recipe_folders
from cambox.output.publish import file_name
from cambox.sources.retry import as_request
from cambox.sources.samples import SEVERAL_IMAGES
from cambox.verify.file import FileReport, verify_file
from cambox.verify.findings import Problem
from cambox.verify.manifests import verify_manifests

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
        against_input: read each file's shard again and compare its samples.
        input_storage_options: of the shards, passed to fsspec as those of the output are.
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
            problems.extend(_together(folder, reports))
            with as_request(f"{folder.uri} cannot be read"):
                digests = {name: report.sha256 for name, report in reports.items()}
                manifests = verify_manifests(folder, digests)
            # Of a file that is damaged that is enough.
            named = {problem.file for problem in problems}
            problems.extend(one for one in manifests.problems if one.file not in named)
            remarks.extend(manifests.remarks)
            remarks.extend(_mixed_versions(folder, reports.values()))
            if several := sum(report.several_images for report in reports.values()):
                remarks.append(
                    f"{folder.uri}: {several} rows are of samples with {SEVERAL_IMAGES}, of which "
                    "only one is annotated; their column error says which"
                )
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
    counts = f"{counted(verification.files, 'file')}, {counted(verification.rows, 'row')}"
    if verification.statuses:
        statuses = sorted(verification.statuses.items())
        counts += f" ({', '.join(f'{name} {count}' for name, count in statuses)})"
    wrong = len({problem.file for problem in verification.problems})
    verdict = f"{counted(len(verification.problems), 'problem')} in {counted(wrong, 'file')}"
    say(console, f"{counts}: {'all is as promised' if verification.ok else verdict}")


def _together(folder: Folder, reports: Mapping[str, FileReport]) -> Iterator[Problem]:
    """What is wrong with the files of a folder beside each other.

    A shard has one file, with the name that the shard's URI gives; all are of one recipe.
    """
    of_shard: dict[str, list[str]] = defaultdict(list)
    for name, report in reports.items():
        if report.shard_uri is not None:
            of_shard[report.shard_uri].append(name)
    for shard_uri, names in of_shard.items():
        expected = file_name(shard_uri)
        first, *others = sorted(names, key=lambda name: name != expected)
        if first != expected:
            text = (
                f"the file of {shard_uri} is called {expected}; rename it, or a run makes it again"
            )
            yield Problem.of(folder.uri_of(first), "name", text)
        for other in others:
            text = f"{first} is from the same shard {shard_uri}; delete one of them"
            yield Problem.of(folder.uri_of(other), "duplicate", text)
    recipes = {name: report.recipe for name, report in reports.items() if report.recipe is not None}
    usual = Counter(recipes.values()).most_common(1)[0][0] if recipes else None
    for name, recipe in recipes.items():
        if recipe != usual:
            example = next(other for other in recipes if recipes[other] == usual)
            text = f"recipe or class list is not that of {example} beside it"
            yield Problem.of(folder.uri_of(name), "recipe", text)
    # Of our own publishing, and what a reader would take for Parquet.
    for name in folder.temporary:
        text = "a temporary file of a run that was ended; delete it once no run is writing here"
        yield Problem.of(folder.uri_of(name), "leftover", text)
    for name in sorted({*folder.visible} - {*folder.parquet}):
        text = "not a Parquet file, and readers of the folder trip over it; move it away"
        yield Problem.of(folder.uri_of(name), "foreign", text)


def _mixed_versions(folder: Folder, reports: Iterable[FileReport]) -> Iterator[str]:
    versions = Counter(pair for report in reports for pair in report.versions)
    libraries: dict[str, list[str]] = defaultdict(list)
    for (library, version), count in sorted(versions.items()):
        libraries[library].append(f"{version} in {counted(count, 'file')}")
    for library, listed in libraries.items():
        if len(listed) > 1:
            yield f"{folder.uri}: mixed versions of {library}: {', '.join(listed)}"
