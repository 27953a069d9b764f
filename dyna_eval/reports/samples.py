"""The samples of a job as columns: what statistics over a million samples are computed from.

A `SampleTable` is a sequence of `SampleTotals` that keeps no object per sample. As bytes it is a matrix in
NumPy's own file format, float64, one row per field and one column per sample, so that the store reads a job's
samples as one value. Whole numbers up to 2**53 are exact in it; NaN is what is not known. Rows are known by
their order alone, which databases hold: a new field of `SampleTotals` needs a migration of what is stored.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from itertools import zip_longest
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from dyna_eval.measurements import Exactness, SampleTotals

Floats = NDArray[np.float64]

_FIELDS = tuple(field.name for field in fields(SampleTotals) if field.name != "accepted_by_depth")
_PLACES = {name: place for place, name in enumerate(_FIELDS)}
_REALS = tuple(field.name for field in fields(SampleTotals) if str(field.type).startswith("float"))
"""Fields that need not be whole, and may be unknown."""
_COUNTS = tuple(name for name in _FIELDS if name not in (*_REALS, "exactness"))
_EXACTNESS = tuple(Exactness)
"""By the number that stands for it."""


class SampleTable(Sequence[SampleTotals]):
    """Immutable. Rows of the matrix: the fields of SampleTotals in their order, then rounds that accepted at
    least 1, 2, ... draft tokens."""

    __slots__ = ("_matrix",)

    def __init__(self, matrix: Floats) -> None:
        matrix.flags.writeable = False
        self._matrix = matrix

    @classmethod
    def of(cls, samples: Iterable[SampleTotals]) -> SampleTable:
        """Return samples as a table; a table is returned itself."""
        if isinstance(samples, SampleTable):
            return samples
        listed = list(samples)
        rows = [[_number(getattr(sample, name)) for sample in listed] for name in _FIELDS]
        rows += map(list, zip_longest(*(sample.accepted_by_depth for sample in listed), fillvalue=0))
        return cls(np.array(rows, dtype=np.float64).reshape(len(rows), len(listed)))

    def from_prefill(self) -> SampleTable:
        """Return the samples as if decoding had begun with the prefill; only decode seconds differ."""
        matrix = self._matrix.copy()
        matrix[_PLACES["decode_seconds"]] += matrix[_PLACES["prefill_seconds"]]
        return SampleTable(matrix)

    @classmethod
    def join(cls, tables: Sequence[SampleTable]) -> SampleTable:
        """Return the samples of several tables, one table after the other."""
        if len(tables) == 1:
            return tables[0]
        if not tables:
            return cls.of(())
        rows = max(len(table._matrix) for table in tables)
        padded = [np.pad(t._matrix, ((0, rows - len(t._matrix)), (0, 0))) for t in tables]
        return cls(np.concatenate(padded, axis=1))

    @classmethod
    def from_bytes(cls, stored: bytes) -> SampleTable:
        return cls(np.load(io.BytesIO(stored), allow_pickle=False))

    def to_bytes(self) -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, self._matrix, allow_pickle=False)
        return buffer.getvalue()

    def column(self, name: str) -> Floats:
        """Return one field of all samples, shape (samples,); NaN where it is not known."""
        found: Floats = self._matrix[_PLACES[name]]
        return found

    def total(self, name: str) -> int:
        """Return the sum of a count."""
        return int(self.column(name).sum())

    @property
    def accepted_by_depth(self) -> Floats:
        """Rounds that accepted at least 1, 2, ... draft tokens, shape (depths, samples)."""
        return self._matrix[len(_FIELDS) :]

    def number_of(self, exactness: Exactness) -> int:
        """Return how many samples compared so with the target's own output."""
        return int((self.column("exactness") == _EXACTNESS.index(exactness)).sum())

    def prompts(self) -> set[int]:
        """Return the indices of the prompts that have samples."""
        return set(self.column("prompt_index").astype(int).tolist())

    def on_prompts(self, prompts: Iterable[int]) -> SampleTable:
        """Return the samples of some prompts."""
        keep = np.isin(self.column("prompt_index"), np.fromiter(prompts, dtype=np.float64))
        return SampleTable(self._matrix[:, keep])

    def __len__(self) -> int:
        return int(self._matrix.shape[1])

    def __iter__(self) -> Iterator[SampleTotals]:
        return (self._sample(column) for column in self._matrix.T.tolist())

    @overload
    def __getitem__(self, index: int) -> SampleTotals: ...

    @overload
    def __getitem__(self, index: slice) -> SampleTable: ...

    def __getitem__(self, index: int | slice) -> SampleTotals | SampleTable:
        if isinstance(index, slice):
            return SampleTable(self._matrix[:, index])
        return self._sample(self._matrix[:, index].tolist())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"SampleTable({len(self)} samples)"

    @staticmethod
    def _sample(column: list[float]) -> SampleTotals:
        values: dict[str, Any] = {name: int(column[_PLACES[name]]) for name in _COUNTS}
        values |= {name: _known(column[_PLACES[name]]) for name in _REALS}
        code = _known(column[_PLACES["exactness"]])
        depths = [int(rounds) for rounds in column[len(_FIELDS) :] if rounds]
        return SampleTotals(
            **values,
            exactness=None if code is None else _EXACTNESS[int(code)],
            accepted_by_depth=tuple(depths),
        )


def _number(value: float | Exactness | None) -> float:
    if value is None:
        return np.nan
    return float(_EXACTNESS.index(value) if isinstance(value, Exactness) else value)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
