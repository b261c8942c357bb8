"""A storage in memory that fails in the ways that storages fail, as a file system of fsspec's."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Any

from fsspec import AbstractFileSystem

from .clock import Clock
from .habits import Habits


class AnswerError(OSError):
    """An answer of the server's that is no success."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


@dataclass(frozen=True)
class Version:
    """One content of a name."""

    data: bytes
    tag: str
    seconds: float
    moment: datetime


class Store(AbstractFileSystem):  # type: ignore[misc]
    """All files are in ``now``; whatever ever was at a name is in ``versions``, None where it went.

    Attributes:
        arrived: called when a write that was on its way has had its effect.
        down_until: seconds; before that every request is answered with 503.
    """

    protocol = "s3"
    cachable = False

    def __init__(self, clock: Clock, habits: Habits) -> None:
        super().__init__()
        self.clock, self.habits = clock, habits
        self.now: dict[str, Version] = {}
        self.before: dict[str, Version | None] = {}
        self.changed_at: dict[str, float] = {}
        self.on_their_way: list[tuple[float, Callable[[], object]]] = []
        self.arrived: Callable[[], None] = lambda: None
        self.down_until = 0.0
        self.injected: Counter[str] = Counter()

    # What the simulator does by itself, which never fails.

    def place(self, path: str, data: bytes) -> None:
        """Let a file be there."""
        self._note(path)
        # As on S3: of the content alone.
        tag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        self.now[path] = Version(data, tag, self.clock.seconds, self.clock.true_now)

    def drop(self, path: str) -> None:
        """Let no file be there."""
        if path in self.now:
            self._note(path)
            del self.now[path]

    def arrive(self, everything: bool = False) -> None:
        """Let writes have their effect that have been on their way for long enough."""
        if not self.on_their_way:
            return
        due = [one for one in self.on_their_way if everything or one[0] <= self.clock.seconds]
        for one in due:
            self.on_their_way.remove(one)
            one[1]()
            self.arrived()

    def _note(self, path: str) -> None:
        self.before[path] = self.now.get(path)
        self.changed_at[path] = self.clock.seconds

    # What the code under test asks.

    def _ask(self, answer: Callable[[], Any], writes: bool = False) -> Any:
        self.clock.step()
        self.arrive()
        habits, chance = self.habits, self.clock.chance.random
        if self.clock.seconds < self.down_until or (habits.refuses and chance() < habits.refuses):
            self.injected["503"] += 1
            raise AnswerError(503)
        if not writes:
            return answer()
        lost = habits.loses > 0 and chance() < habits.loses
        if lost and chance() < habits.late:
            self.injected["a write comes late"] += 1
            self._later(answer)
            raise TimeoutError("no answer")
        result = answer()
        if habits.doubles and chance() < habits.doubles:
            self.injected["a write is doubled"] += 1
            self._later(answer)
        self.clock.stepped()
        if lost:
            self.injected["a reply is lost"] += 1
            raise TimeoutError("no answer")
        return result

    def _later(self, answer: Callable[[], object]) -> None:
        def arrives() -> None:
            try:
                answer()
            except OSError:
                # Nobody is there to hear of it.
                return

        seconds = self.clock.chance.random() * self.habits.latest
        self.on_their_way.append((self.clock.seconds + seconds, arrives))

    def _seen(self, path: str) -> Version:
        path = self._strip_protocol(path)
        version = self.now.get(path)
        # Of the output alone: what a shard is read as, its description cannot tell.
        if self.habits.stale and "/out/" in path and path in self.before:
            age = self.clock.seconds - self.changed_at[path]
            if age < self.habits.stale:
                self.injected["a stale read"] += 1
                version = self.before[path]
        if version is None:
            raise FileNotFoundError(path)
        return version

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.partition("://")[2] if "://" in path else path

    def info(self, path: str, **_: object) -> dict[str, Any]:
        """Size, ETag and time of a file."""
        return self._ask(lambda: self._info(path, self._seen(path)))  # type: ignore[no-any-return]

    def _info(self, path: str, version: Version) -> dict[str, Any]:
        return {
            "name": self._strip_protocol(path),
            "type": "file",
            "size": len(version.data),
            "ETag": version.tag,
            "LastModified": version.moment,
        }

    def ls(self, path: str, detail: bool = True, **_: object) -> list[Any]:
        """What lies directly in a folder."""

        def answer() -> list[Any]:
            start = self._strip_protocol(path).rstrip("/") + "/"
            found: dict[str, dict[str, Any]] = {}
            for name, version in self.now.items():
                if not name.startswith(start):
                    continue
                new = name not in self.before or self.before[name] is None
                age = self.clock.seconds - self.changed_at[name]
                if new and age < self.habits.lists_late:
                    self.injected["a late listing"] += 1
                    continue
                below, deeper, _ = name.removeprefix(start).partition("/")
                if deeper:
                    folder = start + below
                    found[folder] = {"name": folder, "type": "directory", "size": 0}
                else:
                    found[name] = self._info(name, version)
            if not found:
                raise FileNotFoundError(path)
            return list(found.values()) if detail else list(found)

        return self._ask(answer)  # type: ignore[no-any-return]

    def cat_file(self, path: str, *_: object, **__: object) -> bytes:
        """All bytes of a file."""
        return self._ask(lambda: self._seen(path).data)  # type: ignore[no-any-return]

    def cat_ranges(
        self, paths: Sequence[str], starts: Sequence[int], ends: Sequence[int], *_: Any, **__: Any
    ) -> list[bytes]:
        """Some bytes of files."""

        def answer() -> list[bytes]:
            asked = zip(paths, starts, ends, strict=True)
            return [self._seen(path).data[start:end] for path, start, end in asked]

        return self._ask(answer)  # type: ignore[no-any-return]

    def open(self, path: str, mode: str = "rb", *_: object, **__: object) -> IO[bytes]:
        """A file to be read; what is read is what was there when it was opened."""
        return io.BytesIO(self.cat_file(path))

    def exists(self, path: str, **_: object) -> bool:
        """Whether a file is there."""
        return self._ask(lambda: self._strip_protocol(path) in self.now)  # type: ignore[no-any-return]

    def rm_file(self, path: str) -> None:
        """Remove a file, or nothing, as on S3."""
        self._ask(lambda: self.drop(self._strip_protocol(path)), writes=True)

    def pipe_file(
        self,
        path: str,
        value: bytes,
        mode: str = "overwrite",
        IfMatch: str | None = None,  # noqa: N803  as s3fs has it
        **_: object,
    ) -> None:
        """Write a file, on conditions as s3fs has them."""
        path = self._strip_protocol(path)

        def write() -> None:
            there = self.now.get(path)
            if mode == "create" or IfMatch is not None:
                if self.habits.conditions == "refused":
                    self.injected["a condition is refused"] += 1
                    raise AnswerError(501)
                if self.habits.conditions == "compared":
                    if mode == "create" and there is not None:
                        raise FileExistsError(path)
                    if IfMatch is not None and there is None:
                        raise FileNotFoundError(path)
                    if IfMatch is not None and there is not None and there.tag != IfMatch:
                        raise AnswerError(412)
            self.place(path, bytes(value))

        self._ask(write, writes=True)
