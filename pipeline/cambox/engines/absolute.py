"""A configuration whose paths mean the same to a worker in another folder."""

from __future__ import annotations

from pathlib import Path

from cambox.config import Config
from cambox.errors import RequestError
from cambox.sources.storage import canonical_uri


def absolute(config: Config) -> Config:
    """The same configuration with paths that mean the same to a worker in another folder.

    Raises:
        RequestError: a relative output inside a job's temporary folder.
    """
    output = canonical_uri(config.output.uri)
    if output != config.output.uri and "runtime_resources" in Path.cwd().parts:
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
    return config.model_copy(
        update={
            "output": config.output.model_copy(update={"uri": output}),
            "model": model.model_copy(update=paths),
        }
    )
