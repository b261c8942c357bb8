"""The forward pass compiled by PyTorch, for batches of one size."""

from __future__ import annotations

import logging
import os
import tempfile
from typing import Any

import platformdirs
import torch

from cambox.console import one_line
from cambox.models.classifier import Classifier
from cambox.models.fixed import Run, images_for

LOG = logging.getLogger(__name__)

KEPT_IN = "TORCHINDUCTOR_CACHE_DIR"


def compiled(classifier: Classifier, count: int) -> Run:
    """The forward pass for batches of one size, compiled; copies of the classifier may share it.

    All of it is traced first, with what hooks note and the pass that the classes come from. Numbers
    of 16 bits are rounded where they would be without compiling.

    Raises:
        Exception: there is no compiler, or the network cannot be traced.
    """
    # Late: it takes a second, and few runs compile.
    from torch._inductor import config as settings
    from torch.fx.experimental.proxy_tensor import make_fx

    keep_what_is_compiled()
    # Else as many processes as the machine has CPUs, and so for each worker on it.
    settings.compile_threads = max(1, torch.get_num_threads())
    like = classifier.try_out()
    with torch.inference_mode(False), torch.no_grad():
        given = images_for(classifier, count)
        traced = make_fx(lambda pixels: classifier.scores_of(pixels).tensors())(given)
        quick: Any = torch.compile(
            traced, fullgraph=True, dynamic=False, options={"emulate_precision_casts": True}
        )

    def run(pixels: torch.Tensor) -> Any:
        with torch.inference_mode(False), torch.no_grad():
            return like.with_tensors(quick(pixels))

    run(given)
    return run


def keep_what_is_compiled() -> None:
    """In the user's cache, unless the user has named a folder.

    PyTorch keeps it in the temporary folder, which is emptied with each start of the machine.
    """
    named = os.environ.get(KEPT_IN, "")
    # To its own choice PyTorch sets the name itself, as soon as timm is imported.
    if named and not named.startswith(f"{tempfile.gettempdir()}/torchinductor_"):
        return
    folder = platformdirs.user_cache_path("cambox") / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        LOG.warning("model.compile: what is compiled is not kept: %s", one_line(error))
        return
    os.environ[KEPT_IN] = str(folder)
