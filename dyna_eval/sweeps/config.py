"""Reads and validates a sweep file: YAML in, a `SweepSpec` with every default resolved out.

A mistake raises SweepFileError with its line; of several, the first in the file. YAML itself is read by
`yaml_source`; keys and bounds stand in `sections` and `methods`; pairs and prompts are found by `sources`,
lists expanded by `generations` and `rows`; what `--set` changes is in `overrides`; `mistakes` words what is
wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dyna_eval.errors import SweepFileError
from dyna_eval.jobs import (
    DEMO,
    MAX_CONFIGURATIONS,
    Configuration,
    Method,
    PairSpec,
    SweepSpec,
)
from dyna_eval.methods import needs_draft
from dyna_eval.mistakes import Mistakes, shown, unknown
from dyna_eval.sweeps.expansion import merge_equal
from dyna_eval.sweeps.generations import read_generations, with_generations
from dyna_eval.sweeps.overrides import apply_overrides, recorded
from dyna_eval.sweeps.rows import expand_rows, read_rows, too_many
from dyna_eval.sweeps.sections import (
    AUTO_REPEATS,
    EngineSection,
    MeasureSection,
    SweepFile,
)
from dyna_eval.sweeps.sources import read_pairs, read_prompt_sets, with_prompts
from dyna_eval.yaml_source import Location, printable, read_file, read_yaml

_JOBS_PER_CONFIGURATION = 100
"""Repeats and pairs may multiply the limit on configurations by so much."""


def load_sweep(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    name: str | None = None,
    max_configurations: int = MAX_CONFIGURATIONS,
) -> SweepSpec:
    """Read a sweep file; relative folders and data files in it are looked for beside it.

    overrides: assignments such as `generation.max_new_tokens=64`, applied before anything is checked.
    name: instead of the file's. Raises SweepFileError, also where the file cannot be read.
    """
    return parse_sweep(
        read_file(path),
        file=printable(str(path)),
        folder=path.parent,
        overrides=overrides,
        name=name,
        max_configurations=max_configurations,
    )


def parse_sweep(
    text: str,
    *,
    file: str,
    folder: Path | None = None,
    overrides: Sequence[str] = (),
    name: str | None = None,
    max_configurations: int = MAX_CONFIGURATIONS,
) -> SweepSpec:
    """Validate the text of a sweep file, as `load_sweep` does; `folder` is the file's own by default."""
    folder = Path(file).parent if folder is None else folder
    document = read_yaml(text, file=file)
    if not isinstance(document.value, dict):
        what = f"a sweep file is a mapping with keys such as 'configs', not {shown(document.value)}"
        raise SweepFileError(what, file=file, line=1)
    document = apply_overrides(document, overrides)
    if name is not None:
        document = document.replace(("name",), name, option="--name")
    assert isinstance(document.value, dict)  # noqa: S101 - an override changes what is in it
    values = {"name": Path(file).stem, **document.value}

    mistakes = Mistakes(document)
    outline = mistakes.check(SweepFile, values, ())
    pairs = read_pairs(values.get("pair", DEMO), folder, mistakes)
    prompt_sets = read_prompt_sets(values.get("prompts", {"dataset": DEMO}), folder, mistakes)
    generations = read_generations(values.get("generation", {}), mistakes)
    measure = mistakes.check(MeasureSection, values.get("measure", {}), ("measure",))
    engine = mistakes.check(EngineSection, values.get("engine", {}), ("engine",))
    rows = read_rows(values.get("configs"), mistakes)
    configurations = expand_rows(rows, max_configurations, mistakes)
    mistakes.raise_first()
    assert outline and prompt_sets and generations and measure and engine  # noqa: S101 - or raised

    baseline = _baseline(outline.baseline, configurations, mistakes)
    _check_drafts(pairs, configurations, mistakes)
    _check_repeats(measure, mistakes)
    tables = len(pairs) * len(prompt_sets) * len(generations)
    _check_jobs(len(configurations) * tables * measure.spec.most_repeats, max_configurations, mistakes)
    mistakes.raise_first()
    multiplied = tuple(
        one
        for pair in pairs.values()
        for one in with_generations(with_prompts([_with_dtype(pair, engine.dtype)], prompt_sets), generations)
    )
    _check_names(multiplied, mistakes)
    mistakes.raise_first()

    written = {row.label for row in rows}
    kept, merged = merge_equal(
        configurations,
        baseline=baseline,
        expanded={row.label for row in configurations if row.label not in written},
    )
    return SweepSpec(
        name=outline.name,
        pairs=multiplied,
        prompts=next(iter(prompt_sets.values())),
        generation=next(iter(generations.values())),
        measure=measure.spec,
        engine=engine.spec,
        baseline=baseline,
        configurations=kept,
        merged=merged,
        source=recorded(text, overrides),
    )


def mistake_at(
    section: str, what: str, *, spec: SweepSpec, file: str, overrides: Sequence[str] = ()
) -> SweepFileError:
    """Return a mistake that was found after a file was read, placed where the file gives one of its keys."""
    place = apply_overrides(read_yaml(spec.source, file=file), overrides).place((section,))
    return SweepFileError(what, file=place.source, line=place.line)


def _with_dtype(pair: PairSpec, dtype: str) -> PairSpec:
    """Return a pair with the sweep's dtype where it names none of its own."""
    return replace(pair, dtype=dtype) if pair.dtype == "auto" else pair


def _baseline(named: str | None, configurations: Sequence[Configuration], mistakes: Mistakes) -> str:
    """Return the label of the row to compare with: the one named, else the first `ar`."""
    labels = [row.label for row in configurations]
    if named is None:
        named = next((row.label for row in configurations if row.method is Method.AR), None)
        if named is None:
            what = "no row to compare with; add {label: Baseline, method: ar}, or name one with 'baseline'"
            mistakes.add(("configs",), what)
    elif named not in labels:
        parts = [label for label in labels if label.startswith(f"{named} (")]
        mistakes.add(("baseline",), unknown("row", named, parts[:1] or labels))
    return named or ""


def _check_drafts(
    pairs: Mapping[Location, PairSpec], configurations: Sequence[Configuration], mistakes: Mistakes
) -> None:
    drafting = next((row.label for row in configurations if needs_draft(row.method)), None)
    for location, pair in pairs.items():
        if drafting is not None and pair.draft is None:
            what = f"pair {shown(pair.name)} has no draft, which row {shown(drafting)} needs; add 'draft'"
            mistakes.add(location, what)


def _check_names(pairs: Sequence[PairSpec], mistakes: Mistakes) -> None:
    """Refuse pairs whose names are the same once those of prompts and generation are in them."""
    times = Counter(pair.name for pair in pairs)
    name, most = times.most_common(1)[0]
    if most > 1:
        what = (
            f"two tables would be named {shown(name)}; give a pair another 'name', or a part another 'label'"
        )
        mistakes.add(("pair",), what)


def _check_repeats(measure: MeasureSection, mistakes: Mistakes) -> None:
    """Refuse what only `repeats: auto` heeds beside a number of repeats."""
    if measure.repeats == AUTO_REPEATS:
        return
    for name in ("max_repeats", "precision"):
        if getattr(measure, name) is not None:
            what = f"'{name}' is for 'repeats: auto'; leave it out, or write that"
            mistakes.add(("measure", name), what)


def _check_jobs(count: int, max_configurations: int, mistakes: Mistakes) -> None:
    limit = max_configurations * _JOBS_PER_CONFIGURATION
    if count > limit:
        mistakes.add(("configs",), too_many(count, "jobs", limit))
