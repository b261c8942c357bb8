"""Settings that are given to the command line: of each key values of every kind, and odd files."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, get_args

import yaml

from cambox.config import Config
from cambox.config_cam import Section

SECRET = "hunter2"
"""A password, which is never printed."""
_SHARDS, _OUT, _NAMES, _GROUPS = "{folder}/shards/*.tar", "{folder}/out", "names.txt", "groups.yaml"
BASE: dict[str, Any] = {
    "input": {"shards": [_SHARDS]},
    "model": {"name": "test_resnet", "kwargs": {"num_classes": 10}, "input_size": 64},
    "cam": {"top_k": 3},
    "output": {"uri": _OUT},
    "engine": {"cpus_per_worker": 1},
}
_NESTED: Any = "x"
for _ in range(60):
    _NESTED = [_NESTED]
VALUES: list[Any] = [
    *(None, True, False, 0, 1, 2, 3, 7, 64, 96, -1, -(10**30), 10**30, 2**31, 2**63, 100_000),
    *(0.0, -0.0, 0.1, 0.5, 1.5, -0.5, 1e308, -1e308, 5e-324, float("nan"), float("inf")),
    *("", " ", "x", "null", "auto", "cls", "json:", "json:a.b", "ä" * 9, "x" * 100_000, "~", "\\"),
    *("a\0b", "a\nb", "\x1b[31mred\x1b[0m", "\x07\x08", "\u202eabc", "\ud800", "\ufeff", "=cmd|x"),
    *("../../x", "/dev/zero", "/dev/null", "/proc/self/mem", "/", ".", "pipe:touch x", "a://b"),
    *("file:///x", "memory://x", "{a,b", "[", "*", "**", "{1..99999999}", "http://127.0.0.1:1/x"),
    *(date(2026, 1, 1), datetime(2026, 1, 1, 2, 3), b"\xff\0", {"a", "b"}),
    *([], {}, [[]], [None], [0], [1], [-1], [1, 2], [64, 64], [3, 2, 1], [10**30], [[1], [2]]),
    *([0.5, 0.5, 0.5], [0, 0, 0], [1e308] * 3, ["a", "a"], ["a\0b"], ["\x1b[31m"] * 10, [""] * 10),
    *({"a": 1}, {1: 2}, {None: None}, {"a\0": "b"}, {"": ""}, {"a": {"b": {"c": [1]}}}, _NESTED),
    *({"global_min": 0.1}, {"global_min": 1e308}, {"kind": "thresholded"}, {"steps": 2}),
    *({date(2026, 1, 1): 1}, {"when": date(2026, 1, 1)}, {"a": float("nan")}, {"k": b"\xff"}),
]
NUMBERS: list[Any] = [value for value in VALUES if isinstance(value, int | float)]
_KWARGS: dict[str, list[Any]] = {
    "act_layer": ["x", "relu", "", 1, None, ["relu"], {"a": 1}],
    "norm_layer": ["x", "batchnorm2d", "layernorm", 1, {}],
    "num_classes": [0, 1, 2, 10, -1, 10**6, 10**9, 10**30, 1.5, "10", None, [10], True],
    "in_chans": [0, 1, 2, 3, 4, -3, 10**4, 10**30, "3", None],
    "img_size": [0, 64, 65, -1, 10**6, "64", [64, 64], [64], None],
    "global_pool": ["", "avg", "max", "avgmax", "catavgmax", "x", 0, None, ["avg"]],
    "output_stride": [0, 1, 8, 16, 32, 64, -8, "8"],
    "drop_rate": [0.5, 1.5, -1, float("nan"), "x"],
    "features_only": [True, False, "x"],
    "pretrained_cfg": ["x", {}, {"file": "x"}, {"input_size": "x"}, 3, {"input_size": [3, 9, 9]}],
    "pretrained_cfg_overlay": [{}, {"file": "{folder}/names.txt"}, {"mean": "x"}, "x", 3],
    "checkpoint_path": ["x.pth", "", None, 3],
    "cache_dir": ["/proc", "x\0", 3],
    "scriptable": [True, "x"],
    "exportable": [True, "x"],
    "layers": [[], [1], [0], "x", [1, 1, 1, 1], [-1] * 4, None],
    "channels": [[1, 1, 1, 1], [0] * 4, [10**9] * 4, [10**30] * 4, "x"],
    "widths": [[0], 3],
    "stem_width": [0, 1, -1, 10**8, 1e308, "x"],
    "block": ["x", 1],
    "unknown": [1, _NESTED, "\ud800"],
    "depth": [0, 1, -1, 10**9, "x"],
    "embed_dim": [0, 1, 7, -1, 10**9, "x"],
    "num_heads": [0, 7, -1, "x"],
    "patch_size": [0, 1, -1, 7, 10**9, "x"],
    "self": [1],
    "model_name": ["x"],
    "pretrained": [True, "x"],
    "variant": ["x"],
    "cfg": [1],
    "aux_logits": [True, 3],
    "dropout": [2, -1, "x"],
}
_MODELS = (*("test_resnet",) * 4, "test_vit", "test_efficientnet", "torchvision/squeezenet1_1")
_TARGETED: list[dict[str, Any]] = [
    *(
        {"model.input_size": size}
        for size in (1, 3, 16, 17, 100_000, 2**40, [64, 96], [1, 100_000])
    ),
    *({"model.class_input_size": size} for size in (1, 33, 100_000, [10**6, 1])),
    *({"engine.cpus_per_worker": count} for count in (3, 100_000, 2**31, 2**63, 10**30)),
    *({"engine.batch_size": count} for count in (10**6, 2**63, 10**30)),
    *({"input.max_pixels": count} for count in (1, 2**63, 10**30)),
    *({"input.chunks": count} for count in (10**6, 10**30)),
    *({"cam.top_k": count} for count in (10, 11, 10**30)),
    *({"boxes.resolution": count} for count in (1, 100_000, 10**9, 10**30)),
    *({"cam.refine": {"steps": 1, "cells": count}} for count in (1, 100_000, 10**30)),
    *({"cam.refine": {"steps": 1, "layers": count}} for count in (1, 100, 10**30)),
    *({"cam.refine": {"steps": 1, "channels": count}} for count in (1, 10**9, 10**30)),
    *({"cam.zoom": {"sides": sides}} for sides in ([], [1], [64], [64] * 999, [10**6], [10**30])),
    *({"cam.zoom": {"sides": [64], "windows": count}} for count in (1, 10**9, 10**30)),
    *({"cam.zoom": {"mirrored": sides}} for sides in ([], [1], [10**30], ["x"])),
    *({"cam.shift": shift} for shift in (1e308, {"global_min": 1e308}, {}, {"x": 1})),
    *({"model.name": name} for name in ("hf-hub:", "local-dir:", "local-dir:/", "hf-hub:a/b\0")),
    *(
        {"model.name": name}
        for name in ("torchvision/", "torchvision/x", "", "test_resnet\n", "x.y")
    ),
    *({"model.name": f"local-dir:{{folder}}/{name}"} for name in ("shards", "broken", "nowhere")),
    *({"model.mean": mean} for mean in ([], [1], [0] * 3, [1e308] * 3, "abc")),
    *({"model.checkpoint": f"{{folder}}/{name}"} for name in ("names.txt", "shards", "no.pth")),
    *({"model.checkpoint": f"{{folder}}/{name}"} for name in ("bad.safetensors", "bad.pth")),
    *({"model.class_names": f"{{folder}}/{name}"} for name in ("odd.txt", "nul.txt", "shards")),
    *({"input.class_names": f"{{folder}}/{name}"} for name in ("odd.txt", "nul.txt", "bytes.txt")),
    *({"model.class_names": f"{{folder}}/{name}"} for name in ("bytes.txt", "pipe", "ten.txt")),
    *({"model.class_groups": f"{{folder}}/{name}"} for name in ("deep.yaml", "ten.txt", "g.yaml")),
    *({"model.class_groups": f"{{folder}}/{name}"} for name in ("bytes.txt", "shards", "big.yaml")),
    {"input.shards": [f"https://me:{SECRET}@127.0.0.1:1/a.tar?X-Amz-Signature={SECRET}"]},
    {"input.storage_options": f"secret: {SECRET}"},
    {"output.storage_options": [{"secret": SECRET}]},
    {"output.storage_options": {"key": {"secret": SECRET, "x": date(2026, 1, 1)}}},
    {"output.storage_options": {"auto_mkdir": 3}},
    {"output.uri": f"s3://me:{SECRET}@b/c", "output.storage_options": {"endpoint_url": 3}},
    {"output.uri": "{folder}/shards/shard-000000.tar"},
    {"output.uri": "/proc/x"},
    {"output.uri": "x" * 300},
    {"input.images": ["{folder}/images"], "input.shards": []},
    {"input.images": ["{folder}/bad.parquet"], "input.shards": []},
    {"input.images": ["{folder}/bytes.csv"], "input.shards": []},
    {"input.images": ["{folder}/pipe.csv"], "input.shards": []},
]
_LEVELS = "".join(
    f"{name}: &{name} [{', '.join(9 * [f'*{before}'])}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
_BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + _LEVELS
_MERGES = "a: &a {x: 1, y: 2}\n" + _LEVELS.replace("[", "{<<: [").replace("]", "]}")
_PLAIN = yaml.safe_dump(BASE)
FILES: list[bytes] = [
    *(
        text.encode()
        for text in ("", "- 1", "a: [", "a: b: c", "\t", "x", "3", "null", "!!set {a}")
    ),
    *(b"[" * depth for depth in (10, 1_000, 100_000)),
    *(b"{a: " * depth for depth in (10, 1_000, 100_000)),
    *((b"- " * depth + b"x") for depth in (10, 1_000, 20_000)),
    *(
        (_PLAIN + more).encode()
        for more in (_BOMB, _MERGES, "a: &a [*a]", "b: *b", "? [1, 2]\n: 3")
    ),
    *((_PLAIN + f"x: {value}").encode() for value in ("2026-13-45", "!!int x", "!!bool x")),
    *((_PLAIN + f"x: {value}").encode() for value in ("!!float x", "!!timestamp x", "!!binary x")),
    *(
        (_PLAIN + f"x: {value}").encode()
        for value in ("9" * 5000, "1:" * 50 + "1", "!x y", "<<: 3")
    ),
    *(
        (_PLAIN + f"x: {value}").encode()
        for value in (
            "0x" + "f" * 9000,
            "!!python/name:os.system",
        )
    ),
    *(_PLAIN.encode(code) for code in ("utf-16", "utf-32", "utf-8-sig")),
    *(_PLAIN.encode() + more for more in (b"\0", b"\xff\xfe", b"\x1b[31m: 1", b"---\na: 1", b"%x")),
    bytes(range(256)),
    b"\x89PNG\r\n\x1a\n" + bytes(100),
    b"#" * 3_000_000,
]


@dataclass(frozen=True)
class Case:
    """One request: a file, or a folder in its place, and what ``--set`` says."""

    number: int
    file: bytes | None
    overrides: tuple[str, ...] = ()

    def __str__(self) -> str:
        """In one line."""
        file = "a folder" if self.file is None else repr(self.file[-300:])
        return f"{self.number}: {file} {' '.join(map(repr, self.overrides))[:300]}"


def keys(section: type[Section] = Config, before: str = "") -> Iterator[str]:
    """Each setting as ``--set`` names it, sections among them."""
    for name, setting in section.model_fields.items():
        yield before + name
        kinds = (setting.annotation, *get_args(setting.annotation))
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, Section):
                yield from keys(kind, f"{before}{name}.")


def cases(seed: int, count: int, folder: Path) -> Iterator[Case]:
    """Random requests, the same for each seed, of what ``prepare`` has put into a folder."""
    chance, known = random.Random(seed), list(keys())
    for number in range(count):
        document, changes = copy.deepcopy(BASE), _changes(chance, known)
        if number % 10 == 0:
            yield Case(number, _placed(chance.choice([*FILES, None]), folder))
            continue
        if chance.random() < 0.2:
            texts = {
                key: yaml.safe_dump(value, default_flow_style=True, width=1 << 30)
                for key, value in changes.items()
            }
            # What ends a scalar in a document of its own.
            overrides = [
                f"{key}={text.removesuffix('...' + chr(10))}" for key, text in texts.items()
            ]
            changes = {}
        else:
            overrides = []
        for key, value in changes.items():
            *sections, last = key.split(".")
            place = document
            for section in sections:
                inner = place.get(section)
                place[section] = place = inner if isinstance(inner, dict) else {}
            place[last] = value
        text = yaml.safe_dump(document, sort_keys=False)
        placed = tuple(one.replace("{folder}", str(folder)) for one in overrides)
        yield Case(number, _placed(text.encode(), folder), placed)


def _changes(chance: random.Random, known: list[str]) -> dict[str, Any]:
    kind = chance.random()
    if kind < 0.3:
        return dict(chance.choice(_TARGETED))
    if kind < 0.5:
        name = chance.choice(list(_KWARGS))
        kwargs = {"num_classes": 10, name: chance.choice(_KWARGS[name])}
        return {"model.kwargs": kwargs, "model.name": chance.choice(_MODELS)}
    some = chance.sample(known, chance.choice([1, 1, 1, 2, 3]))
    return {key: chance.choice(chance.choice([VALUES, NUMBERS])) for key in some}


def _placed(file: bytes | None, folder: Path) -> bytes | None:
    return file and file.replace(b"{folder}", bytes(folder))
