"""The names of the classes that labels count: a file beside the shards, one name a line."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from cambox.errors import RequestError
from cambox.sources.retry import read_whole
from cambox.sources.shards import Shard
from cambox.sources.storage import HTTP, protocol_of

FILE_NAME = "class_names.txt"
Labels = Mapping[str, tuple[int, ...]]


def read_class_list(
    setting: str, uri: str, storage_options: Mapping[str, Any] | None = None
) -> tuple[str, ...]:
    """Read the names, one a line.

    Raises:
        RequestError: it cannot be read; it begins with the setting that names the file.
    """
    try:
        return tuple(read_whole(uri, storage_options).decode("utf-8-sig").splitlines())
    except (OSError, UnicodeDecodeError, RequestError) as error:
        raise RequestError(f"{setting}: {uri} cannot be read: {error}") from error


def find_class_list(
    shards: Sequence[Shard], storage_options: Mapping[str, Any] | None = None
) -> str | None:
    """The list that ``pack`` leaves in the shards' folder; None: there is none.

    A web server has no folders, and is not asked.

    Raises:
        RequestError: the shards are of several folders, whose lists differ.
        OSError: the storage failed.
    """
    folders = dict.fromkeys(shard.uri.rpartition("/")[0] for shard in shards)
    found: dict[str, bytes] = {}
    for folder in folders:
        uri = f"{folder}/{FILE_NAME}"
        if protocol_of(uri) in HTTP:
            continue
        try:
            found[uri] = read_whole(uri, storage_options)
        except (FileNotFoundError, PermissionError):
            continue  # a bucket that may not be listed says of what is not there that it is denied
    (first, *others) = found or (None,)
    for other in others:
        if first is not None and found[other] != found[first]:
            raise RequestError(
                f"input.shards: {first} and {other} differ, so that a label means another class in "
                f"each folder; annotate them apart"
            )
    return first


def renumbered(labels: Labels, names: Sequence[str], known: Sequence[str]) -> Labels:
    """Labels as indices of a list that is given, where they are of another or none.

    Args:
        labels: indices of ``names``; where that is empty, of ``known`` already.
        names: what the images' own folders or lines say.

    Raises:
        RequestError: a class is not in the given list.
    """
    places = {name: place for place, name in enumerate(known)}
    for name in names:
        if name not in places:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "add it there"
            raise RequestError(f"--class-names: the file has no class {name!r}; {hint}")
    largest = max((index for classes in labels.values() for index in classes), default=0)
    if not names and largest >= len(known):
        raise RequestError(
            f"--class-names: the file has {len(known)} classes, and a label is {largest}; give "
            f"the list that the labels count"
        )
    if not names:
        return labels
    return {
        image: tuple(places[names[index]] for index in classes) for image, classes in labels.items()
    }


def difference(listed: Sequence[str], names: Sequence[str]) -> str | None:
    """How the classes of labels differ from those of a model, in words; None where they do not.

    Lists of one length that call the same classes otherwise, such as by codes, cannot be told from
    others and count as the same; one name at two places is a difference.
    """
    if len(listed) != len(names):
        return f"{_counted(listed)}, and the model has {_counted(names)}"
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name.casefold(), []).append(place)
    for place, name in enumerate(listed):
        elsewhere = places.get(name.casefold(), [place])
        if place not in elsewhere:
            return f"{name} as class {place}, and the model has it as class {elsewhere[0]}"
    return None


def _counted(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{len(names)} classes ({shown}{', ...' if len(names) > 3 else ''})"
