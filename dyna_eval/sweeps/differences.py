"""In what a sweep differs from an earlier one of its name, in the words of sweep files.

Only what is part of a sweep's identity is compared: neither the file's text, nor categories, nor the limit of
a job's time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

from dyna_eval.jobs import Configuration, GenerationSpec, Pair, PairSpec, PromptSpec, ResolvedSweep, SweepSpec
from dyna_eval.wording import listed

_MOST_NAMED = 4
_WHERE_FILES_LIE = frozenset({"pair.target", "pair.draft"})
_IN_A_FILE = {"prompts.chat_template_text": "the text of prompts.chat_template_file"}
"""What a sweep holds of a file that its own file only names."""


def differences(before: ResolvedSweep, now: ResolvedSweep) -> list[str]:
    """Return what differs, as keys of the sweep file or in words; there is at least one."""
    old, new = before.spec, now.spec
    found = [
        *_pairs(before, now),
        *_prompts(before, now),
        *_generations(old, new),
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


def _pairs(before: ResolvedSweep, now: ResolvedSweep) -> list[str]:
    """Compare pairs by their names: what the file says of them, else what their files hold."""
    old, new = _by_name(before.pairs), _by_name(now.pairs)
    if list(old) != list(new):
        if _models(before) != _models(now):
            return ["pair"]
        changed = {
            "prompts": _prompt_sets(before.spec) != _prompt_sets(now.spec),
            "generation": _settings(before.spec) != _settings(now.spec),
        }
        return [section for section, differs in changed.items() if differs] or ["pair"]
    found: list[str] = []
    for name, pair in new.items():
        said = _fields("pair", asdict(old[name].spec), asdict(pair.spec), but={"prompts", "generation"})
        content = _content(old[name], pair)
        found += said or content if content else [key for key in said if key not in _WHERE_FILES_LIE]
    return found


def _prompt_sets(spec: SweepSpec) -> set[str]:
    return {repr(pair.prompts or spec.prompts) for pair in spec.pairs}


def _settings(spec: SweepSpec) -> set[GenerationSpec]:
    return {spec.generation_of(pair) for pair in spec.pairs}


def _generations(before: SweepSpec, now: SweepSpec) -> list[str]:
    """Compare how the texts of pairs that both sweeps have are generated."""
    old = {pair.name: before.generation_of(pair) for pair in before.pairs}
    found: list[str] = []
    for pair in now.pairs:
        if pair.name in old:
            found += _fields("generation", asdict(old[pair.name]), asdict(now.generation_of(pair)))
    return found


def _by_name(pairs: Iterable[Pair]) -> dict[str, Pair]:
    return {pair.spec.name: pair for pair in pairs}


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


def _prompts(before: ResolvedSweep, now: ResolvedSweep) -> list[str]:
    """Compare the prompts of pairs that both sweeps have: what the file says of them, else what they are."""
    found: list[str] = []
    old, new = _by_name(before.pairs), _by_name(now.pairs)
    for name in (name for name in new if name in old):
        there = _prompts_of(old[name].spec, before.spec.prompts)
        here = _prompts_of(new[name].spec, now.spec.prompts)
        if before.prompt_sets[name].digest != now.prompt_sets[name].digest:
            said = _fields("prompts", asdict(there), asdict(here), but={"category"})
            found += [_IN_A_FILE.get(key, key) for key in said] or ["the prompts themselves"]
    return found


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
