"""What result files of other tools hold, as the importers read it and the store keeps it.

A row has either samples, from which figures are computed as for a measured row, or the figures that its file
gives. What a file does not say is None; what it defines otherwise than this project does is `foreign`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dyna_eval.jobs import Method, Params, Scalar, digest
from dyna_eval.reports.statistics import Comparison, Figures

PAIR_NOT_RECORDED = "pair not recorded"
"""Stands for the pair where a file does not name its models."""

PUBLISHED = "table"
"""The format of rows that are typed from what others published."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The file that a row comes from. `sha256` is that of its bytes, in hex."""

    file: str
    format: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.file} ({self.format}, SHA-256 {self.sha256[:12]})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What a file says it measured. Only its word: a loader may have fallen back to other prompts."""

    target: str | None = None
    draft: str | None = None
    dataset: str | None = None
    prompts: int | None = None
    max_prompt_length: int | None = None
    max_new_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What decoding alone decides, whatever the machine: equal work gives equal counts, to every digit."""

    rounds: float | None = None
    tokens: float | None = None
    path_length: float | None = None
    """Mean length of the accepted path, as its file counts it."""
    tokens_per_round: float | None = None
    acceptance_rate: float | None = None
    """As its file counts it, thus divided by a depth: comparable within one configuration only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedSample:
    """One question answered once. `rounds` and `emitted` may be unknown."""

    prompt: int
    """Equal numbers in rows of equal `prompt_set` are the same question."""
    category: str | None
    tokens: int
    seconds: float
    """Prefill included, unless its row has `end_to_end`."""
    rounds: int | None
    emitted: int | None
    """Tokens that those rounds emitted, by the file's own count of accepted lengths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedRow:
    pair: str
    label: str
    method: Method
    params: Params
    """What the file says, under this project's names where it has any; no default is filled in."""
    is_baseline: bool
    figures: Figures | None = None
    """As the file gives them; None where they follow from the samples."""
    counts: Counts = Counts()
    foreign: Mapping[str, float] = field(default_factory=dict)
    """Figures under the file's own names, which are not comparable with ours."""
    prompt_set: str | None = None
    generation: str | None = None
    environment: str | None = None
    key: str | None = None
    """Digests, where the file has them."""
    versus_baseline: Comparison | None = None
    versus_previous: Comparison | None = None
    end_to_end_speedup: Comparison | None = None
    """As the file gives them, with their intervals."""
    mixed: tuple[str, ...] = ()
    """What its file says keeps it from standing beside the others."""
    notes: tuple[str, ...] = ()
    slowed: tuple[str, ...] = ()
    """Those of the notes that put its times in doubt, as heavy load does."""
    peak_memory_bytes: int | None = None
    end_to_end: float | None = None
    """Tokens per second with the prefill, where the file tells it apart and the samples are without it."""
    samples: tuple[ImportedSample, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOutRow:
    """A configuration that a file names without figures, or says it leaves out."""

    label: str
    pair: str | None
    state: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedFile:
    source: Source
    claims: Claims
    rows: tuple[ImportedRow, ...]
    left_out: tuple[LeftOutRow, ...] = ()
    notes: tuple[str, ...] = ()
    """What concerns the whole file."""
    confidence: float | None = None
    """Of the intervals that the file gives."""
    environments: Mapping[str, Mapping[str, Scalar]] = field(default_factory=dict)
    """Facts by the digest of the environment, where the file has them."""
    in_parts: bool = False
    """Whether its rows are meant to stand beside those of further files, as one method each."""
    pair_named: bool = False
    """Whether whoever imported it named the pair, which the file does not."""

    @property
    def digest(self) -> str:
        return self.source.sha256

    def of_pair(self, name: str) -> ImportedFile | None:
        """Return it with a name for the pair that it does not record; None where it records its pairs."""
        if any(row.pair != PAIR_NOT_RECORDED for row in self.rows):
            return None
        note = f"its file does not record the pair: {name!r} was named by whoever imported it"
        return replace(
            self,
            rows=tuple(replace(row, pair=name) for row in self.rows),
            notes=(*self.notes, note),
            pair_named=True,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedSweep:
    """One or several files under one name."""

    id: int
    name: str
    created_at: str
    files: tuple[ImportedFile, ...]

    @property
    def digest(self) -> str:
        return digest(["imported", *(file.digest for file in self.files)])

    @property
    def rows(self) -> tuple[ImportedRow, ...]:
        return tuple(row for file in self.files for row in file.rows)
