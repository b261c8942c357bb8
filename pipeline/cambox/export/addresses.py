"""What an export calls the user's own files, so that none is copied: ``--image-root``."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

from cambox.sources.samples import ImageRule
from cambox.sources.shards import Shard
from cambox.training.shards import files_of_images

LOCAL_FILES = "/data/local-files/?d="
"""What a path below Label Studio's own document root begins with."""

KEY = "{key}"
"""What stands for a sample's key in a root."""

_QUOTED = ("http://", "https://")


def address_below(root: str, path: str) -> str:
    """A path below a root: a folder, a URL, or one that ends in ``?d=``; empty: the path alone.

    >>> address_below("s3://bucket/photos", "dog/1.jpg")
    's3://bucket/photos/dog/1.jpg'
    >>> address_below("/data/local-files/?d=", "dog 1.jpg")
    '/data/local-files/?d=dog%201.jpg'
    """
    if root.startswith(_QUOTED) or "?d=" in root:
        path = quote(path)
    between = "" if not root or root.endswith(("/", "=")) else "/"
    return f"{root}{between}{path}"


def addresses_of(shard: Shard, rule: ImageRule, root: str, suffix: str) -> Callable[[str], str]:
    """The addresses of a shard's images, by their keys.

    A picture of ``input.images`` keeps its path below the folder that was annotated, or all of it
    where a table named it elsewhere. Of a tar's image it is what unpacking would make of it.

    Args:
        root: where the files are; ``{key}`` in it stands for the key, and nothing follows then.
        suffix: of the tars' images, which no row tells.
    """
    if KEY in root:
        return lambda key: root.replace(KEY, quote(key) if root.startswith(_QUOTED) else key)
    if not shard.files:
        kind = rule.image if rule.image and rule.several != "name" else suffix
        return lambda key: address_below(root, f"{key}.{kind}")
    folder = shard.uri[: shard.uri.rfind("/") + 1]
    uris = files_of_images(shard, rule)

    def of_picture(key: str) -> str:
        uri = uris[key] or key
        path = uri.removeprefix(folder)
        return uri if path == uri else address_below(root, path)

    return of_picture
