"""How texts are generated, as a sweep file says it: by one setting, or by several, each with a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from dyna_eval.jobs import GenerationSpec, PairSpec
from dyna_eval.mistakes import Mistakes, shown
from dyna_eval.sweeps.expansion import Axis, axes_of, count_points, expand
from dyna_eval.sweeps.sections import GenerationSection
from dyna_eval.sweeps.sources import MOST_LISTED, items_of
from dyna_eval.yaml_source import Location

_TEXTS: Mapping[str, Callable[[GenerationSpec], str]] = {
    "temperature": lambda spec: f"T={str(spec.temperature).removesuffix('.0')}",
    "max_new_tokens": lambda spec: f"{spec.max_new_tokens} new tokens",
    "seed": lambda spec: f"seed={spec.seed}",
    "stop_at_eos": lambda spec: f"stop_at_eos={str(spec.stop_at_eos).lower()}",
}
"""How the name of a pair tells each key, in this order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Written:
    """A setting that stands in the file, or that is made of values of lists in it."""

    location: Location
    label: str | None
    swept: tuple[str | int, ...]
    """The keys that the file gives as lists."""
    spec: GenerationSpec


def read_generations(value: object, mistakes: Mistakes) -> dict[str, GenerationSpec]:
    """Return the settings by their labels, up to the first mistake: one mapping, or a list of them.

    A list within a mapping stands for each of its values; several lists multiply, as in a row.
    """
    entries = items_of("generation", "settings", value, mistakes)
    axes = {location: _axes(entry, location, mistakes) for location, entry in entries.items()}
    settings = sum(count_points(own) for own in axes.values())
    if settings > MOST_LISTED:
        what = f"'generation' should make at most {MOST_LISTED} settings, not {settings:,}"
        mistakes.add(("generation",), what)
        return {}
    written: list[_Written] = []
    for location, entry in entries.items():
        found = _read_entry(entry, location, axes[location], mistakes)
        if found is None:
            return {}
        written += found
    return _labelled(written, mistakes)


def _axes(entry: object, location: Location, mistakes: Mistakes) -> tuple[Axis, ...]:
    """Return the lists of an entry, without its label's: that is one text."""
    lists = {}
    for key, value in entry.items() if isinstance(entry, dict) else ():
        if value == []:
            mistakes.add((*location, key), f"{key!r} lists no value; give it at least one")
        elif key != "label":
            lists[key] = value
    return axes_of(lists)


def _read_entry(
    entry: object, location: Location, axes: Sequence[Axis], mistakes: Mistakes
) -> list[_Written] | None:
    if not isinstance(entry, dict):
        mistakes.check(GenerationSection, entry, location)  # which says what it should be
        return None
    written = []
    for point in expand("", entry, axes):
        section = mistakes.check(GenerationSection, point.parameters, location, point.items)
        if section is None:
            return None
        item = list(point.items.items())[-1] if point.items else ()
        swept = tuple(point.items)
        one = _Written(location=(*location, *item), label=section.label, swept=swept, spec=section.spec)
        written.append(one)
    return written


def _labelled(written: Sequence[_Written], mistakes: Mistakes) -> dict[str, GenerationSpec]:
    differing = [name for name in _TEXTS if len({getattr(one.spec, name) for one in written}) > 1]
    found: dict[str, GenerationSpec] = {}
    for one in written:
        label = _label(one, differing)
        if one.spec in found.values():
            mistakes.add(one.location, "these settings of 'generation' stand there twice; leave one out")
        elif label in found:
            mistakes.add(one.location, f"duplicate generation {shown(label)}; give each its own 'label'")
        found[label] = one.spec
    return found


def _label(one: _Written, differing: Sequence[str]) -> str:
    """Return the label of a setting, with the values of its lists; without one, what differs from others."""
    told = differing if one.label is None else [name for name in _TEXTS if name in one.swept]
    texts = ", ".join(_TEXTS[name](one.spec) for name in told)
    if one.label is None:
        return texts
    return f"{one.label} ({texts})" if texts else one.label


def with_generations(
    pairs: Iterable[PairSpec], generations: Mapping[str, GenerationSpec]
) -> tuple[PairSpec, ...]:
    """Return all pairs once for each of several settings, named after both; with one setting, the pairs."""
    pairs = tuple(pairs)
    if len(generations) == 1:
        return pairs
    return tuple(
        replace(pair, name=f"{pair.name} at {label}", generation=generation)
        for label, generation in generations.items()
        for pair in pairs
    )
