"""Kill -9 of a run on Ray at random moments, and what a clean run's rows are after the next."""

from __future__ import annotations

import io
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Annotated

import pyarrow.parquet as pq
import typer
from rich.console import Console

from bench.common import To, config_of, packed, write_figures
from cambox.config import Config
from cambox.demo import make_data, write_config
from cambox.engines.local import LocalEngine
from cambox.output.ledger import plan
from cambox.planned import annotate_planned
from cambox.sources.shards import find_shards
from cambox.summary import RunSummary
from cambox.verify.verify import verify

PICTURES, SAMPLES_PER_SHARD = 240, 10
VICTIMS = ("driver", "worker", "driver and worker")
# Of the moments, those that are counted from the driver's start; the others from a worker's.
SHARE_FROM_THE_START = 0.2
WORKER = b"ray::ShardWorker"
PATIENCE_SECONDS = 600.0
_SETTINGS = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A thread each, as the clean run has.
    "OMP_NUM_THREADS": "1",
}
# Of a row: its shard, its key, and all of it.
Rows = Counter[tuple[str, str, str]]
# A fresh interpreter needs seconds for what a driver imports, so each is forked from one that has.
_FORKED = multiprocessing.get_context("forkserver")


@dataclass
class Kills:
    """What became of the rounds of one victim and phase.

    Attributes:
        rounds: in which the process was killed.
        lost, doubled, different: samples after the next run, beside a clean run's.
        torn: files that were visible just after the kill and are not a clean run's, byte for byte.
        left: temporary files of publishers that were killed, which no reader sees; the next run a
            day later removes them.
        problems: that ``cambox verify`` has but for those, and files beside those of a clean run.
    """

    rounds: int = 0
    lost: int = 0
    doubled: int = 0
    different: int = 0
    torn: int = 0
    left: int = 0
    problems: int = 0


@dataclass
class Cluster:
    """A Ray head of two CPUs, with ports and folders of its own.

    Attributes:
        process: of ``ray start``; all that it starts is in its session.
    """

    address: str
    process: subprocess.Popen[bytes]

    def workers(self) -> list[int]:
        """The processes that are actors of a run, or were and are not gone yet."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            # It may end while it is looked at.
            with suppress(OSError):
                is_worker = (entry / "cmdline").read_bytes().startswith(WORKER)
                if is_worker and os.getsid(int(entry.name)) == self.process.pid:
                    found.append(int(entry.name))
        return found


def kills(
    count: Annotated[int, typer.Option(min=1, help="Rounds, of one kill each")] = 50,
    seed: Annotated[int, typer.Option(help="Of moments and victims")] = 1,
    to: To = None,
) -> None:
    """Kill -9 the driver, a worker or both of runs on Ray, run again, compare with a clean run."""
    console = Console()
    with tempfile.TemporaryDirectory(prefix="kills") as name:
        folder = Path(name)
        runs = _Runs(folder)
        with cluster(folder / "ray") as head:
            moments = random.Random(seed)
            work_seconds = runs.undisturbed(head)
            console.print(f"{len(runs.clean)} shards, {work_seconds:.1f} s of work of two workers")
            while (done := sum(one.rounds for one in runs.found.values())) < count:
                console.print(f"{done + 1}: {runs.round(head, moments, work_seconds)}")
                write_figures({" | ".join(key): one for key, one in runs.found.items()}, to)
    console.print(*table(runs.found), sep="\n")


class _Runs:
    """Runs over the demo's pictures: on Ray to be killed, in this process to go on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.found: dict[tuple[str, str], Kills] = {}
        demo = folder / "demo"
        demo.mkdir()
        make_data(demo, PICTURES)
        shards = packed(
            demo / "images", folder / "packed", SAMPLES_PER_SHARD, 1, demo / "labels.csv"
        )
        model = write_config(demo).model
        self.config = config_of(
            shards,
            folder / "out",
            model.model_dump(),
            cam={"classes": "label"},
            output={"store_maps": True},
            engine={"cpus_per_worker": 1, "batch_size": 4, "workers": 2},
        )
        self.engine = LocalEngine(self.config)
        self.clean = files_of(self._to_the_end(folder / "clean").folder)

    def undisturbed(self, head: Cluster) -> float:
        """Run on Ray to the end; the seconds from the first worker's start.

        Raises:
            RuntimeError: it did not end with the files of a run in this process.
        """
        out = self.folder / "undisturbed"
        with self._driver(head, out) as (process, log):
            _wait_until(lambda: _is_ready(log) or not process.is_alive())
            start = time.monotonic()
            process.join(PATIENCE_SECONDS)
            seconds = time.monotonic() - start
        if process.exitcode != 0 or files_of(self._published(out)) != self.clean:
            raise RuntimeError(f"a run that nobody disturbed went wrong: {log.read_text()}")
        return seconds

    def round(self, head: Cluster, moments: random.Random, work_seconds: float) -> str:
        """One kill, the next run, and the comparison, which is added to ``found``."""
        out = self.folder / f"out-{moments.getrandbits(64):x}"
        victim = moments.choice(VICTIMS)
        from_the_start = moments.random() < SHARE_FROM_THE_START
        seconds = moments.uniform(0, work_seconds)
        with self._driver(head, out) as (process, log):
            if not from_the_start:
                _wait_until(lambda: _is_ready(log) or not process.is_alive())
            time.sleep(seconds)
            if "worker" in victim:
                _wait_until(lambda: bool(head.workers()) or not process.is_alive())
            workers = head.workers()
            if not process.is_alive() or ("worker" in victim and not workers):
                return "it had ended before the moment"
            phase = self._phase(out, log)
            if "worker" in victim:
                os.kill(moments.choice(workers), signal.SIGKILL)
            if "driver" in victim:
                process.kill()
            torn = sum(self.clean.get(name) != data for name, data in self._visible(out).items())
            process.join(PATIENCE_SECONDS)
            code = process.exitcode
        if code != (-signal.SIGKILL if "driver" in victim else 0):
            raise RuntimeError(f"the driver ended with {code}: {log.read_text()}")
        # At once, while workers of the dead driver may still publish.
        again = self._to_the_end(out)
        _wait_until(lambda: not head.workers())
        files = files_of(again.folder)
        lost, doubled, different = compared(self.clean, files)
        problems = verify(str(out)).problems
        left = sum(problem.kind == "leftover" for problem in problems)
        one = self.found.setdefault((victim, phase), Kills())
        one.rounds += 1
        one.lost += lost
        one.doubled += doubled
        one.different += different
        one.torn += torn
        one.left += left
        one.problems += len(problems) - left + len(files.keys() ^ self.clean.keys())
        return (
            f"{victim} killed, {phase}; {len(again.reports)} shards by the next run; "
            f"lost {lost}, doubled {doubled}, different {different}"
        )

    def _to_the_end(self, out: Path) -> RunSummary:
        config = self.config
        output = config.output.model_copy(update={"uri": str(out)})
        self.engine.config = config = config.model_copy(update={"output": output})
        work = plan(find_shards(config.input.shards), self.engine.recipe, output)
        summary = annotate_planned(config, self.engine, work, Console(file=io.StringIO()))
        if not summary.complete:
            raise RuntimeError(f"the next run did not end whole: {summary.failures}")
        return summary

    def _published(self, out: Path) -> Path:
        return out / self.engine.recipe.folder

    def _visible(self, out: Path) -> Mapping[str, bytes]:
        return files_of(self._published(out)) if self._published(out).is_dir() else {}

    def _phase(self, out: Path, log: Path) -> str:
        if not _is_ready(log):
            return "no worker ready"
        published = len(self._visible(out))
        if published in (0, len(self.clean)):
            return "all published" if published else "none published"
        return "some published"

    @contextmanager
    def _driver(self, head: Cluster, out: Path) -> Iterator[tuple[ForkServerProcess, Path]]:
        """A ``cambox annotate`` on Ray, and its log."""
        log = out.with_suffix(".log")
        engine = self.config.engine.model_copy(update={"name": "ray"})
        output = self.config.output.model_copy(update={"uri": str(out)})
        config = self.config.model_copy(update={"engine": engine, "output": output})
        _FORKED.set_forkserver_preload(["cambox.cli", "cambox.run", "cambox.engines.cluster"])
        process = _FORKED.Process(target=_drive, args=(config, head.address, log))
        process.start()
        try:
            yield process, log
        finally:
            process.kill()
            process.join()


