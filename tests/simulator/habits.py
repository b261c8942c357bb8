"""The storages that a history may be of, and in which ways they fail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# Of a condition: it is compared; passed over, and the file written; or the request is refused.
Conditions = Literal["compared", "passed over", "refused"]


@dataclass(frozen=True)
class Habits:
    """What a storage does, as shares of the requests and in seconds.

    Attributes:
        refuses: answers 503, and does nothing.
        loses: does what was asked, and the answer does not come.
        late: of those writes, how many have their effect only later, up to ``latest`` seconds.
        doubles: does a write twice, the second time up to ``latest`` seconds later.
        lists_late: seconds until a new file is in listings.
        stale: seconds in which what was there before is read.
    """

    conditions: Conditions = "compared"
    refuses: float = 0.0
    loses: float = 0.0
    late: float = 0.0
    doubles: float = 0.0
    latest: float = 86400.0
    lists_late: float = 0.0
    stale: float = 0.0


@dataclass(frozen=True)
class Kind:
    """Of which storage a history is.

    Attributes:
        strict: the storage compares and shows what is there, so that nothing may be lost even
            where two runs publish at once.
    """

    name: str
    habits: Habits
    strict: bool = True


KINDS = (
    Kind("as S3", Habits()),
    Kind("conditions are passed over", Habits(conditions="passed over", latest=0.0), strict=False),
    Kind("conditions are refused", Habits(conditions="refused", latest=0.0), strict=False),
    Kind("lists late", Habits(lists_late=30.0)),
    Kind("reads stale", Habits(stale=10.0), strict=False),
)
