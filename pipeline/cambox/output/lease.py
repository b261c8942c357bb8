"""A lease: of two runs of one recipe into one output, the second ends before it has begun.

It saves work and guards nothing: what is published stays right where two runs hold a lease each,
and a run whose lease cannot be written goes on without one.
"""

from __future__ import annotations

import getpass
import logging
import os
import platform
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from cambox.console import one_line
from cambox.errors import UnavailableError
from cambox.output.exchange import Seen, put, read_seen
from cambox.output.manifest import Options, runs_uri
from cambox.output.publish import MOST_ROUNDS
from cambox.sources.retry import from_storage
from cambox.sources.storage import locate

LOG = logging.getLogger(__name__)

LEASE = timedelta(minutes=5)
RENEWED_EVERY = timedelta(minutes=1)
# The clocks of two machines.
CLOCKS_DIFFER = timedelta(minutes=1)

Clock = Callable[[], datetime]


class Lease(BaseModel):
    """Who is at work, and until when that holds without a further word.

    Attributes:
        machine, process: whose; of its own machine's processes a run knows whether they are alive.
        token: of this holder alone.
        until: by the holder's clock.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    holder: str
    machine: str
    process: int
    token: str
    since: datetime
    until: datetime

    @classmethod
    def of_this_process(cls, now: datetime) -> Lease:
        """One that begins now."""
        try:
            user = getpass.getuser()
        except (OSError, KeyError):
            # A container's user need not have a name.
            user = str(os.getuid())
        return cls(
            holder=f"{user}@{platform.node()}, process {os.getpid()}",
            machine=_machine(),
            process=os.getpid(),
            token=secrets.token_hex(8),
            since=now,
            until=now + LEASE,
        )

    def is_over(self, now: datetime) -> bool:
        """Whether it has expired by anybody's clock, or its holder is known to be dead."""
        if now > self.until + CLOCKS_DIFFER:
            return True
        return self.machine == _machine() and not _is_alive(self.process)


@dataclass(frozen=True)
class Taken:
    """A lease that was taken.

    Attributes:
        uri: of the file that says so.
        from_dead: whose it was before, where that one did not give it back.
    """

    uri: str
    lease: Lease
    from_dead: Lease | None


def take(folder_uri: str, lease: Lease, storage_options: Options = None) -> Taken:
    """Take the lease of a recipe's folder; ``lease.since`` is now.

    Raises:
        UnavailableError: somebody else has it.
        OSError: the storage failed.
    """
    uri = f"{runs_uri(folder_uri)}/lease.json"
    for _ in range(MOST_ROUNDS):
        seen, there = _read(uri, storage_options)
        if there is not None and not there.is_over(lease.since):
            raise UnavailableError(
                f"{folder_uri}: another run of this recipe is at work: {there.holder}, since "
                f"{there.since:%Y-%m-%d %H:%M:%S} UTC; wait for its end. If it is dead, the same "
                f"command goes on after {there.until + CLOCKS_DIFFER:%H:%M:%S} UTC"
            )
        if put(seen, lease.model_dump_json(indent=2).encode() + b"\n", storage_options):
            return Taken(uri, lease, there)
    raise OSError(f"{uri}: others have written it {MOST_ROUNDS} times meanwhile")


def renew(taken: Taken, now: datetime, storage_options: Options = None) -> bool:
    """Hold a lease on; False: somebody else has it.

    Raises:
        OSError: the storage failed.
    """
    seen, there = _read(taken.uri, storage_options)
    if there is None or there.token != taken.lease.token:
        return False
    longer = there.model_copy(update={"until": now + LEASE})
    return put(seen, longer.model_dump_json(indent=2).encode() + b"\n", storage_options)


def release(taken: Taken, storage_options: Options = None) -> None:
    """Give a lease back, if it is still held.

    Raises:
        OSError: the storage failed.
    """
    _, there = _read(taken.uri, storage_options)
    if there is not None and there.token == taken.lease.token:
        filesystem, path = locate(taken.uri, storage_options)
        with suppress(FileNotFoundError):
            from_storage(taken.uri, lambda: filesystem.rm_file(path))


@contextmanager
def held(
    folder_uri: str,
    storage_options: Options = None,
    clock: Clock = lambda: datetime.now(UTC),
    renewed_every: timedelta = RENEWED_EVERY,
) -> Iterator[Taken | None]:
    """Hold the lease of a recipe's folder while the context lasts; None where none can be written.

    Raises:
        UnavailableError: somebody else has it.
    """
    try:
        taken = take(folder_uri, Lease.of_this_process(clock()), storage_options)
    except OSError as error:
        LOG.warning(
            "%s: no lease can be written (%s), so a second run beside this one would do the same "
            "work again",
            *(folder_uri, one_line(error)),
        )
        yield None
        return
    done = threading.Event()

    def hold_on() -> None:
        while not done.wait(renewed_every.total_seconds()):
            try:
                if not renew(taken, clock(), storage_options):
                    LOG.warning("%s: another run has taken this one's lease over", folder_uri)
                    return
            except OSError as error:
                LOG.warning("%s: the lease was not renewed (%s)", folder_uri, one_line(error))

    thread = threading.Thread(target=hold_on, name="lease", daemon=True)
    thread.start()
    try:
        yield taken
    finally:
        done.set()
        thread.join()
        # It expires by itself, and how the run ended matters more.
        with suppress(OSError):
            release(taken, storage_options)


def _read(uri: str, storage_options: Options) -> tuple[Seen, Lease | None]:
    seen, data = read_seen(uri, storage_options)
    # One that does not parse holds nobody off.
    with suppress(ValidationError):
        return seen, None if data is None else Lease.model_validate_json(data)
    return seen, None


def _machine() -> str:
    """Names the machine since its start, and the container, whose processes have own numbers."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        # It is another user's.
        return True
    return True
