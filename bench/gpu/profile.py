"""Where the time of a run goes: threads, stages, the GPU's kernels, one batch in pieces."""

from __future__ import annotations

import os
import re
import statistics
import threading
import time
from collections import Counter, defaultdict
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity
from torch.profiler import profile as recording

from bench.common import packed
from bench.gpu.files import DRY, REPEATED, WORK
from bench.gpu.step import (
    MOBILENET,
    RESNET,
    SMALL,
    Step,
    annotate,
    median_seconds,
    on_gpu,
    own_config,
    seconds_left,
    sync,
)
from bench.gpu_use import gpu_use
from cambox.cams.boxes import find_boxes
from cambox.cams.geometry import MapGeometry
from cambox.engines.local import LocalEngine
from cambox.engines.worker import local_device, make_annotator
from cambox.maps import MapMaker
from cambox.threads import STAGES


def profile(times: int) -> None:
    """All of it for two networks."""
    step = Step("profile")
    shards = packed(REPEATED, WORK / "profile", 1000, times)
    for name in (SMALL,) if DRY else (RESNET, MOBILENET):
        if seconds_left() < 10:
            continue
        engine = LocalEngine(own_config(shards, name))
        step.part(f"{name}, run", _watched, engine)
        step.part(f"{name}, kernels", _kernels, engine)
        step.part(f"{name}, a batch in pieces", _pieces, engine)


class ThreadTimes:
    """CPU seconds of each group of threads of this process, as the kernel counts them."""

    def __enter__(self) -> ThreadTimes:
        self.names: dict[int, str] = {}
        self.last: dict[int, float] = {}
        self.delays: list[float] = []
        self._look()
        self.before = dict(self.last)
        self.stop = threading.Event()
        self.process = time.process_time()
        self.wall = time.perf_counter()
        self.watchers = [threading.Thread(target=work) for work in (self._watch, self._wait)]
        for watcher in self.watchers:
            watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall = time.perf_counter() - self.wall
        self.process = time.process_time() - self.process
        self.stop.set()
        for watcher in self.watchers:
            watcher.join()

    def _watch(self) -> None:
        while not self.stop.wait(0.1):
            self._look()

    def _wait(self) -> None:
        """How much later than asked for a thread gets the interpreter's lock."""
        while not self.stop.is_set():
            start = time.perf_counter()
            time.sleep(0.002)
            self.delays.append(time.perf_counter() - start - 0.002)

    def _look(self) -> None:
        for thread in threading.enumerate():
            if thread.native_id is not None:
                self.names[thread.native_id] = re.sub(r"[-_]?\d+.*$", "", thread.name)
        ticks = os.sysconf("SC_CLK_TCK")
        for task in Path("/proc/self/task").iterdir():
            with suppress(OSError):  # a thread that has ended
                fields = (task / "stat").read_text().rpartition(")")[2].split()
                self.last[int(task.name)] = (int(fields[11]) + int(fields[12])) / ticks

    def told(self, images: int) -> dict[str, Any]:
        """Milliseconds an image, and the lock's delay in milliseconds."""
        groups: dict[str, float] = defaultdict(float)
        for task, seconds in self.last.items():
            groups[self.names.get(task, "native")] += seconds - self.before.get(task, 0.0)
        by_threads = sorted(groups.items(), key=lambda item: -item[1])
        delays = sorted(self.delays)
        return {
            "images a second": images / self.wall,
            "wall, ms an image": 1000 * self.wall / images,
            "CPU of the process, ms an image": 1000 * self.process / images,
            "CPUs busy": self.process / self.wall,
            "CPU by threads, ms an image": {
                name: round(1000 * seconds / images, 4) for name, seconds in by_threads
            },
            "lock, ms of delay: mean, 90 %": [
                1000 * statistics.fmean(delays),
                1000 * delays[int(0.9 * len(delays))],
            ],
        }


def _watched(engine: LocalEngine) -> dict[str, Any]:
    annotate(engine)
    with gpu_use(local_device()) as use, ThreadTimes() as threads:
        reports = annotate(engine)
    images = sum(report.samples for report in reports)
    return {
        "images": images,
        "boxes": sum(report.objects for report in reports),
        **threads.told(images),
        "stages, ms an image, threads added up": {
            stage: 1000 * sum(report.stage_seconds[stage] for report in reports) / images
            for stage in STAGES
        },
        "gpu": vars(use),
    }


def _kernels(engine: LocalEngine) -> dict[str, Any]:
    activity, device = (
        (ProfilerActivity.CUDA, DeviceType.CUDA)
        if on_gpu()
        else (ProfilerActivity.CPU, DeviceType.CPU)
    )
    with recording(activities=[activity]) as recorded:
        start = time.perf_counter()
        reports = annotate(engine)
        sync()
        wall = time.perf_counter() - start
    images = sum(report.samples for report in reports)
    events = [event for event in recorded.events() if event.device_type == device]
    spans = sorted((event.time_range.start, event.time_range.end) for event in events)
    busy = end = 0.0
    for begin, finish in spans:
        busy += max(0.0, finish - max(begin, end))
        end = max(end, finish)
    times: Counter[str] = Counter()
    calls = Counter(event.name for event in events)
    for event in events:
        times[event.name] += event.time_range.elapsed_us()
    total = max(1, sum(times.values()))
    return {
        "images": images,
        "wall, ms an image": 1000 * wall / images,
        "busy from first to last kernel": busy / (end - spans[0][0]) if spans else None,
        "busy of the wall": busy / 1e6 / wall,
        "kernels, ms an image": busy / 1000 / images,
        "copies' share of kernel time": sum(taken for name, taken in times.items() if "Mem" in name)
        / total,
        "largest": [
            [name[:110], calls[name], round(taken / total, 4)]
            for name, taken in times.most_common(15)
        ],
    }


@torch.inference_mode()
def _pieces(engine: LocalEngine) -> dict[str, Any]:
    """One lane, one batch, each piece waited for; milliseconds an image."""
    with closing(make_annotator(engine.config, engine.model, engine.threads)) as annotator:
        lane, batch = annotator.lanes[0], annotator.batch_size
    classifier = lane.classifier
    size = classifier.preprocessing
    pixels = np.random.default_rng(0).integers(
        0, 256, (batch, size.height, size.width, 3), dtype=np.uint8
    )
    buffer = classifier.image_buffer(batch)
    np.copyto(buffer, pixels)
    scores = classifier.scores(buffer)
    ids = scores.logits.topk(5).indices
    maker = MapMaker(engine.config.cam, classifier)
    map_size = MapGeometry((size.height, size.width)).upsampled_size(engine.config.boxes)
    maps = maker.maps(scores, ids).cpu().flatten(0, 1)
    pieces = {
        "stack": lambda: np.stack(list(pixels), out=buffer),
        "normalise": lambda: classifier.normalised(buffer),
        "normalise and network": lambda: classifier.scores(buffer),
        "best classes": lambda: scores.logits.softmax(1).topk(5).values.tolist(),
        "maps": lambda: maker.maps(scores, ids).cpu(),
        "boxes": lambda: find_boxes(maps, map_size, engine.config.boxes),
    }
    return {"batch": batch} | {
        f"{name}, ms an image": round(1000 * median_seconds(work) / batch, 5)
        for name, work in pieces.items()
    }
