"""Named selections of a sweep's rows: all four steps of an ablation, or three without the unpruned tree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum

from pydantic import ValidationError

from dyna_eval.errors import InputError
from dyna_eval.jobs import Configuration, Method
from dyna_eval.methods import METHODS, Meaning
from dyna_eval.records import SweepRecord


class Preset(StrEnum):
    FOUR_STEP = "four-step"
    """Every row; the target alone, a chain, an unpruned and a pruned tree must be among them."""
    THREE_STEP = "three-step"
    """Every row but the unpruned trees, of which there must be one."""


def apply_preset(record: SweepRecord, preset: Preset | None) -> tuple[SweepRecord, tuple[Configuration, ...]]:
    """Return the record with the rows of a preset alone, and the configurations that it leaves out.

    The baseline is never left out. Raises InputError where the sweep lacks a step that the preset is about.
    """
    if preset is None:
        return record, ()
    missing = [
        name for name, belongs in _STEPS[preset].items() if not any(map(belongs, record.configurations))
    ]
    if missing:
        raise InputError(
            f"preset {preset} needs {' and '.join(missing)}, which sweep {record.name!r} does not have;"
            " leave out --preset to report its rows as they are"
        )
    if preset is Preset.FOUR_STEP:
        return record, ()
    out = tuple(c for c in record.configurations if is_unpruned_tree(c) and c.label != record.baseline)
    labels = {configuration.label for configuration in out}
    kept = replace(
        record,
        configurations=tuple(c for c in record.configurations if c.label not in labels),
        jobs=tuple(job for job in record.jobs if job.label not in labels),
    )
    return kept, out


def is_unpruned_tree(configuration: Configuration) -> bool:
    """Whether a configuration drafts a tree that really branches, and prunes nothing of it.

    Decided by what the parameters do, not by how they are written: a tree of branch 1 is a chain, and
    DynaTree without its phases is an unpruned tree. A static tree whose levels are not equal is none:
    somebody chose which nodes it has.
    """
    meaning = _meaning(configuration)
    return meaning.method is Method.TREE and not meaning.params.get("threshold")


def is_pruned_tree(configuration: Configuration) -> bool:
    """Whether a tree is kept small by a rule; a chain, and a tree that grows whole, are not.

    The policies of other packages are such rules.
    """
    meaning = _meaning(configuration)
    if meaning.method in _ADAPTIVE or meaning.method.is_external:
        return True
    return meaning.method is Method.TREE and bool(meaning.params.get("threshold"))


_ADAPTIVE = (Method.BEST_FIRST, Method.DYNATREE, Method.COST_AWARE)


def _is_chain(configuration: Configuration) -> bool:
    return _meaning(configuration).method is Method.LINEAR


def _meaning(configuration: Configuration) -> Meaning:
    """Return method and parameters without what changes nothing; as they stand if another tool wrote them."""
    as_written = Meaning(method=configuration.method, params=configuration.params)
    if configuration.method not in METHODS:
        return as_written
    try:
        model = METHODS[configuration.method].model_validate(dict(configuration.params))
    except ValidationError:
        return as_written
    return model.meaning()


_STEPS: dict[Preset, dict[str, Callable[[Configuration], bool]]] = {
    Preset.FOUR_STEP: {
        "the target alone (ar)": lambda c: c.method is Method.AR,
        "a chain (linear)": _is_chain,
        "an unpruned tree": is_unpruned_tree,
        "a pruned tree": is_pruned_tree,
    },
    Preset.THREE_STEP: {"an unpruned tree to leave out": is_unpruned_tree},
}
