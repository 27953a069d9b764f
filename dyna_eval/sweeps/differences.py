"""In what a sweep differs from an earlier one of its name, in the words of sweep files.

Only what is part of a sweep's identity is compared: neither the file's text, nor categories, nor the limit of
a job's time.
"""

from __future__ import annotations

import re
from collections import defaultdict, deque
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from dyna_eval.jobs import Configuration, GenerationSpec, Pair, PairSpec, PromptSpec, ResolvedSweep, SweepSpec
from dyna_eval.wording import listed

_MOST_NAMED = 4
_WHERE_FILES_LIE = frozenset({"pair.target", "pair.draft"})
_IN_A_FILE = {"prompts.chat_template_text": "the text of prompts.chat_template_file"}
"""What a sweep holds of a file that its own file only names."""


def differences(before: ResolvedSweep, now: ResolvedSweep) -> list[str]:
    """Return what differs, as keys of the sweep file or in words; there is at least one."""
    old, new = before.spec, now.spec
    partners = _partners(before, now)
    found = [
        *_pairs(before, now, partners),
        *(what for there, here in partners for what in _prompts(before, now, there, here)),
        *(what for there, here in partners for what in _generation(old, new, there, here)),
        *_fields("measure", asdict(old.measure), asdict(new.measure), but={"job_timeout_s"}),
        *_fields("engine", asdict(old.engine), asdict(new.engine)),
        *(["baseline"] if old.baseline != new.baseline else []),
        *_rows(old.configurations, new.configurations),
    ]
    if not all(job.is_current for job in before.jobs[:1]):
        found.append("the version of dyna-eval, whose decoding loops differ")
    return list(dict.fromkeys(found)) or ["the order or the identity of its jobs"]


def named(found: Sequence[str]) -> str:
    """Return the first of some differences as a part of a sentence, and how many more there are."""
    more = len(found) - _MOST_NAMED
    return listed([*found[:_MOST_NAMED], f"{more} more"]) if more > 0 else listed(found)


def _fields(
    section: str, before: Mapping[str, object], now: Mapping[str, object], *, but: Iterable[str] = ()
) -> list[str]:
    return [f"{section}.{key}" for key in now if key not in set(but) and before[key] != now[key]]


def _partners(before: ResolvedSweep, now: ResolvedSweep) -> list[tuple[Pair, Pair]]:
    """Return the pairs that both sweeps have, as they were and as they are now.

    They are known by their names; where both have as many, those of other names by their models, prompts and
    settings, then by their models, and at last by their place.
    """
    partners: dict[str, Pair] = {}
    taken: set[str] = set()
    keys = (
        [_name_key] if len(before.pairs) != len(now.pairs) else [_name_key, _work_key, _models_key, _any_key]
    )
    for key in keys:
        free: dict[Hashable, deque[Pair]] = defaultdict(deque)
        for pair in before.pairs:
            if pair.spec.name not in taken:
                free[key(pair, before.spec)].append(pair)
        for pair in now.pairs:
            if pair.spec.name not in partners and (others := free[key(pair, now.spec)]):
                partners[pair.spec.name] = others.popleft()
                taken.add(partners[pair.spec.name].spec.name)
    return [(partners[pair.spec.name], pair) for pair in now.pairs if pair.spec.name in partners]


def _name_key(pair: Pair, _: SweepSpec) -> Hashable:
    return pair.spec.name


def _work_key(pair: Pair, spec: SweepSpec) -> Hashable:
    return _models_key(pair, spec), repr(_prompts_of(pair.spec, spec.prompts)), spec.generation_of(pair.spec)


def _models_key(pair: Pair, _: SweepSpec) -> Hashable:
    return pair.target_digest, pair.draft_digest, pair.dtype


def _any_key(_: Pair, __: SweepSpec) -> Hashable:
    return None


def _pairs(before: ResolvedSweep, now: ResolvedSweep, partners: Sequence[tuple[Pair, Pair]]) -> list[str]:
    """Compare what the file says of pairs, else what their files hold."""
    if len(before.pairs) != len(now.pairs):
        return _other_pairs(before, now)
    found = [what for there, here in partners for what in _pair(there, here)]
    found += [
        f"the name of a pair ({new!r} instead of {old!r})"
        for there, here in partners
        for old, new in _names(before, now, there, here)
    ]
    order = [pair.spec.name for pair in before.pairs]
    if not found and [there.spec.name for there, _ in partners] != order:
        found.append("the order of pairs")
    return found


def _other_pairs(before: ResolvedSweep, now: ResolvedSweep) -> list[str]:
    """Name the section that makes another number of pairs: models, prompt sets or settings."""
    changed = {
        "pair": _models(before) != _models(now),
        "prompts": _prompt_sets(before.spec) != _prompt_sets(now.spec),
        "generation": _settings(before.spec) != _settings(now.spec),
    }
    if changed["pair"]:
        return ["pair"]
    return [section for section, differs in changed.items() if differs] or ["pair"]


