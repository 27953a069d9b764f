"""In what a sweep differs from an earlier one of its name, in the words of sweep files.

Only what is part of a sweep's identity is compared: neither the file's text, nor categories, nor the limit of
a job's time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict
from os.path import commonprefix
from pathlib import Path

from dyna_eval.jobs import Configuration, Pair, PairSpec, PromptSpec, ResolvedSweep, SweepSpec
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
    whole = {"prompts", "generation"} & set(found)  # which cover their keys
    said = [what for what in dict.fromkeys(found) if what in whole or what.partition(".")[0] not in whole]
    return said or ["the order or the identity of its jobs"]


def named(found: Sequence[str]) -> str:
    """Return the first of some differences as a part of a sentence, and how many more there are."""
    more = len(found) - _MOST_NAMED
    return listed([*found[:_MOST_NAMED], f"{more} more"]) if more > 0 else listed(found)


def _fields(
    section: str, before: Mapping[str, object], now: Mapping[str, object], *, but: Iterable[str] = ()
) -> list[str]:
    return [f"{section}.{key}" for key in now if key not in set(but) and before[key] != now[key]]


def _partners(before: ResolvedSweep, now: ResolvedSweep) -> list[tuple[Pair, Pair]]:
    """Return pairs as they were and as they are now: by name, the rest by place if none is left over."""
    old, new = ({pair.spec.name: pair for pair in one.pairs} for one in (before, now))
    partners = [(old[name], new[name]) for name in new if name in old]
    if _sizes(before) == _sizes(now):
        rest = [old[name] for name in old if name not in new], [new[name] for name in new if name not in old]
        partners += zip(*rest, strict=True)
    return partners


def _sizes(resolved: ResolvedSweep) -> list[int]:
    """Return how many pairs there are, and of how many parts they are made."""
    return [len(resolved.pairs), *(len(parts) for parts in _parts(resolved).values())]


def _parts(resolved: ResolvedSweep) -> dict[str, set[Hashable]]:
    """Return the models, prompt sets and settings that a sweep's pairs are made of, by their sections."""
    spec, own_names = resolved.spec, _own_names(resolved)
    return {
        "pair": {(own_names[pair.spec.name], _models(pair)) for pair in resolved.pairs},
        "prompts": {repr(_prompts_of(pair, spec.prompts)) for pair in spec.pairs},
        "generation": {spec.generation_of(pair) for pair in spec.pairs},
    }


def _own_names(resolved: ResolvedSweep) -> dict[str, str]:
    """Return by pairs' names what stands in them before labels of prompt sets and settings."""
    names = defaultdict[Hashable, list[str]](list)
    for pair in resolved.pairs:
        names[_models(pair)].append(pair.spec.name)
    separator = " at " if resolved.pairs[0].spec.prompts is None else " on "
    own = {
        models: commonprefix(group).rpartition(separator)[0] if group[1:] else group[0]  # noqa: RUF071 - no paths
        for models, group in names.items()
    }
    return {pair.spec.name: own[_models(pair)] for pair in resolved.pairs}


def _models(pair: Pair) -> Hashable:
    return pair.target_digest, pair.draft_digest, pair.tokenizer_digest, pair.dtype, pair.end_tokens


def _pairs(before: ResolvedSweep, now: ResolvedSweep, partners: Sequence[tuple[Pair, Pair]]) -> list[str]:
    """Compare what the file says of pairs, else what their files hold; where they are others, their parts."""
    if _sizes(before) != _sizes(now):
        old, new = _parts(before), _parts(now)
        return [section for section in new if old[section] != new[section]]
    return [
        *(what for there, here in partners for what in _pair(there, here)),
        *_names(before, now, partners),
        *_order(_own_names(before), _own_names(now)),
    ]


def _pair(there: Pair, here: Pair) -> list[str]:
    said = _fields("pair", asdict(there.spec), asdict(here.spec), but={"name", "prompts", "generation"})
    if content := _content(there, here):
        return said or content
    return [key for key in said if key not in _WHERE_FILES_LIE]


def _names(before: ResolvedSweep, now: ResolvedSweep, partners: Sequence[tuple[Pair, Pair]]) -> list[str]:
    """Compare pairs' own names and their labels, but where another one follows from models or settings."""
    old, new = _own_names(before), _own_names(now)
    found = []
    for there, here in partners:
        was, own = old[there.spec.name], new[here.spec.name]
        if was != own:
            follows = _content(there, here) and (was, own) == (_after_models(there), _after_models(here))
            what = f"the name of a pair ({own!r} instead of {was!r})"
        else:
            follows = _prompts(before, now, there, here) or _generation(before.spec, now.spec, there, here)
            what = "a label of prompts or generation"
        if there.spec.name != here.spec.name and not follows:
            found.append(what)
    return found


def _after_models(pair: Pair) -> str:
    return "/".join(Path(model).name for model in (pair.spec.target, pair.spec.draft) if model)


def _order(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Compare the order of the same pairs, given as own names by names."""
    old, new = ([name.removeprefix(own) for name, own in names.items()] for names in (before, now))
    orders = {"pairs": (before.values(), now.values()), "prompts or generation": (old, new)}
    return [
        f"the order of {what}"
        for what, (there, here) in orders.items()
        if set(before) == set(now) and list(dict.fromkeys(there)) != list(dict.fromkeys(here))
    ]


def _generation(before: SweepSpec, now: SweepSpec, there: Pair, here: Pair) -> list[str]:
    """Compare how the texts of a pair are generated."""
    old, new = before.generation_of(there.spec), now.generation_of(here.spec)
    return _fields("generation", asdict(old), asdict(new))


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
