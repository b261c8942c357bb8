"""What a review of some of the demo's pictures gives the others: ``docs/review.md``.

``python -m research.review_loop --to FOLDER`` makes the demo in an empty folder, begins with
settings that are wrong for it, corrects 60 pictures to their true boxes, takes the corrections,
tunes, and compares before and after on the other 180.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import random
from collections import defaultdict
from pathlib import Path

from rich.console import Console

import cambox
from cambox.config_file import load_config
from cambox.demo import make_data
from cambox.demo.scenes import CLASS_NAMES
from cambox.output.rows import SIDES
from cambox.review.corrections.report import print_taken, write_truth
from cambox.review.corrections.take import take_corrections
from cambox.review.evaluate.evaluate import evaluate
from cambox.review.evaluate.show import print_evaluation
from cambox.review.tune.tune import TuneRequest, tune
from cambox.run import run

WRONG = ("cam.classes=predicted", "cam.top_k=3", "boxes.threshold=0.35")
REVIEWED = 60


def main() -> None:
    """Print the corrections, and both evaluations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, required=True)
    folder = parser.parse_args().to.absolute()
    console = Console()
    make_data(folder)
    config = load_config(folder / "config.yaml", [*WRONG, f"output.uri={folder / 'before'}"])
    before = run(config, console).folder
    reviewed, others = review(folder, before)
    taken = take_corrections(str(reviewed), before)
    print_taken(taken, console)
    write_truth(taken, folder / "truth.csv")
    request = TuneRequest(config, str(folder / "truth.csv"), work=str(folder / "tuning"))
    tuned, _ = tune(request, console)
    output = tuned.output.model_copy(update={"uri": str(folder / "after")})
    after = run(tuned.model_copy(update={"output": output}), console).folder
    for name, output_folder in (("before", before), ("after", after)):
        console.rule(name)
        print_evaluation(evaluate(output_folder, str(others)), console)


def review(folder: Path, output: str) -> tuple[Path, Path]:
    """Correct some pictures as Label Studio would export them; the true boxes of the others."""
    truth: dict[str, list[dict[str, str]]] = defaultdict(list)
    for box in csv.DictReader(io.StringIO((folder / "boxes.csv").read_text())):
        truth[box["image"]].append(box)
    chosen = set(random.Random(0).sample(sorted(truth), REVIEWED))
    columns = ["shard", "key", "width", "height"]
    rows = {row["key"]: row for row in cambox.read(output).to_table(columns=columns).to_pylist()}
    tasks = []
    for name in sorted(chosen):
        row = rows[Path(name).stem]
        results = [result(box, row["width"], row["height"]) for box in truth[name]]
        data = {"image": name, "shard": row["shard"], "key": row["key"]}
        tasks.append({"data": data, "annotations": [{"result": results}]})
    reviewed, others = folder / "reviewed.json", folder / "others.csv"
    reviewed.write_text(json.dumps(tasks))
    with others.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["image", "class_index", *SIDES], extrasaction="ignore")
        writer.writeheader()
        for name in sorted(truth.keys() - chosen):
            writer.writerows(truth[name])
    return reviewed, others


def result(box: dict[str, str], width: int, height: int) -> dict[str, object]:
    """A rectangle, in percent of the image's sides."""
    x_min, y_min, x_max, y_max = (float(box[side]) for side in SIDES)
    value = {
        "x": x_min / width * 100,
        "y": y_min / height * 100,
        "width": (x_max - x_min) / width * 100,
        "height": (y_max - y_min) / height * 100,
        "rotation": 0,
        "rectanglelabels": [CLASS_NAMES[int(box["class_index"])]],
    }
    size = {"original_width": width, "original_height": height}
    return {"type": "rectanglelabels", **size, "value": value}


if __name__ == "__main__":
    main()
