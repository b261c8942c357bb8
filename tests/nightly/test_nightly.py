"""Nights in a row: what is published, what the report says, and when `latest` moves."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow.dataset
import pytest
import yaml
from pydantic import ValidationError
from rich.console import Console

import cambox
import cambox.annotator
from cambox.config import OutputSettings
from cambox.engines.local import LocalEngine
from cambox.errors import RequestError, UnavailableError
from cambox.nightly.night import of_the_day, parse_day, run_night
from cambox.nightly.report import RunReport, render_page, report_name, without_secrets
from cambox.output.latest import Latest, latest_folder, move_latest, read_latest
from cambox.verify.verify import verify
from conftest import ConfigMaker
from makers import ROOT, exit_code_here

REPOSITORY = ROOT
COMMAND = ("cambox", "nightly", "config.yaml")


class Nights:
    """A dataset that grows, and its nights."""

    def __init__(self, folder: Path, make_config: ConfigMaker, shards: Path) -> None:
        self.input = folder / "input"
        self.output = folder / "out"
        self.input.mkdir()
        self.make_config = make_config
        self.whole = sorted(shards.glob("*.tar"))
        self.log = ""

    def arrive(self, number: int, name: str | None = None, size: int | None = None) -> Path:
        """A shard of four pictures arrives, whole or cut."""
        path = self.input / (name or self.whole[number].name)
        path.write_bytes(self.whole[number].read_bytes()[:size])
        return path

    def run(self, *overrides: str) -> RunReport:
        """One night, and its report as its JSON file has it."""
        output = io.StringIO()
        before = self.names()
        config = self.make_config(f"input.shards={self.input}/*.tar", *overrides)
        try:
            returned = run_night(config, date(2026, 1, 31), COMMAND, Console(file=output))
        finally:
            self.log = output.getvalue()
        (name,) = self.names() - before
        report = self.report(name)
        assert report == returned
        return report

    def names(self) -> set[str]:
        return {path.stem for path in (self.output / "_runs").glob("*.json")}

    def report(self, name: str) -> RunReport:
        return RunReport.model_validate_json((self.output / "_runs" / f"{name}.json").read_text())

    def page(self, name: str) -> str:
        return (self.output / "_runs" / f"{name}.html").read_text()

    def pointer(self) -> dict[str, object] | None:
        path = self.output / "_latest.json"
        return json.loads(path.read_text()) if path.exists() else None

    def link(self) -> str | None:
        link = self.output / "latest"
        return str(link.readlink()) if link.is_symlink() else None

    def published(self) -> dict[str, int]:
        return {
            path.name: path.stat().st_mtime_ns for path in self.output.glob("[0-9a-f]*/*.parquet")
        }


@pytest.fixture
def nights(tmp_path: Path, make_config: ConfigMaker, shards: Path) -> Nights:
    return Nights(tmp_path, make_config, shards)


class Tags(HTMLParser):
    """The tags of a page, and what they point to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.targets: list[str | None] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.targets += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_first_night_and_a_night_without_news(nights: Nights) -> None:
    nights.arrive(0)
    nights.arrive(1)
    first = nights.run()
    assert (first.exit_code, first.outcome) == (0, "complete")
    assert first.input is not None
    assert (first.input.shards, first.input.new, first.input.changed, first.input.done) == (
        *(2, 2, 0, 0),
    )
    assert first.work is not None
    assert (first.work.published, first.work.given_up, first.work.missing) == (2, (), ())
    assert first.work.rows == {"ok": 8}
    rows = pyarrow.dataset.dataset(nights.output / "latest").to_table().to_pylist()
    assert len(rows) == 8
    assert first.work.boxes == sum(len(row["objects"]) for row in rows)
    assert first.verification is not None
    assert (first.verification.ok, first.verification.files, first.verification.rows) == (
        *(True, 2, 8),
    )
    assert first.recipe is not None
    assert nights.link() == first.recipe.folder == first.recipe.digest[:16]
    assert first.recipe.settings["cam"]["top_k"] == 3
    pointer = nights.pointer()
    assert pointer is not None
    assert (pointer["recipe"], pointer["run"]) == (first.recipe.folder, first.name)
    assert (pointer["shards"], pointer["rows"]) == (2, 8)
    assert first.started_at < first.ended_at
    assert set(first.versions) >= {"cambox", "torch", "ray", "python"}

    before = nights.published()
    again = nights.run()
    assert again.exit_code == 0
    assert again.input is not None
    assert again.work is not None
    assert (again.input.done, again.work.published, again.work.rows) == (2, 0, {})
    assert nights.published() == before
    assert again.name > first.name
    assert latest_folder(OutputSettings(uri=str(nights.output))) == str(
        nights.output / first.recipe.folder
    )
    # What a night leaves beside the recipes is nothing that verify stumbles over.
    for folder in (nights.output, nights.output / "latest"):
        found = verify(str(folder))
        assert (found.ok, found.files, found.rows) == (True, 2, 8), found.problems


