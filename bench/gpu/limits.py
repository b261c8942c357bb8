"""What the machine could do at most: the network alone in several ways, and JPEG decoders."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torchvision.io import ImageReadMode, decode_jpeg

from bench.gpu.files import DRY, PHOTOS
from bench.gpu.step import (
    MOBILENET,
    RESNET,
    SMALL,
    SWIN,
    Step,
    median_seconds,
    on_gpu,
    seconds_left,
    sync,
)
from cambox.config import ModelSettings
from cambox.engines.worker import local_device
from cambox.models.build import build_network
from cambox.models.load import load_classifier
from cambox.sources.decode import decode_image
from cambox.sources.load import squash
from cambox.threads import usable_cpus

BATCH = 2 if DRY else 256
MAX_PIXELS = 10**8


def forward() -> None:
    """Images a second of the network alone, as it runs now and as it could."""
    step = Step("forward")
    ready: dict[str, tuple[Any, torch.Tensor]] = {}
    names = (SMALL,) if DRY else (MOBILENET, SWIN, RESNET)
    for name in names:
        if seconds_left() > 20:
            step.part(f"{name}, eager", _eager, name, ready)
        if name in ready and seconds_left() > 15:
            step.part(f"{name}, compiled", _compiled, *ready[name])
    step.part("ceilings", lambda: _ceilings() if on_gpu() else {})


def _eager(name: str, ready: dict[str, tuple[Any, torch.Tensor]]) -> dict[str, float]:
    device = local_device()
    # As in a run, where float32 is no TF32.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    settings = ModelSettings(name=name)
    plain = build_network(settings).to(device)
    classifier = load_classifier(settings, device, "bfloat16")
    size = classifier.preprocessing
    pixels = np.random.default_rng(0).integers(
        0, 256, (BATCH, size.height, size.width, 3), dtype=np.uint8
    )
    images = classifier.normalised(pixels)
    contiguous, half = images.contiguous(), images.bfloat16()
    folded = load_classifier(settings, device, "bfloat16").module.bfloat16()
    ready[name] = folded, half

    rates: dict[str, float] = {}

    def autocast(module: Any, batch: torch.Tensor) -> None:
        with torch.autocast(device.type, torch.bfloat16):
            module(batch)

    @torch.inference_mode()
    def rate(way: str, work: Callable[[], object]) -> None:
        rates[way] = round(BATCH / median_seconds(work), 1)

    rate("as built, float32", lambda: plain(contiguous))
    rate("as built, autocast", lambda: autocast(plain, contiguous))
    rate("as cambox runs it: autocast", lambda: autocast(classifier.module, images))
    rate("scores() from uint8 on the CPU", lambda: classifier.scores(pixels))
    rate("norms folded, weights bfloat16, channels-last", lambda: folded(half))
    if on_gpu():
        rate("folded, bfloat16, CUDA graph", replayed(folded, half))
    plain = plain.bfloat16().to(memory_format=torch.channels_last)
    rate("as built, weights bfloat16, channels-last", lambda: plain(half))
    return rates


def replayed(module: Any, images: torch.Tensor) -> Callable[[], object]:
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode():
        with torch.cuda.stream(stream):
            for _ in range(3):
                module(images)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph):
            module(images)
    return graph.replay


def _compiled(module: Any, images: torch.Tensor) -> dict[str, float]:
    start = time.perf_counter()
    # Without inference mode: it is one more thing that compiling may trip over.
    with torch.no_grad():
        images = images.clone()
        quick: Any = torch.compile(module)
        quick(images)
        sync()
        seconds = time.perf_counter() - start
        rate = len(images) / median_seconds(lambda: quick(images))
    return {"seconds to compile": seconds, "images a second": rate}


def _ceilings() -> dict[str, float]:
    side, size, part = 8192, 2**31, 2**28
    a, b = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device="cuda")
    copied = torch.empty_like(source)
    pinned = torch.empty(part, dtype=torch.uint8, pin_memory=True)
    return {
        "bfloat16 product, TFLOP/s": 2 * side**3 / median_seconds(lambda: a @ b) / 1e12,
        "copy on the GPU, TB/s read and written": (
            2 * size / median_seconds(lambda: copied.copy_(source)) / 1e12
        ),
        "copy to the GPU, GB/s": (
            part / median_seconds(lambda: source[:part].copy_(pinned, non_blocking=True)) / 1e9
        ),
    }


def jpeg() -> None:
    """Images a second of the GPU's JPEG decoder beside OpenCV's in all threads."""
    step, device = Step("jpeg"), local_device()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    files = [path.read_bytes() for path in sorted(PHOTOS.iterdir())]
    tensors = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in files]

    def decoded(some: list[torch.Tensor]) -> list[torch.Tensor]:
        return list(decode_jpeg(some, ImageReadMode.RGB, device=device))

    def shrunk(some: list[torch.Tensor]) -> None:
        for image in decoded(some):
            F.interpolate(image[None].float(), (224, 224), mode="bilinear", antialias=True)

    def opencv(data: bytes) -> np.ndarray:
        image: np.ndarray | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        assert image is not None
        return image

    def ours(data: bytes) -> None:
        squash(decode_image(data, MAX_PIXELS), 224, 224)

    for size in (64, len(files) // 64 * 64 or len(files)):
        parts = _parts(tensors, size)
        step.part(f"decode_jpeg, batches of {size}", _rate, decoded, parts)
    step.part("the same of 64, shrunk to 224", _rate, shrunk, _parts(tensors, 64))
    with ThreadPoolExecutor(usable_cpus()) as pool:

        def each(one: Callable[[bytes], object]) -> Callable[[list[bytes]], object]:
            return lambda some: list(pool.map(one, some, chunksize=4))

        threads = f"{usable_cpus()} threads"
        step.part(f"cv2 in {threads}", _rate, each(opencv), [files])
        step.part(f"cambox's decode and shrink in {threads}", _rate, each(ours), [files])
    one_by_one = [[data] for data in files]
    step.part("cv2 in one thread", _rate, lambda part: opencv(part[0]), one_by_one)

    def differ() -> dict[str, float]:
        images = [image.permute(1, 2, 0).cpu().numpy() for image in decoded(tensors[:32])]
        gaps = [
            cv2.absdiff(image, opencv(data)) for image, data in zip(images, files, strict=False)
        ]
        return {
            "mean": float(np.mean([gap.mean() for gap in gaps])),
            "largest": float(max(gap.max() for gap in gaps)),
        }

    step.part("pixels beside cv2's, of 255", differ)


def _parts(tensors: list[torch.Tensor], size: int) -> list[list[torch.Tensor]]:
    last = max(1, len(tensors) - size + 1)
    return [tensors[start : start + size] for start in range(0, last, size)]


def _rate(work: Callable[[list[Any]], object], parts: Sequence[list[Any]]) -> float:
    """Images a second, of parts taken in turn for a while."""
    work(parts[0])
    sync()
    count, start = 0, time.perf_counter()
    for part in itertools.cycle(parts):
        work(part)
        count += len(part)
        if time.perf_counter() - start > (0.2 if DRY else 1.5):
            break
    sync()
    return round(count / (time.perf_counter() - start), 1)
