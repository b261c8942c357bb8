"""Weights from the hub of a library: within seconds it is known whether the hub answers."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue

from huggingface_hub import constants

SECONDS_TO_ANSWER = 6.0
TORCHVISION_HUB = "https://download.pytorch.org"


@contextmanager
def offline_unless_it_answers() -> Iterator[str | None]:
    """Have timm's hub asked nothing meanwhile if it does not answer; what is cached still loads.

    Its client would else ask five times for each name that the weights may have, for 50 seconds.

    Yields:
        None; or the address of the hub that does not answer.
    """
    before = constants.HF_HUB_OFFLINE
    silent = None if before or answers(constants.ENDPOINT) else str(constants.ENDPOINT)
    constants.HF_HUB_OFFLINE = before or silent is not None
    try:
        yield silent
    finally:
        constants.HF_HUB_OFFLINE = before


def answers(address: str) -> bool:
    """Whether a server says anything within some seconds, through the proxies that are set."""
    answer = SimpleQueue[bool]()

    def ask() -> None:
        try:
            with urllib.request.urlopen(
                urllib.request.Request(address, method="HEAD"), timeout=SECONDS_TO_ANSWER
            ):
                answer.put(True)
        except urllib.error.HTTPError:
            answer.put(True)  # a refusal is an answer
        except OSError:
            answer.put(False)

    # In a thread, as no timeout limits how long a name takes to be resolved.
    threading.Thread(target=ask, daemon=True).start()
    try:
        return answer.get(timeout=SECONDS_TO_ANSWER)
    except Empty:
        return False