def test_a_cut_shard_holds_latest_until_it_is_mended(nights: Nights) -> None:
    nights.arrive(0)
    good = nights.run()
    held = nights.pointer()
    # A name that a page must not take for its own.
    cut = nights.arrive(1, "shard-<script>alert(1).tar", size=2000)
    bad = nights.run()
    assert (bad.exit_code, bad.outcome) == (1, "unfinished")
    assert bad.work is not None
    (given_up,) = bad.work.given_up
    assert (given_up.shard, given_up.attempts) == (str(cut), 1)
    assert "cut" in given_up.reason
    assert not bad.latest.moved
    assert bad.latest.why_not == "given up: 1 shard"
    assert good.recipe is not None
    assert bad.latest.recipe == good.recipe.folder
    assert nights.pointer() == held
    assert nights.link() == good.recipe.folder
    assert "latest: not moved (given up: 1 shard)" in nights.log

    page = nights.page(bad.name)
    assert "shard-&lt;script&gt;alert(1).tar" in page
    tags = Tags(page)
    assert not tags.tags & {"script", "link", "img", "iframe"}
    assert tags.targets == []
    text = " ".join(tags.text)
    assert given_up.reason in text
    assert "given up: 1 shard" in text
    assert text.index(given_up.reason) < text.index("images per second")
    assert "prefers-color-scheme: dark" in page

    nights.arrive(1, cut.name)
    mended = nights.run()
    assert mended.exit_code == 0
    assert mended.latest.moved
    assert mended.work is not None
    assert mended.work.published == 1
    pointer = nights.pointer()
    assert pointer is not None
    assert (pointer["run"], pointer["shards"], pointer["rows"]) == (mended.name, 2, 8)


def test_a_new_recipe_becomes_latest_only_when_it_covers_everything(nights: Nights) -> None:
    nights.arrive(0)
    nights.arrive(1)
    old = nights.run()
    assert old.recipe is not None
    nights.arrive(2, size=3000)
    half = nights.run("cam.top_k=2")
    assert half.exit_code == 1
    assert half.recipe is not None
    assert half.recipe.folder != old.recipe.folder
    assert nights.link() == old.recipe.folder
    assert len(list((nights.output / half.recipe.folder).glob("*.parquet"))) == 2
    nights.arrive(2)
    full = nights.run("cam.top_k=2")
    assert full.exit_code == 0
    assert nights.link() == half.recipe.folder
    assert pyarrow.dataset.dataset(nights.output / "latest").count_rows() == 12
    assert pyarrow.dataset.dataset(nights.output / old.recipe.folder).count_rows() == 8
    assert not list(nights.output.glob(".*"))