def _drive(config: Config, address: str, log: Path) -> None:
    os.environ.update(_SETTINGS, RAY_ADDRESS=address)
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from cambox.run import run

    sys.exit(not run(config, Console(width=200)).complete)


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A head for as long as the context lasts."""
    port, *others = _free_ports(4)
    names = ("ray-client-server-port", "dashboard-agent-listen-port", "metrics-export-port")
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"]
    command += ["--num-cpus=2", "--node-ip-address=127.0.0.1", f"--port={port}"]
    command += [f"--{name}={other}" for name, other in zip(names, others, strict=True)]
    command += [f"--temp-dir={folder}", "--include-dashboard=false"]
    command += [f"--object-store-memory={100 * 2**20}"]
    process = subprocess.Popen(
        command,
        env={**os.environ, **_SETTINGS},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait_until(lambda: _listens(port))
        yield Cluster(f"127.0.0.1:{port}", process)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def files_of(folder: str | Path) -> dict[str, bytes]:
    """The files of a recipe that readers of Parquet see."""
    paths = Path(folder).iterdir()
    return {path.name: path.read_bytes() for path in paths if path.name[0] not in "._"}


def compared(clean: Mapping[str, bytes], found: Mapping[str, bytes]) -> tuple[int, int, int]:
    """Samples lost, doubled and different in any column, of files by their names."""
    expected, there = _rows(clean), _rows(found)
    lost = (_samples(expected) - _samples(there)).total()
    doubled = (_samples(there) - _samples(expected)).total()
    return lost, doubled, (expected - there).total() - lost


def table(found: Mapping[tuple[str, str], Kills]) -> list[str]:
    """As Markdown."""
    names = ("rounds", "lost", "doubled", "different", "torn", "left", "problems")
    head = ["| killed | when | " + " | ".join(names) + " |", "|---|---" + "|---" * len(names) + "|"]
    lines = {key: [getattr(one, name) for name in names] for key, one in sorted(found.items())}
    lines["all", ""] = [sum(column) for column in zip(*lines.values(), strict=True)]
    return head + [f"| {' | '.join([*key, *map(str, line)])} |" for key, line in lines.items()]


def _rows(files: Mapping[str, bytes]) -> Rows:
    """Each row as text, which tells all values apart and a NaN from no other."""
    tables = [pq.read_table(io.BytesIO(data)) for data in files.values()]
    rows = (row for table in tables for row in table.to_pylist())
    return Counter((row["shard"], row["key"], repr(row)) for row in rows)


def _samples(rows: Rows) -> Counter[tuple[str, str]]:
    return Counter((shard, key) for shard, key, _ in rows.elements())


def _is_ready(log: Path) -> bool:
    return log.exists() and "worker ready" in log.read_text()


def _wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {PATIENCE_SECONDS:g} s in vain")
        time.sleep(0.01)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_ports(count: int) -> list[int]:
    with ExitStack() as probes:
        sockets = [probes.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
