"""``cambox retry``: only failed rows are made again, and a file is published whole."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

import cambox.annotator
from cambox.cli import main
from cambox.config import Config
from cambox.errors import RequestError
from cambox.output import failed_rows
from cambox.output.footer import library_versions
from cambox.output.manifest import newest_manifest, read_manifest
from cambox.output.publish import file_name, to_parquet
from cambox.run import retry, run
from cambox.sources.load import LoadedSample, LoadRule
from cambox.sources.samples import Sample
from cambox.verify.verify import verify
from conftest import ConfigMaker
from makers import write_tar
from played_ray import PlayedRay

pillow_heif = pytest.importorskip("pillow_heif", reason="the extra heic is not installed")
QUIET = Console(file=io.StringIO())
FAILED = ("unreadable", "no_image")


def picture(seed: int, kind: str = "JPEG") -> bytes:
    grain = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    image = Image.fromarray(grain).resize((48, 40), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=95)
    return buffer.getvalue()


def rewrite(path: Path, entries: dict[bytes, bytes]) -> None:
    """Write a published file again, whole, with other entries in its footer."""
    rows = pq.read_table(path)
    metadata = rows.schema.metadata | entries
    path.write_bytes(to_parquet(rows.replace_schema_metadata(metadata)))


def everything(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@dataclass
class Input:
    """Three shards, of which two have samples that fail while HEIC cannot be read."""

    config: Config
    folder: Path

    def file_of(self, shard: str, output: str = "out") -> Path:
        (path,) = (self.folder / output).glob(f"*/{file_name(str(self.folder / shard))}")
        return path

    def rows(self, shard: str, output: str = "out") -> list[dict]:
        return pq.read_table(self.file_of(shard, output)).to_pylist()


@pytest.fixture
def given(make_config: ConfigMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Input:
    """An output that was made while HEIC could not be read; it can be now."""
    pillow_heif.register_heif_opener()
    heic = picture(1, "HEIF")
    write_tar(
        tmp_path / "mixed.tar",
        {
            "a.jpg": picture(0),
            "b.heic": heic,
            "c.jpg": picture(2)[:40],
            "d.txt": b"no picture",
            "e.jpg": picture(3),
            "f.heic": heic,
        },
    )
    write_tar(tmp_path / "plain.tar", {"a.jpg": picture(4)})
    write_tar(tmp_path / "torn.tar", {"a.jpg": picture(5), "b.jpg": b"torn"})
    config = make_config(
        f"input.shards={tmp_path}/*.tar", "output.store_maps=true", "output.store_features=true"
    )
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pillow_heif", None)
        assert run(config, QUIET).statuses == {"ok": 4, "unreadable": 4, "no_image": 1}
    return Input(config, tmp_path)


def test_rows_that_failed_are_what_annotating_anew_gives_and_the_others_stay(given: Input) -> None:
    before = {name: given.file_of(name).read_bytes() for name in ("plain.tar", "torn.tar")}
    old = given.rows("mixed.tar")
    summary = retry(given.config, FAILED, QUIET)
    assert summary.complete
    assert summary.retried == {
        ("unreadable", "ok"): 2,
        ("unreadable", "unreadable"): 2,
        ("no_image", "no_image"): 1,
    }
    anew = given.config.output.model_copy(update={"uri": str(given.folder / "anew")})
    run(given.config.model_copy(update={"output": anew}), QUIET)
    new = given.rows("mixed.tar")
    assert [row["status"] for row in new] == ["ok", "ok", "unreadable", "no_image", "ok", "ok"]
    assert new == given.rows("mixed.tar", "anew")
    assert [new[at] for at in (0, 2, 3, 4)] == [old[at] for at in (0, 2, 3, 4)]
    assert all(new[1][column] for column in ("maps", "features", "objects"))
    assert before == {name: given.file_of(name).read_bytes() for name in before}
    found = verify(str(given.folder / "out"), against_input=True)
    assert found.ok, found.problems


def test_workers_on_ray_make_the_same_rows_again(
    given: Input, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = PlayedRay()
    played.stand_in(monkeypatch)
    on_ray = {"name": "ray", "workers": 2, "gpus_per_worker": 0.0, "cpus_per_worker": 1}
    engine = given.config.engine.model_copy(update=on_ray)
    config = given.config.model_copy(update={"engine": engine})
    plain = given.file_of("plain.tar").read_bytes()
    summary = retry(config, ["unreadable"], QUIET)
    assert summary.complete
    assert len(played.started) == 2
    assert summary.retried == {("unreadable", "ok"): 2, ("unreadable", "unreadable"): 2}
    assert [row["status"] for row in given.rows("mixed.tar")].count("ok") == 4
    assert given.file_of("plain.tar").read_bytes() == plain
    found = verify(str(given.folder / "out"), against_input=True)
    assert found.ok, found.problems


def test_only_what_failed_is_decoded_and_what_fails_again_is_not_written(
    given: Input, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    load = cambox.annotator.load_sample

    def noted(sample: Sample, rule: LoadRule) -> LoadedSample:
        decoded.append(sample.key)
        return load(sample, rule)

    monkeypatch.setattr(cambox.annotator, "load_sample", noted)
    assert retry(given.config, ["unreadable"], QUIET).manifest is not None
    assert sorted(decoded) == ["b", "b", "c", "f"]
    decoded.clear()
    before = everything(given.folder / "out")
    again = retry(given.config, FAILED, QUIET)
    assert sorted(decoded) == ["b", "c", "d"]
    assert again.retried == {("unreadable", "unreadable"): 2, ("no_image", "no_image"): 1}
    after = everything(given.folder / "out")
    assert after == before


def test_a_file_says_what_was_made_again_and_a_manifest_names_it(given: Input) -> None:
    first = pq.read_metadata(given.file_of("mixed.tar")).metadata
    folder = str(given.file_of("mixed.tar").parent)
    _, before = newest_manifest(folder)
    assert before is not None
    summary = retry(given.config, FAILED, QUIET)
    second = pq.read_metadata(given.file_of("mixed.tar")).metadata
    assert json.loads(second[b"cambox.retried"]) == {
        "rows": {"unreadable": 2},
        "versions": dict(library_versions()),
    }
    others = {b"ARROW:schema", b"cambox.data", b"cambox.retried"}
    assert {key: first[key] for key in first if key not in others} == {
        key: second[key] for key in second if key not in others
    }
    assert summary.manifest is not None
    manifest = read_manifest(folder, summary.manifest)
    assert manifest.previous == before
    old = {one.name: one.sha256 for one in read_manifest(folder, before).files}
    new = {one.name: one.sha256 for one in manifest.files}
    assert {name for name in old if old[name] != new[name]} == {given.file_of("mixed.tar").name}


def test_a_file_that_another_run_replaces_meanwhile_is_left_alone(
    given: Input, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = given.file_of("mixed.tar")
    publish = failed_rows.publish

    def beaten(*arguments: object) -> str:
        rewrite(path, {b"cambox.by": b"another run"})
        return publish(*arguments)

    monkeypatch.setattr(failed_rows, "publish", beaten)
    summary = retry(given.config, FAILED, QUIET)
    (failure,) = summary.failures
    assert failure.shard.uri.endswith("mixed.tar")
    assert "another run has published it" in failure.reason
    assert failure.attempts == 1
    assert [row["status"] for row in given.rows("mixed.tar")].count("ok") == 2
    # What was given up is done by the same request again.
    monkeypatch.undo()
    assert retry(given.config, FAILED, QUIET).complete
    assert [row["status"] for row in given.rows("mixed.tar")].count("ok") == 4


def test_shards_that_are_new_or_changed_are_left_to_annotate(given: Input) -> None:
    write_tar(given.folder / "new.tar", {"a.jpg": picture(6)})
    write_tar(given.folder / "torn.tar", {"a.jpg": picture(7), "b.jpg": b"torn again"})
    before = given.file_of("torn.tar").read_bytes()
    summary = retry(given.config, FAILED, QUIET)
    assert [len(summary.plan.new), len(summary.plan.changed)] == [1, 1]
    assert [report.shard.uri for report in summary.reports] == [str(given.folder / "mixed.tar")]
    assert given.file_of("torn.tar").read_bytes() == before
    assert run(given.config, QUIET).statuses == {"ok": 2, "unreadable": 1}


def test_another_recipe_or_a_machine_that_makes_other_rows_is_refused(given: Input) -> None:
    other = given.config.cam.model_copy(update={"top_k": 2})
    with pytest.raises(RequestError, match="run cambox annotate first, with the same settings"):
        retry(given.config.model_copy(update={"cam": other}), FAILED, QUIET)
    path = given.file_of("torn.tar")
    canary = json.loads(pq.read_metadata(path).metadata[b"cambox.canary"])
    canary["rows"][0]["pixels"] = 64 * "0"
    rewrite(path, {b"cambox.canary": json.dumps(canary).encode()})
    with pytest.raises(RequestError, match=r"1 published file .* would get other rows here"):
        retry(given.config, FAILED, QUIET)
    redo = given.config.engine.model_copy(update={"if_rows_differ": "redo"})
    with pytest.raises(RequestError, match="all rows of such files anew; cambox annotate does it"):
        retry(given.config.model_copy(update={"engine": redo}), FAILED, QUIET)
    mix = given.config.engine.model_copy(update={"if_rows_differ": "mix"})
    assert retry(given.config.model_copy(update={"engine": mix}), FAILED, QUIET).complete


def test_the_command(
    given: Input, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def cambox_retry(*arguments: str) -> int:
        config = str(given.folder / "config.yaml")
        monkeypatch.setattr(sys, "argv", ["cambox", "retry", config, *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0)

    sets = [f"--set=input.shards={given.folder}/*.tar"]
    sets += ["--set=output.store_maps=true", "--set=output.store_features=true"]
    assert cambox_retry("--status", "unreadable,torn", *sets) == 2
    assert "--status: 'torn' is none of unreadable, too_large," in capsys.readouterr().err
    assert cambox_retry("--status", "unreadable", "--status", "no_image", "--json", *sets) == 0
    out, err = capsys.readouterr()
    answer = json.loads(out)
    assert answer["rows"] == {"unreadable": 4, "no_image": 1}
    assert answer["rows_now"] == {"ok": 2, "unreadable": 2, "no_image": 1}
    assert (answer["files_written"], answer["complete"]) == (1, True)
    assert "5 rows read again in 2 shards (no_image 1, unreadable 4); now: no_image 1, ok 2," in err
    assert "1 file written anew, 0 given up" in err