def _pair(there: Pair, here: Pair) -> list[str]:
    said = _fields("pair", asdict(there.spec), asdict(here.spec), but={"name", "prompts", "generation"})
    if content := _content(there, here):
        return said or content
    return [key for key in said if key not in _WHERE_FILES_LIE]


def _names(before: ResolvedSweep, now: ResolvedSweep, there: Pair, here: Pair) -> list[tuple[str, str]]:
    """Return the old and the new name of a pair that was renamed; none where that follows from others.

    A pair may be called after its models, and where there are several prompt sets or settings, their
    labels are in its name.
    """
    if there.spec.name == here.spec.name:
        return []
    old, new = _own_name(there), _own_name(here)
    if old != new:
        is_said = _content(there, here) and all(map(_is_called_after_models, (there, here)))
        return [] if is_said else [(old, new)]
    explained = _prompts(before, now, there, here) or _generation(before.spec, now.spec, there, here)
    return [] if explained else [(there.spec.name, here.spec.name)]


def _own_name(pair: Pair) -> str:
    """Return a pair's name without the labels of its prompt set and settings, where there are several."""
    if pair.spec.prompts is None and pair.spec.generation is None:
        return pair.spec.name
    return re.split(" (?:on|at) ", pair.spec.name, maxsplit=1)[0]


def _is_called_after_models(pair: Pair) -> bool:
    models = [model for model in (pair.spec.target, pair.spec.draft) if model]
    return _own_name(pair) == "/".join(Path(model).name for model in models)


def _prompt_sets(spec: SweepSpec) -> set[str]:
    return {repr(pair.prompts or spec.prompts) for pair in spec.pairs}


def _settings(spec: SweepSpec) -> set[GenerationSpec]:
    return {spec.generation_of(pair) for pair in spec.pairs}


def _generation(before: SweepSpec, now: SweepSpec, there: Pair, here: Pair) -> list[str]:
    """Compare how the texts of a pair are generated."""
    old, new = before.generation_of(there.spec), now.generation_of(here.spec)
    return _fields("generation", asdict(old), asdict(new))


def _models(resolved: ResolvedSweep) -> set[tuple[str, str | None]]:
    return {(pair.spec.target, pair.spec.draft) for pair in resolved.pairs}


def _content(before: Pair, now: Pair) -> list[str]:
    parts = {
        "the files of the target": before.target_digest != now.target_digest,
        "the files of the draft": before.draft_digest != now.draft_digest,
        "the tokenizer": before.tokenizer_digest != now.tokenizer_digest,
        "the dtype that the pair runs in": before.dtype != now.dtype,
        "the target's end tokens": before.end_tokens != now.end_tokens,
    }
    return [what for what, differs in parts.items() if differs]


def _prompts(before: ResolvedSweep, now: ResolvedSweep, there: Pair, here: Pair) -> list[str]:
    """Compare the prompts of a pair: what the file says of them, else what they are.

    With another tokenizer the same texts are others.
    """
    if before.prompt_sets[there.spec.name].digest == now.prompt_sets[here.spec.name].digest:
        return []
    old, new = _prompts_of(there.spec, before.spec.prompts), _prompts_of(here.spec, now.spec.prompts)
    said = [
        _IN_A_FILE.get(key, key) for key in _fields("prompts", asdict(old), asdict(new), but={"category"})
    ]
    if said or there.tokenizer_digest != here.tokenizer_digest:
        return said
    return ["the prompts themselves"]


def _prompts_of(pair: PairSpec, shared: PromptSpec) -> PromptSpec:
    return pair.prompts or shared


def _rows(before: Sequence[Configuration], now: Sequence[Configuration]) -> list[str]:
    """Compare rows by their labels; one that has another label in its place has only been renamed."""
    old, new = {row.label: row for row in before}, {row.label: row for row in now}
    found, renamed = list[str](), set[str]()
    for place, row in enumerate(now):
        if row.label in old:
            found += [f"{key} of {row.label!r}" for key in _changed(old[row.label], row)]
        elif (
            place < len(before)
            and before[place].label not in new
            and not _changed(other := before[place], row)
        ):
            renamed.add(other.label)
            found.append(f"the label of {row.label!r}, which was {other.label!r}")
        else:
            found.append(f"the new row {row.label!r}")
    found += [
        f"the row {label!r}, which is gone" for label in old if label not in new and label not in renamed
    ]
    if not found and list(old) != list(new):
        found.append("the order of configs")
    return found


def _changed(before: Configuration, now: Configuration) -> list[str]:
    if before.method != now.method:
        return ["method"]
    keys = dict.fromkeys([*now.params, *before.params])
    return [key for key in keys if before.params.get(key) != now.params.get(key)]
