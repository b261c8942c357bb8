"""The README: from a folder of pictures to a COCO file and a gallery, as a newcomer goes."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from pycocotools.coco import COCO

from cambox.cli import main
from makers import ROOT

README = ROOT / "README.md"
PICTURES = 8


def test_a_folder_of_pictures_becomes_a_coco_file_and_a_gallery(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    photographs = sorted((shared / "data" / "photos-300" / "images").iterdir())[:PICTURES]
    Path("photos").mkdir()
    for photograph in photographs:
        shutil.copy(photograph, "photos")
    (block,) = re.findall(r"^```sh photos\n(.*?)^```$", README.read_text(), re.M | re.S)
    install, *commands = block.splitlines()
    assert len(commands) <= 4
    assert install.endswith("pip install -c cambox/constraints.txt ./cambox")
    for command in commands:
        words = shlex.split(command)
        if words[1] == "annotate":
            words += weights_at_hand(shared)
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code, command
    found = COCO("coco/annotations.json")
    assert 0 < len(found.getImgIds()) <= PICTURES
    for image in found.loadImgs(found.getImgIds()):
        assert (Path("coco/images") / image["file_name"]).is_file()
        assert found.getAnnIds(imgIds=[image["id"]])
    page = Path("gallery/gallery.html").read_text()
    assert all(photograph.stem in page for photograph in photographs)


def weights_at_hand(shared: Path) -> list[str]:
    """Instead of the hub's weights, which need the network."""
    checkpoint = shared / "weights" / "mobilenetv2_100_coral_ptq.safetensors"
    settings = {
        "checkpoint": checkpoint,
        "pretrained": "false",
        "kwargs": "{pad_type: same, bn_eps: 1.0e-3}",
        "mean": "[0.5, 0.5, 0.5]",
        "std": "[0.5, 0.5, 0.5]",
    }
    return [word for key, value in settings.items() for word in ("--set", f"model.{key}={value}")]
