"""What a person, or a program, sees of a verification."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from dataclasses import asdict
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from cambox.verify.findings import Problem
from cambox.verify.verify import Verification

LINES_OF_A_KIND = 20
SECONDS_BETWEEN_LINES = 10.0


class FileCounter:
    """Counts files while they are read: a spinner on a terminal, plain lines elsewhere.

    Args:
        command: what is done with the files, for the lines.
    """

    def __init__(self, console: Console, command: str = "verify") -> None:
        self.console = console
        self.command = command
        self.files = 0
        self.last_line = time.monotonic()
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn(f"{command} {{task.completed}} files"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task(command, total=None)

    def __enter__(self) -> FileCounter:
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def advance(self) -> None:
        """One more file was checked."""
        self.files += 1
        self.bar.advance(self.task)
        now = time.monotonic()
        if not self.console.is_terminal and now - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = now
            self.console.print(f"{self.command} {self.files} files", highlight=False)


def print_verification(verification: Verification, console: Console) -> None:
    """List the problems, those of one kind together, then say how it stands."""
    kinds: dict[str, list[Problem]] = defaultdict(list)
    for problem in verification.problems:
        kinds[problem.kind].append(problem)
    lines = []
    for kind, problems in kinds.items():
        lines += [f"{problem.file}: {problem.what}" for problem in problems[:LINES_OF_A_KIND]]
        more = len(problems) - LINES_OF_A_KIND
        if more > 0:
            lines.append(f"... and {more} more files: {kind}")
    lines += [f"remark: {remark}" for remark in verification.remarks]
    statuses = ", ".join(f"{name} {count}" for name, count in sorted(verification.statuses.items()))
    counts = f"{verification.files} files, {verification.rows} rows" + (
        f" ({statuses})" if statuses else ""
    )
    wrong = len({problem.file for problem in verification.problems})
    lines.append(
        f"{counts}: all is as promised"
        if verification.ok
        else f"{counts}: {len(verification.problems)} problems in {wrong} files"
    )
    for line in lines:
        console.print(escape(line), highlight=False, soft_wrap=True)


def to_json(verification: Verification) -> str:
    """One JSON object: ``ok`` and the fields of ``Verification``."""
    return json.dumps({"ok": verification.ok, **asdict(verification)}, ensure_ascii=False)
