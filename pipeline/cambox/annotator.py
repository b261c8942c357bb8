"""One shard, start to end: read, decode, score, box, publish."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import numpy as np
import torch

from cambox.batch import AnnotatedBatch, BatchAnnotator
from cambox.boxes import Boxes
from cambox.canary.rows import Canary
from cambox.config import Config
from cambox.models.classifier import Classifier
from cambox.output.failed_rows import FailedRows
from cambox.output.footer import CANARY_KEY, FORWARD_KEY, Recipe
from cambox.output.publish import file_name, publish, recipe_uri
from cambox.output.rows import table
from cambox.shard_report import Progress, ShardReport
from cambox.signs import Signs
from cambox.sources.load import LoadedSample, LoadRule, load_ahead, load_sample
from cambox.sources.samples import SEVERAL_IMAGES, ImageRule, Sample, read_samples
from cambox.sources.shards import OF_CONTENT, Shard
from cambox.sources.states import read_unchanged, state_of
from cambox.threads import Stopwatch, grouped, in_order
from cambox.whole_image import WholeImages
from cambox.zoomed_image import ZoomedImages

BATCHES_AHEAD = 2
# Images that a thread decodes, or finds the boxes of, before it asks for more.
MOST_TOGETHER = 8
# That a GPU decodes at once.
DECODED_ON_GPU = 32


class Annotator:
    """A classifier and a recipe, ready to annotate shards, until it is closed.

    Args:
        batch_size: images per forward pass.
        threads: on a CPU as many batches are in work at once, each from its files to its rows in
            one thread; on a GPU, for decoding ahead of the network and for the boxes behind it.
        canary: what the published files say that this worker made of the built-in pictures.
        prepare: makes the forward passes of the lanes quick, see ``models.ways``.
        retried: statuses; of a shard, which is published, only rows of these are made again. None:
            all rows of a shard are made.
    """

    def __init__(
        self,
        config: Config,
        classifier: Classifier,
        recipe: Recipe,
        batch_size: int,
        threads: int,
        canary: Canary | None = None,
        retried: frozenset[str] = frozenset(),
        prepare: Callable[[list[Classifier]], list[Classifier]] = list,
    ) -> None:
        self.config = config
        self.recipe = recipe
        self.batch_size = batch_size
        self.threads = threads
        self.canary = canary
        self.retried = retried
        count = classifier.most_at_once(threads)
        # With more threads than CPUs one is put to sleep while it holds the interpreter's lock, and
        # all others wait for it; so lanes that fill the CPUs do the rest themselves.
        self.alone = classifier.device.type == "cpu" and count == threads
        self.decode_pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        # A pool of their own: boxes must not queue behind the images of later batches.
        self.box_pool = ThreadPoolExecutor(threads, thread_name_prefix="boxes")
        self._ahead = (BATCHES_AHEAD + count - 1) * batch_size
        # What a thread takes costs Python, which all threads share; but none should lack work.
        together = max(1, min(MOST_TOGETHER, batch_size // (2 * threads)))
        on_gpu = config.input.decoder == "gpu"
        self.decoded_together = DECODED_ON_GPU if on_gpu else together
        box_pool = None if self.alone else self.box_pool
        zoom, store_maps = config.cam.zoom, config.output.store_maps
        background = recipe.class_id(config.cam.background)
        self.lane_pool = ThreadPoolExecutor(
            count, "lane", torch.set_num_threads, (max(1, threads // count),)
        )
        # There, for what is compiled counts on as many threads.
        copies = self.lane_pool.submit(prepare, classifier.copies(count)).result()
        self.lanes = [
            BatchAnnotator(
                WholeImages(config, lane, background)
                if zoom is None
                else ZoomedImages(config, zoom, lane, background),
                lane,
                store_maps,
                box_pool,
                batch_size if self.alone else together,
            )
            for lane in copies
        ]
        self._free_lanes = SimpleQueue[BatchAnnotator]()
        for lane in self.lanes:
            self._free_lanes.put(lane)
        self.load_rule = LoadRule(
            settings=config.input,
            input_height=classifier.preprocessing.height,
            input_width=classifier.preprocessing.width,
            # Where nothing is boxed the labels need not be the model's classes.
            class_count=None if config.cam.classes == "none" else classifier.class_count,
            labels_wanted=config.cam.uses_labels,
            cell=None if classifier.aspect == "squashed" else classifier.cell,
            longest=None if config.cam.zoom is None else max(config.cam.zoom.sides),
            gpu=classifier.device if on_gpu else None,
        )

    def close(self, wait: bool = True) -> None:
        """End the threads when what they have begun is done; a shard still in work fails.

        Args:
            wait: until they have ended.
        """
        for pool in (self.decode_pool, self.box_pool, self.lane_pool):
            pool.shutdown(wait, cancel_futures=True)

    def annotate(
        self,
        shard: Shard,
        on_progress: Callable[[Progress], None] = lambda progress: None,
        on_read: Callable[[], None] = lambda: None,
    ) -> ShardReport:
        """Annotate one shard and publish its file.

        Several threads may do so at once; their shards share the lanes.

        Where the storage cuts the stream, the shard is read and annotated again from its start.
        That progress counts again, as it does when the engine hands out a shard again: it is what
        tells a worker that is at work from one that hangs. The report counts each row once.

        Args:
            on_progress: called as it goes on, in the caller's thread.
            on_read: called when the shard was read to its end: the time to begin the next.

        Raises:
            ShardError: the shard is not whole; nothing is published.
            OSError: the storage failed, or the shard is rewritten again and again; nothing is
                published.
        """
        start = time.monotonic()
        watch = Stopwatch()
        options, output = self.config.input.storage_options, self.config.output
        again = None
        if self.retried:
            again = FailedRows.of(shard, self.recipe, output, self.retried)
        shard, whole = read_unchanged(
            shard, options, lambda shard: self._annotated(shard, watch, on_progress, on_read, again)
        )
        changes: list[tuple[str, str]] = []
        with watch.measure("write"):
            boxes = Boxes.joined(whole.boxes)
            names = self.recipe.class_names
            rows = table(whole.rows, boxes, names, output.store_maps, output.store_features)

            def still() -> bool:
                return state_of(shard, options) == "same"

            if again is None:
                publish(rows, shard, self.recipe, output, still, self._more())
            else:
                changes = again.publish(shard, rows, self.recipe, output, still)
                written = [at for at, (before, now) in enumerate(changes) if before != now]
                boxes = boxes[np.isin(boxes.image, written)]
        wanted = self.load_rule.labels_wanted
        # A few rows that were not like the others tell nothing of all.
        signs = Signs() if again else Signs.of(whole.rows, boxes, len(names), labels_used=wanted)
        several = [row for row in whole.rows if SEVERAL_IMAGES in (row.error or "")]
        return ShardReport(
            shard=shard,
            uri=f"{recipe_uri(output, self.recipe)}/{file_name(shard.uri)}",
            statuses=Counter(row.status for row in whole.rows),
            objects=len(boxes),
            no_box=whole.no_box,
            seconds=time.monotonic() - start,
            stage_seconds=watch.seconds,
            halved_to=whole.halved_to,
            signs=signs,
            several_images=len(several),
            example=f"{several[0].key!r} has {several[0].error}" if several else "",
            retried=Counter(changes),
        )

    def _more(self) -> dict[bytes, bytes]:
        """What a file's footer says of this worker."""
        more = {}
        if self.canary is not None:
            more[CANARY_KEY] = self.canary.model_dump_json().encode()
        quick = self.lanes[0].classifier.quick
        # A graph is the kernels that there would be without.
        if quick is not None and quick.way != "graph":
            more[FORWARD_KEY] = quick.way.encode()
        return more

    def _annotated(
        self,
        shard: Shard,
        watch: Stopwatch,
        on_progress: Callable[[Progress], None],
        on_read: Callable[[], None],
        again: FailedRows | None,
    ) -> tuple[AnnotatedBatch, str]:
        """All batches of a shard that was read whole, as one, and the SHA-256 of its bytes.

        Of bytes whose fingerprint the store tells it is not computed.

        Args:
            again: whose samples alone are loaded; None: all.
        """
        settings = self.config.input
        content = hashlib.sha256()
        by_content = shard.fingerprint.startswith(OF_CONTENT)

        def note(data: bytes) -> None:
            if by_content:
                content.update(data)
            on_progress(Progress(len(data)))

        def samples() -> Iterator[Sample]:
            found = read_samples(
                shard,
                settings.storage_options,
                note,
                settings.max_sample_bytes,
                ImageRule(settings.image, settings.several_images),
            )
            for sample in watch.measured("read", found):
                if again is None or sample.index in again.places:
                    yield sample
            on_read()

        def annotate(batch: list[LoadedSample]) -> AnnotatedBatch:
            lane = self._free_lanes.get()
            try:
                return lane.annotate(shard.uri, batch, watch)
            finally:
                self._free_lanes.put(lane)

        def load_and_annotate(batch: list[Sample]) -> AnnotatedBatch:
            with watch.measure("decode"):
                loaded = [load_sample(sample, self.load_rule) for sample in batch]
            return annotate(loaded)

        # A batch has samples without an image too, so that which images are computed together does
        # not depend on who decodes them.
        size, count = self.batch_size, len(self.lanes)
        if self.alone:
            groups = grouped(samples(), size)
            results = in_order(self.lane_pool, load_and_annotate, groups, count)
        else:
            loaded = load_ahead(
                samples(),
                self.load_rule,
                self.decode_pool,
                self.decoded_together,
                self._ahead,
                watch,
            )
            results = in_order(self.lane_pool, annotate, grouped(loaded, size), count)
        whole = AnnotatedBatch()
        for annotated in results:
            whole.add(annotated)
            on_progress(Progress(samples=len(annotated.rows)))
        return whole, content.hexdigest()
