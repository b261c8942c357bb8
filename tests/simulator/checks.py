"""What has to hold, compared with what the simulator knows to be true."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow.parquet as pq

from .engine import RECIPE, ROOT, keys_of
from .store import Store

OUT = "simulated/out"
RUNS = f"{OUT}/_runs/{RECIPE.folder}"
_KEYS: dict[str, tuple[str, ...]] = {}


class BrokenPromiseError(AssertionError):
    """Something that the product promises does not hold."""


def wrong(what: str) -> BrokenPromiseError:
    """The error that says what does not hold."""
    return BrokenPromiseError(what)


class Checks:
    """The truth about the input, and what is compared with it.

    Attributes:
        kept: manifests that every pruning so far has kept.
    """

    def __init__(self, store: Store, strict: bool) -> None:
        self.store, self.strict = store, strict
        self.kept = 14
        # Of each shard the contents in order of time, and the fingerprints that tell them.
        self.states: dict[str, list[bytes]] = {}
        self.fingerprints: dict[str, list[str]] = {}

    def states_of(self, uri: str) -> list[bytes]:
        """The contents that a shard has had, each once."""
        return list(dict.fromkeys(self.states.get(uri, [])))

    def change(self, path: str, state: int, samples: int) -> None:
        """Give a shard a new content, or one that it has had."""
        uri = f"{ROOT}/{path}"
        states = self.states_of(uri)
        content = json.dumps([f"{path}-{state}-{key}" for key in range(samples)]).encode()
        if state < len(states):
            content = states[state]
        self.store.place(f"simulated/{path}", content)
        tag = self.store.now[f"simulated/{path}"].tag
        self.states.setdefault(uri, []).append(content)
        self.fingerprints.setdefault(uri, []).append(f"size={len(content)} etag={tag}")

    def input(self) -> dict[str, str]:
        """The fingerprint of each shard that is there now."""
        there = [uri for uri in self.states if uri.removeprefix("s3://") in self.store.now]
        return {uri: self.fingerprints[uri][-1] for uri in there}

    def _manifest(self, digest: str) -> dict[str, Any] | None:
        version = self.store.now.get(f"{RUNS}/manifests/{digest}.json")
        if version is None:
            return None
        if hashlib.sha256(version.data).hexdigest() != digest:
            raise wrong(f"manifest {digest} is not what its name says")
        manifest: dict[str, Any] = json.loads(version.data)
        return manifest

    def manifests(self) -> None:
        """Every kept manifest can be read whole and holds each sample once; ``latest`` is right."""
        digest = self._pointer(f"{RUNS}/newest.json")
        for _ in range(self.kept):
            if digest is None:
                break
            manifest = self._manifest(digest)
            if manifest is None:
                raise wrong(f"manifest {digest[:12]} is gone")
            self._whole(manifest)
            digest = manifest["previous"]
            if digest is not None and self._manifest(digest) is None and self.kept < 14:
                break
        latest = self._pointer(f"{OUT}/_latest.json")
        if latest is not None:
            manifest = self._manifest(latest)
            if manifest is None:
                raise wrong(f"latest names {latest[:12]}, which is gone")
            self._whole(manifest)
            self.complete(latest)

    def _pointer(self, path: str) -> str | None:
        version = self.store.now.get(path)
        return None if version is None else str(json.loads(version.data)["manifest"])

    def _whole(self, manifest: dict[str, Any]) -> None:
        shards = Counter(file["shard"] for file in manifest["files"])
        if any(count > 1 for count in shards.values()):
            raise wrong(f"a manifest has a shard twice: {shards}")
        for file in manifest["files"]:
            places = (f"{OUT}/{RECIPE.folder}/{file['name']}", f"{RUNS}/replaced/{file['sha256']}")
            for place in places:
                version = self.store.now.get(place)
                if version is not None and _sha256(version.data) == file["sha256"]:
                    break
            else:
                raise wrong(f"{file['name']} of a manifest is neither in its place nor kept")
            if len(version.data) != file["size"]:
                raise wrong(f"{file['name']} has another size than its manifest says")
            if _keys(version.data) != self._truth(file):
                raise wrong(f"{file['name']} does not hold each sample of {file['shard']} once")

    def _truth(self, file: dict[str, Any]) -> tuple[str, ...]:
        uri, fingerprint = file["shard"], file["fingerprint"]
        place = self.fingerprints[uri].index(fingerprint)
        return keys_of(self.states[uri][place])

    def complete(self, digest: str | None) -> None:
        """A manifest has every shard of its input, in the state of its plan or a later one."""
        if digest is None:
            raise wrong("a complete run has no manifest")
        # It never changes, so whoever has it may have pruned it since.
        manifest = self._manifest(digest)
        if manifest is None:
            if self.kept == 14:
                raise wrong(f"manifest {digest[:12]} is gone")
            return
        files = {file["shard"]: file["fingerprint"] for file in manifest["files"]}
        if manifest["given_up"]:
            raise wrong("what counts as complete has shards that were given up")
        for uri, fingerprint in manifest["shards"]:
            states = self.fingerprints[uri]
            since = states.index(fingerprint) if self.strict else 0
            if files.get(uri) not in states[since:]:
                raise wrong(f"what counts as complete has {files.get(uri)} of {uri}")

    def read(self, digest: str, keys: Sequence[str]) -> None:
        """A reader has had the rows of the manifest that it began with."""
        path = f"{RUNS}/manifests/{digest}.json"
        version = self.store.now.get(path) or self.store.before.get(path)
        assert version is not None
        files = json.loads(version.data)["files"]
        if list(keys) != [key for file in files for key in self._truth(file)]:
            raise wrong(f"a reader of {digest[:12]} has had other rows: {keys}")

    def newest_is(self, digest: str | None) -> None:
        """Both pointers name this manifest."""
        for path in (f"{RUNS}/newest.json", f"{OUT}/_latest.json"):
            if self._pointer(path) != digest:
                raise wrong(f"{path} names {self._pointer(path)}, not {digest}")

    def same_as_a_clean_run(self, digest: str) -> None:
        """The rows of the input's shards are those that a run with nothing before it would make."""
        manifest = self._manifest(digest)
        assert manifest is not None
        files = {file["shard"]: file["fingerprint"] for file in manifest["files"]}
        for uri, fingerprint in self.input().items():
            if files.get(uri) != fingerprint:
                raise wrong(f"after quiet {uri} has {files.get(uri)}, not {fingerprint}")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _keys(data: bytes) -> tuple[str, ...]:
    digest = _sha256(data)
    if digest not in _KEYS:
        _KEYS[digest] = tuple(pq.read_table(io.BytesIO(data), columns=["key"])["key"].to_pylist())
    return _KEYS[digest]
