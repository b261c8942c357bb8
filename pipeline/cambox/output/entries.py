"""The entries of a list column, side by side as arrays, each with the row it belongs to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class Entries:
    """The entries of one list column, those with a null left out.

    Attributes:
        complete: whether there was none to leave out.
        row: (n,) the row, within the batch, that each entry belongs to.
        fields: (n,) each, by the name of the struct's field.
    """

    column: str
    complete: bool
    row: np.ndarray
    fields: dict[str, pa.Array]

    def __getitem__(self, field: str) -> np.ndarray:
        values: np.ndarray = self.fields[field].to_numpy(zero_copy_only=False)
        return values

    @classmethod
    def of(cls, values: pa.ListArray, column: str) -> tuple[Entries, np.ndarray, np.ndarray]:
        """Take a column apart.

        Returns:
            The entries without a null; and for all m entries, (m,) bool, whether one is of those,
            and (m,) its row.
        """
        flat = values.flatten()
        row = as_numpy(pc.list_parent_indices(values))
        fields = (
            dict(zip((field.name for field in flat.type), flat.flatten(), strict=True))
            if pa.types.is_struct(flat.type)
            else {"item": flat}
        )
        whole = np.ones(len(row), bool)
        for field in fields.values():
            whole &= as_numpy(pc.is_valid(field))
        kept = {name: field.filter(whole) for name, field in fields.items()}
        return cls(column, bool(whole.all()), row[whole], kept), whole, row


def as_numpy(values: pa.Array) -> np.ndarray:
    """A copy where Arrow's own memory does not do; a null becomes NaN."""
    array: np.ndarray = values.to_numpy(zero_copy_only=False)
    return array


def place_in_group(*keys: np.ndarray) -> np.ndarray:
    """(n,) the place, from 0, of each entry in its run of equal keys."""
    places = np.arange(len(keys[0]))
    starts = np.zeros(len(places), bool)
    starts[:1] = True
    for key in keys:
        starts[1:] |= key[1:] != key[:-1]
    place: np.ndarray = places - np.maximum.accumulate(np.where(starts, places, 0))
    return place
