"""Paths that mean the same to a worker in another folder, or on another machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cambox
from cambox.config import LOCAL_DIR, Config
from cambox.errors import RequestError
from cambox.sources.storage import canonical_uri


def absolute(config: Config) -> Config:
    """The same configuration with paths that mean the same to a worker in another folder.

    Raises:
        RequestError: a relative output inside a job's temporary folder.
    """
    output = canonical_uri(config.output.uri)
    if output != config.output.uri and _in_a_jobs_folder():
        raise RequestError(
            f"output.uri: {config.output.uri} is relative, and this job runs in a temporary folder "
            f"that is deleted after it; give a URL, or an absolute path that all nodes share"
        )
    model = config.model
    paths = {
        name: canonical_uri(path)
        for name in ("checkpoint", "class_names")
        if (path := getattr(model, name)) is not None
    }
    if model.source == LOCAL_DIR:
        paths["name"] = f"{LOCAL_DIR}:{canonical_uri(model.name.partition(':')[2])}"
    listed = config.input.class_names
    named = {"class_names": canonical_uri(listed)} if isinstance(listed, str) else {}
    return config.model_copy(
        update={
            "input": config.input.model_copy(update=named),
            "output": config.output.model_copy(update={"uri": output}),
            "model": model.model_copy(update=paths),
        }
    )


def runtime_env(of_the_job: Mapping[str, Any]) -> dict[str, Any]:
    """What an actor needs so that it can import cambox: nothing where that is installed.

    Of a submitted job's folder each node has a copy, in a place of its own, where workers start.

    Args:
        of_the_job: the environment that its job has already.
    """
    root = Path(cambox.__file__).resolve().parents[1]
    if "site-packages" in root.parts or "dist-packages" in root.parts:
        return {}
    folder = Path.cwd().resolve()
    if _in_a_jobs_folder() and folder in root.parents:
        root = root.relative_to(folder)
    others = of_the_job.get("env_vars", {}).get("PYTHONPATH", "${PYTHONPATH}")
    return {"env_vars": {"PYTHONPATH": os.pathsep.join([str(root), others])}}


def _in_a_jobs_folder() -> bool:
    return "runtime_resources" in Path.cwd().parts
