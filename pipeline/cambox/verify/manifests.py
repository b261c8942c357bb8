"""Whether every file that a manifest names is there, to the byte."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cambox.console import counted
from cambox.errors import RequestError
from cambox.output.folders import RECIPE_FOLDER, Folder
from cambox.output.manifest import Manifest, chain, newest_manifest, read_manifest
from cambox.output.publish import replaced_uri
from cambox.sources.retry import read_whole
from cambox.verify.findings import Problem

LOST = "not what the last run left there, and that was not kept; run cambox annotate again"


@dataclass(frozen=True)
class ManifestReport:
    """What the check of a folder's manifests found.

    Attributes:
        problems: of the newest one, which is what readers read.
        remarks: of those before it, which nothing makes whole again.
    """

    problems: tuple[Problem, ...] = ()
    remarks: tuple[str, ...] = ()


def verify_manifests(folder: Folder, digests: Mapping[str, str | None]) -> ManifestReport:
    """Check all manifests of a recipe's folder.

    Args:
        digests: the SHA-256 of each visible file, by name; None of one that could not be read.

    Raises:
        OSError: the storage failed.
    """
    if RECIPE_FOLDER.fullmatch(folder.name) is None:
        return ManifestReport()
    options = folder.storage_options
    try:
        _, newest = newest_manifest(folder.uri, options)
        if newest is None:
            return ManifestReport()
        read_manifest(folder.uri, newest, options)
    except RequestError as error:
        return ManifestReport((Problem.of(folder.uri, "manifest", str(error)),))
    # A replaced file is named by many manifests, and read once.
    kept: dict[str, bool] = {}

    def missing(manifest: Manifest) -> Iterator[str]:
        for file in manifest.files:
            if digests.get(file.name) == file.sha256:
                continue
            place = replaced_uri(folder.uri_of(file.name), file.sha256)
            if file.sha256 not in kept:
                kept[file.sha256] = _sha256(place, folder) == file.sha256
            if not kept[file.sha256]:
                yield file.name

    problems: list[Problem] = []
    remarks: list[str] = []
    try:
        for digest, manifest in chain(folder.uri, newest, options):
            names = list(missing(manifest))
            if digest == newest:
                problems += [Problem.of(folder.uri_of(name), "manifest", LOST) for name in names]
            elif names:
                remarks.append(
                    f"{folder.uri}: the manifest {digest[:12]} of "
                    f"{manifest.created_at:%Y-%m-%d %H:%M} UTC cannot be read whole any more: "
                    f"{counted(len(names), 'file')} of it lost, first {names[0]}"
                )
    except RequestError as error:
        remarks.append(str(error))
    return ManifestReport(tuple(problems), tuple(remarks))


def _sha256(uri: str, folder: Folder) -> str | None:
    try:
        return hashlib.sha256(read_whole(uri, folder.storage_options)).hexdigest()
    except FileNotFoundError:
        return None