def test_a_file_that_rots_stops_the_night_although_nothing_is_to_do(nights: Nights) -> None:
    nights.arrive(0)
    good = nights.run()
    (path,) = nights.output.glob("[0-9a-f]*/*.parquet")
    rotten = bytearray(path.read_bytes())
    rotten[len(rotten) // 8] ^= 0xFF  # in the data, which come before the footer
    path.write_bytes(rotten)
    bad = nights.run()
    assert bad.input is not None
    assert bad.input.done == 1
    assert bad.exit_code == 1
    assert bad.verification is not None
    assert bad.verification.problems[0].file == str(path)
    assert bad.latest.why_not is not None
    assert "verification found" in bad.latest.why_not
    pointer = nights.pointer()
    assert pointer is not None
    assert pointer["run"] == good.name
    assert bad.verification.problems[0].what in " ".join(Tags(nights.page(bad.name)).text)


def test_a_file_that_only_the_worker_can_see_is_missing(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker publishes to a folder of that name on its own node."""
    honest = cambox.annotator.publish

    def elsewhere(*arguments: Any) -> str:
        uri = honest(*arguments)
        if "000001" in uri:
            Path(uri).unlink()
        return uri

    monkeypatch.setattr(cambox.annotator, "publish", elsewhere)
    nights.arrive(0)
    nights.arrive(1)
    with pytest.raises(UnavailableError, match=r"000001.* is not there when it is read"):
        nights.run()
    (name,) = nights.names()
    report = nights.report(name)
    assert (report.outcome, report.exit_code) == ("failed", 1)
    assert nights.pointer() is None
    assert nights.link() is None
    assert "all workers write to one storage" in " ".join(Tags(nights.page(name)).text)


def test_when_nothing_can_be_published_nothing_is_verified(nights: Nights) -> None:
    nights.arrive(0, size=700)
    report = nights.run()
    assert report.exit_code == 1
    assert report.verification is None
    assert nights.pointer() is None


@pytest.mark.parametrize("error", [RuntimeError("the <b>cluster</b> is gone"), KeyboardInterrupt()])
def test_a_night_that_fails_half_way_leaves_a_report_and_the_error(
    nights: Nights, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    nights.arrive(0)
    nights.run()
    held = nights.pointer()
    nights.arrive(1)

    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(LocalEngine, "annotate", fail)
    before = nights.names()
    with pytest.raises(type(error)) as raised:
        nights.run()
    assert raised.value is error
    (name,) = nights.names() - before
    report = nights.report(name)
    assert (report.outcome, report.exit_code) == ("failed", 1)
    assert report.error is not None
    assert report.error.startswith(type(error).__name__)
    assert str(error) in report.error
    assert report.traceback is not None
    assert "Traceback" in report.traceback
    assert report.input is not None
    assert (report.input.new, report.input.done, report.work) == (1, 1, None)
    assert nights.pointer() == held
    assert not report.latest.moved
    page = nights.page(name)
    assert "<b>" not in page
    assert str(error) in " ".join(Tags(page).text)


def test_a_report_that_cannot_be_written_does_not_hide_the_error(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights.arrive(0)
    nights.output.mkdir()
    (nights.output / "_runs").write_text("a file where the reports' folder should be")

    def fail(*arguments: object) -> None:
        raise RuntimeError("the cluster is gone")

    monkeypatch.setattr(LocalEngine, "annotate", fail)
    with pytest.raises(RuntimeError, match="the cluster is gone"):
        nights.run()
    assert "the report could not be written" in nights.log


def test_storage_options_stay_out_of_the_report(nights: Nights) -> None:
    nights.arrive(0)
    report = nights.run("output.storage_options={auto_mkdir: true}")
    assert report.config["output"]["storage_options"] == {"auto_mkdir": "***"}
    given = ("--set", "input.storage_options={key: hush}", "--set", "cam.top_k=3")
    assert without_secrets(given) == (
        *("--set", "input.storage_options=***", "--set", "cam.top_k=3"),
    )
    assert "hush" not in str(without_secrets(["--set=output={storage_options: {key: hush}}"]))


def test_an_object_store_has_the_pointer_and_no_link(nights: Nights) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    output = OutputSettings(uri="memory://nightly-boxes/")
    assert latest_folder(output) is None
    nights.arrive(0)
    config = nights.make_config(f"input.shards={nights.input}/*.tar", f"output.uri={output.uri}")
    report = run_night(config, date(2026, 1, 31), COMMAND, Console(file=io.StringIO()))
    assert report.exit_code == 0
    assert report.recipe is not None
    assert latest_folder(output) == f"memory://nightly-boxes/{report.recipe.folder}"
    names = {path.rsplit("/", 1)[-1] for path in memory.ls("/nightly-boxes/_runs", detail=False)}
    assert names == {f"{report.name}.json", f"{report.name}.html", report.recipe.folder}
    assert not memory.exists("/nightly-boxes/latest")


LATEST = Latest(
    recipe="0123456789abcdef",
    uri="/elsewhere/0123456789abcdef",
    run="20260131T023000.000Z-0123456789abcdef",
    shards=1,
    rows=4,
    moved_at=datetime(2026, 1, 31, tzinfo=UTC),
)


def test_a_pointer_that_is_damaged_or_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    output = OutputSettings(uri=str(tmp_path))
    move_latest(output, LATEST)
    assert read_latest(output) == LATEST
    assert latest_folder(output) == str(tmp_path / LATEST.recipe)
    pointer = tmp_path / "_latest.json"
    for text in ("", pointer.read_text().replace(f'"{LATEST.recipe}"', '"../../private"')):
        pointer.write_text(text)
        with pytest.raises(RequestError, match=r"_latest\.json: not a pointer"):
            latest_folder(output)


def test_the_link_is_replaced_at_once_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = OutputSettings(uri=str(tmp_path))
    move_latest(output, LATEST)
    other = LATEST.model_copy(update={"recipe": "f" * 16})
    honest = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if target.name == "latest":
            raise OSError(5, "Input/output error")
        return honest(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(OSError, match="Input/output"):
            move_latest(output, other)
    assert (tmp_path / "latest").readlink() == Path(LATEST.recipe)
    assert {path.name for path in tmp_path.iterdir()} == {"_latest.json", "latest"}
    move_latest(output, other)
    assert (tmp_path / "latest").readlink() == Path("f" * 16)


def test_a_folder_called_latest_is_told_before_any_work(nights: Nights) -> None:
    nights.arrive(0)
    (nights.output / "latest").mkdir(parents=True)
    with pytest.raises(RequestError, match="in the way"):
        nights.run()
    assert nights.published() == {}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("s3://bucket/{date}/*.tar", "s3://bucket/2026-01-31/*.tar"),
        ("in/{date:%Y/%m/%d}/s-{000..007}.tar", "in/2026/01/31/s-{000..007}.tar"),
        ("{a,{date:%y%j}}-{b,c}.tar", "{a,26031}-{b,c}.tar"),
        ("{date}/{date:%d}.tar", "2026-01-31/31.tar"),
        ("{dates,date}-{update}.tar", "{dates,date}-{update}.tar"),
    ],
)
def test_placeholders_become_the_day_and_other_braces_stay(
    make_config: ConfigMaker, pattern: str, expected: str
) -> None:
    config = make_config(f"input.shards={json.dumps([pattern, 'x.tar'])}")
    assert of_the_day(config, date(2026, 1, 31)).input.shards == [expected, "x.tar"]
    config = make_config(f"input.images={json.dumps([pattern])}")
    assert of_the_day(config, date(2026, 1, 31)).input.images == [expected]


@pytest.mark.parametrize("form", ["{date:}", "{date:day}", "{date:%!}", "{date:%Y-%}"])
def test_a_placeholder_without_a_date_is_refused(make_config: ConfigMaker, form: str) -> None:
    with pytest.raises(RequestError, match=r"is not a date; write \{date\}"):
        of_the_day(make_config(f"input.shards={json.dumps([form])}"), date(2026, 1, 31))


@pytest.mark.parametrize("text", ["yesterday", "2026-02-30", "31.01.2026", ""])
def test_a_wrong_date_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="--date"):
        parse_day(text)
    assert parse_day("2026-01-31") == date(2026, 1, 31)


def test_reports_sort_by_time_and_the_page_of_a_bad_night_stays_small(nights: Nights) -> None:
    moment = datetime(2026, 1, 31, 2, 30, tzinfo=UTC)
    later = [moment, moment + timedelta(milliseconds=1), moment + timedelta(seconds=1)]
    names = [report_name(time, "0" * 16) for time in later]
    assert names == sorted(set(names))
    assert names[0] == "20260131T023000.000Z-0000000000000000"
    assert re.match(r"^[^._]", report_name(moment, None))

    nights.arrive(0, size=700)
    report = nights.run().model_dump(mode="json")
    with pytest.raises(ValidationError):
        RunReport.model_validate(report | {"unknown": 1})
    report["work"]["given_up"] *= 1203
    page = render_page(report)
    assert page.count("<tr>") < 300
    assert f"1003 more are in {report['name']}.json" in page


@pytest.mark.usefixtures("private_ray")
def test_a_night_on_ray(nights: Nights) -> None:
    import ray

    nights.arrive(0)
    nights.arrive(1, size=2000)
    ray.init(address="local", num_cpus=1, log_to_driver=False, include_dashboard=False)
    try:
        report = nights.run("engine.name=ray")
    finally:
        ray.shutdown()
    assert report.exit_code == 1
    assert report.work is not None
    assert (report.work.published, report.work.rows) == (1, {"ok": 4})
    assert report.work.given_up[0].shard.endswith("shard-000001.tar")


def test_exit_codes(
    tmp_path: Path,
    shards: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The first night as a supervisor begins it, the others in this process."""
    config = {
        "input": {"shards": ["input/{date:%Y/%m/%d}/shard-{000000..000001}.tar"]},
        "model": {"name": "test_resnet", "kwargs": {"num_classes": 10}, "input_size": 64},
        "output": {"uri": "out"},
        "engine": {"cpus_per_worker": 1},
    }
    (tmp_path / "nightly.yaml").write_text(yaml.safe_dump(config))
    today = datetime.now(UTC).date()
    folders = {day: tmp_path / f"input/{day:%Y/%m/%d}" for day in (today, date(2026, 1, 31))}
    for folder in folders.values():
        folder.mkdir(parents=True)
        for number in (0, 1):
            shutil.copy(shards / f"shard-00000{number}.tar", folder)
    cut = folders[date(2026, 1, 31)] / "shard-000001.tar"
    cut.write_bytes(cut.read_bytes()[:1000])

    good = subprocess.run(
        [
            *(sys.executable, str(REPOSITORY / "jobs" / "nightly.py"), "nightly.yaml"),
            *("--date", f"{today}", "--engine", "local"),
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        text=True,
        capture_output=True,
        check=False,
        timeout=240,
    )
    assert good.returncode == 0, good.stderr
    assert "2 shards: 2 new" in good.stdout
    assert "latest: moved" in good.stdout
    monkeypatch.chdir(tmp_path)
    assert exit_code_here(monkeypatch, "nightly", "nightly.yaml", "--date", "2026-01-31") == 1
    bad = capsys.readouterr().out
    assert "shard-000001.tar" in bad
    report = json.loads(Path(bad.split("report: ")[1].strip()).read_text())
    assert (report["exit_code"], report["day"]) == (1, "2026-01-31")

    for arguments, message in [
        (("nightly.yaml", "--date", "tomorrow"), "--date: 'tomorrow' is not a date"),
        (("nightly.yaml", "--date", "2026-02-01"), "input/2026/02/01/shard-"),
        (("nowhere.yaml",), "nowhere.yaml"),
    ]:
        assert exit_code_here(monkeypatch, "nightly", *arguments) == 2
        wrong = capsys.readouterr().err
        assert message in wrong
        assert len(wrong.strip().splitlines()) == 1
        assert wrong.startswith("cambox: ")
    failed = [
        json.loads(path.read_text()) for path in (tmp_path / "out/_runs").glob("*-no-recipe.json")
    ]
    assert [report["exit_code"] for report in failed] == [2]
    assert "input/2026/02/01" in failed[0]["error"]


def test_the_docs_say_how_to_run_it_every_night() -> None:
    text = (REPOSITORY / "docs" / "nightly.md").read_text()
    assert (
        "ray job submit --entrypoint-num-cpus 1 -- python jobs/nightly.py configs/nightly.yaml"
        in text
    )
    (cron,) = re.findall(r"^30 2 \* \* \* (.+)$", text, re.MULTILINE)
    # A bare per cent sign ends the command in a crontab.
    assert not re.search(r"(?<!\\)%", cron)
    assert subprocess.run(["bash", "-n", "-c", cron], check=False).returncode == 0
    for words in ("latest_folder(", "_latest.json", "MAILTO", "configs/kubernetes/nightly.yaml"):
        assert words in text


def test_readers_of_latest_read_the_last_good_night_while_a_bad_one_waits_to_be_mended(
    nights: Nights,
) -> None:
    nights.arrive(0)
    nights.arrive(1)
    first = nights.run()
    pointer = nights.pointer()
    assert pointer is not None
    assert pointer["manifest"] == first.manifest
    before = cambox.read(str(nights.output)).to_table()
    assert before.num_rows == 8
    # A shard gets other pictures, and another comes cut.
    nights.arrive(2, name=nights.whole[0].name)
    nights.arrive(2, size=1000)
    second = nights.run()
    assert second.outcome == "unfinished"
    assert second.manifest not in (None, first.manifest)
    assert nights.pointer() == pointer
    assert cambox.read(str(nights.output)).to_table() == before
    assert cambox.read(str(nights.output / "latest")).to_table() == before
    assert first.recipe is not None
    newest = cambox.read(str(nights.output / first.recipe.folder)).to_table()
    assert newest.num_rows == 8
    assert newest != before
    nights.arrive(2)
    third = nights.run()
    assert third.exit_code == 0
    assert cambox.read(str(nights.output)).count_rows() == 12
