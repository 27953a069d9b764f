"""What a reader must know before trusting a table: rows that do not belong together, and rows to doubt.

Pure functions that return caveats, short texts; the report attaches them to rows as footnotes and warnings.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import ceil
from statistics import fmean

from dyna_eval.jobs import PACKAGE, Method, Params, Scalar
from dyna_eval.measurements import GPU_SHARE, HEAVY_LOAD, SENTINEL, Environment
from dyna_eval.records import ResultOrigin, StoredJob, StoredSentinel
from dyna_eval.reports.intervals import Bootstrap
from dyna_eval.reports.samples import SampleTable
from dyna_eval.reports.statistics import Comparison, Figures, Run, compare, prompt_throughputs
from dyna_eval.wording import distinct_prompts, rate_text

PACE_TOLERANCE = 0.05
"""Sentinels within 5 % of each other are called equal, however narrow their interval."""

LOAD_TOLERANCE = 0.1
"""Others that take up to 10 % of an actor's cores, or clocks held down for so much of the time, are not
mentioned. Up to `HEAVY_LOAD`, as with a desktop's own processes, a note is enough."""

DEGENERATE_DISTINCT_2 = 0.3
"""Under this share of distinct bigrams a text repeats itself, which flatters acceptance."""

REPETITIVE_TOKENS = 32
"""A shorter text is not called repetitive by itself: a few equal tokens, such as line breaks, are no loop."""

UNKNOWN_NOISE = (
    "intervals are over prompts alone: with so few repeats it is not known what runs differ by,"
    " and a small difference may be the machine's"
)

Environments = Mapping[str, Mapping[str, Scalar]]


class CaveatKind(StrEnum):
    """The caveats that are told apart: they do not hold in a joined table, or of several sweeps together, are
    said elsewhere as well, or put a row in doubt."""

    SEPARABILITY = "separability"
    NODE_CAP = "node cap"
    PRUNING = "pruning"
    DOUBT = "doubt"
    """The row's numbers are not to be trusted, or not to be compared with the others'."""
    HEAVY_LOAD = "heavy load"
    """Its times are not: something slowed it down by far while it was measured."""
    CHOSEN = "chosen"
    """It is reported in the runs that it was chosen in."""
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Caveat:
    """What must be said beside a row, or beside all rows of a pair. Equal texts are one caveat."""

    text: str
    kind: CaveatKind = field(default=CaveatKind.OTHER, compare=False)


def differences(
    jobs: Sequence[StoredJob], reference: StoredJob, environments: Environments
) -> tuple[str, ...]:
    """Name what forbids comparing jobs with the reference job: prompts, generation settings, environment."""
    texts = []
    for what, attribute in (("prompt set", "prompt_set"), ("generation settings", "generation_digest")):
        expected = getattr(reference, attribute)
        others = _others((getattr(job, attribute) for job in jobs), expected)
        texts += [f"{what} ({_short(other)} instead of {_short(expected)})" for other in others]
    for other in _others((job.environment for job in jobs), reference.environment):
        texts.append(f"environment ({environment_difference(other, reference.environment, environments)})")
    return tuple(texts)


def row_caveats(
    *,
    method: Method,
    params: Params,
    figures: Figures,
    versus_baseline: Comparison | None,
    confidence: float,
    mixed: Sequence[str],
) -> list[Caveat]:
    """Return what must be said beside a row that has figures."""
    found = mixed_caveats(mixed)
    if method.is_external and PACKAGE in params:
        found.append(
            Caveat(f"grown by the policy {method} of {params[PACKAGE]}, which is no part of dyna-eval")
        )
    found += _output_caveats(method, figures)
    bound = figures.acceptance.node_cap_bound_rate
    if bound:
        cap = f" (max_nodes={params['max_nodes']})" if "max_nodes" in params else ""
        text = f"the node cap{cap} stopped the tree's growth in {_percent(bound)} of its rounds"
        found.append(Caveat(text, CaveatKind.NODE_CAP))
    if figures.prompts is not None and figures.prompts < 2:
        found.append(Caveat("one prompt only, so there is no interval"))
    return [*found, *separability_caveats(versus_baseline, confidence)]


def mixed_caveats(mixed: Sequence[str]) -> list[Caveat]:
    return [
        Caveat(f"differs from the rows it stands with in {difference}", CaveatKind.DOUBT)
        for difference in mixed
    ]


def separability_caveats(versus_baseline: Comparison | None, confidence: float) -> list[Caveat]:
    if versus_baseline is None or versus_baseline.separable is not False:
        return []
    text = (
        "speed not separable from the baseline's"
        f" (the {confidence * 100:g} % interval of the paired ratio contains 1)"
    )
    return [Caveat(text, CaveatKind.SEPARABILITY)]


def actor_caveats(sentinels: Sequence[StoredSentinel], bootstrap: Bootstrap) -> list[Caveat]:
    """Return how the actors' own AR runs over one pair's prompts drifted, and how unequal the actors are."""
    by_actor = defaultdict(list)
    for sentinel in sentinels:
        by_actor[sentinel.actor].append(sentinel)
    texts = [text for actor, own in by_actor.items() for text in _drift(actor, own, bootstrap)]
    speeds = actor_speeds(sentinels)
    if len(speeds) > 1 and max(speeds.values()) > min(speeds.values()) * (1.0 + PACE_TOLERANCE):
        each = ", ".join(f"{actor} {rate_text(speed)}" for actor, speed in speeds.items())
        texts.append(
            f"actors are not equally fast (AR tokens/s: {each}): compare speedups, which are"
            " taken against each actor's own AR runs, rather than throughputs"
        )
    return list(map(Caveat, texts))


def backend_caveats(used: Iterable[str], environments: Environments) -> list[Caveat]:
    """Return where actors fell back to slower passes, and why, by the facts of their environments.

    An actor writes `eager (why)` or `cudagraph (why)` for both models, or `..., draft eager (why)` for a
    draft of its own backend.
    """
    facts = [str(environments.get(digest, {}).get("backend", "")) for digest in sorted(used)]
    texts = []
    for fact in facts:
        target, _, draft = fact.partition(", draft ")
        for whose, backend in (("", target), ("the draft ", draft)):
            if fallen := re.fullmatch(r"(eager|cudagraph) \((.+)\)", backend):
                texts.append(f"{whose}ran on the slower {fallen[1]} backend: {fallen[2]}")
    return [Caveat(text) for text in dict.fromkeys(texts)]


def shared_gpu_caveats(used: Iterable[str], environments: Environments) -> list[Caveat]:
    """Return that actors shared GPUs, by their environments: whatever else ran there slowed them."""
    shares = {environments.get(digest, {}).get(GPU_SHARE) for digest in used}
    return [
        Caveat(f"measured on shares of a GPU ({share:g} of one for each pair): timings are not comparable")
        for share in sorted(share for share in shares if isinstance(share, float))
    ]


def load_caveats(jobs: Sequence[StoredJob]) -> list[Caveat]:
    """Return what slowed a row's jobs down by more than a little: others on their cores or their
    GPU, a CPU quota, or a hot or power-limited GPU.

    Shares are raised to full tenths, so that rows measured side by side share one note.
    """
    found = []
    for fact, text in _SLOWED.items():
        shares = [(job.conditions or {}).get(fact) for job in jobs]
        worst = max((share for share in shares if isinstance(share, float)), default=0.0)
        if worst > LOAD_TOLERANCE:
            kind = CaveatKind.HEAVY_LOAD if worst > HEAVY_LOAD else CaveatKind.OTHER
            found.append(Caveat(text.format(_next_tenth(worst)), kind))
    return [*found, *_gpu_others_caveats(jobs)]


def sentinel_load_caveats(jobs: Sequence[StoredJob]) -> list[Caveat]:
    """Return which actors' own AR runs were under heavy load in every try, where rows of several actors are
    compared through these runs; with one actor alone they drop out of every speedup.

    `jobs` are done ones of the rows that are compared, of one sweep or several.
    """
    worst: dict[tuple[str, str], float] = {}
    for job in jobs:
        for fact, whose in _TAKEN.items():
            share = (job.conditions or {}).get(SENTINEL + fact)
            if isinstance(share, float) and share > HEAVY_LOAD:
                of_actor = (job.actor or "unknown", whose)
                worst[of_actor] = max(share, worst.get(of_actor, 0.0))
    if len({job.actor for job in jobs}) < 2:
        return []
    return [
        Caveat(
            f"{whose} up to {_next_tenth(share)} of the cores in the calmest try of an AR run that actor"
            f" {actor} made for itself: speedups between its rows and those of other actors may be wrong"
        )
        for (actor, whose), share in worst.items()
    ]


def equal_prompt_caveats(
    jobs: Sequence[StoredJob], equal_prompts: Mapping[str, Mapping[int, int]]
) -> list[Caveat]:
    """Return how many of the measured prompts of each set differ from each other, where not all do.

    `equal_prompts` is a record's.
    """
    measured = defaultdict[str, set[int]](set)
    for job in jobs:
        measured[job.prompt_set].update(SampleTable.of(job.samples).prompts())
    found = []
    for prompt_set, prompts in measured.items():
        first = equal_prompts.get(prompt_set, {})
        distinct = len({first.get(index, index) for index in prompts})
        if distinct < len(prompts):
            said = distinct_prompts(distinct, len(prompts))
            found.append(Caveat(f"{said}: intervals take all for independent, and are too narrow"))
    return found


def _gpu_others_caveats(jobs: Sequence[StoredJob]) -> list[Caveat]:
    """Return that others had a row's GPU open; how much they had it work, no driver tells.

    Their memory is raised to full GiB, so that rows measured side by side share one note.
    """
    known = [job.conditions or {} for job in jobs]
    most, mebibytes = (
        max((value for one in known if isinstance(value := one.get(fact), int)), default=0)
        for fact in ("gpu_others", "gpu_others_mib")
    )
    if not most:
        return []
    others = f"{most} other processes" if most > 1 else "another process"
    memory = f", with up to {ceil(mebibytes / 1024)} GiB of its memory," if mebibytes else ""
    return [Caveat(f"{others} had the GPU open{memory} while it was measured, which may have slowed it")]


_TAKEN = {"others_share": "other processes used", "stolen_share": "other machines were given"}
"""Who took cores by the share of them, among the conditions of a job, that they took."""

_SLOWED = {
    **{fact: f"{whose} up to {{}} of the cores while it was measured" for fact, whose in _TAKEN.items()},
    "quota_share": "a CPU quota, as of a container, held it back for up to {} of the time it was measured",
    "gpu_heat_share": "heat held the GPU's clocks down for up to {} of the time it was measured",
    "gpu_power_share": "a power limit held the GPU's clocks down for up to {} of the time it was measured",
}
"""Notes by the share, among the conditions of a job, that is in them."""


def repetition_caveats(jobs: Sequence[StoredJob], distinct_2: float | None) -> list[Caveat]:
    """Return in how many samples of a row's jobs the text repeats itself, where their mean does not tell."""
    if distinct_2 is None or distinct_2 < DEGENERATE_DISTINCT_2:
        return []
    samples = SampleTable.join([SampleTable.of(job.samples) for job in jobs])
    repetitive = samples.column("distinct_2") < DEGENERATE_DISTINCT_2  # what is not known is not
    found = int((repetitive & (samples.column("tokens") >= REPETITIVE_TOKENS)).sum())
    if not found:
        return []
    text = (
        f"output repeats itself in {found} of {len(samples)} samples"
        f" (distinct-2 under {DEGENERATE_DISTINCT_2:g}), which flatters acceptance"
    )
    return [Caveat(text)]


def actor_speeds(sentinels: Iterable[StoredSentinel]) -> dict[str, float]:
    """Return each actor's own AR throughput, in tokens per second, over all its sentinels of one pair."""
    runs = defaultdict(list)
    for sentinel in sentinels:
        runs[sentinel.actor].append(Run(repeat=sentinel.sequence, samples=sentinel.samples))
    rates = {actor: prompt_throughputs(own) for actor, own in runs.items()}
    return {actor: fmean(rate.values()) for actor, rate in rates.items() if any(rate.values())}


def _drift(actor: str, sentinels: Sequence[StoredSentinel], bootstrap: Bootstrap) -> list[str]:
    rates = [prompt_throughputs([Run(repeat=s.sequence, samples=s.samples)]) for s in sentinels]
    measured = sorted((rate for rate in rates if rate), key=lambda rate: fmean(rate.values()))
    if len(measured) < 2:
        return []
    slowest, fastest = measured[0], measured[-1]
    change = compare(fastest, slowest, bootstrap)
    if change is None or change.ratio <= 1.0 + PACE_TOLERANCE or change.separable is False:
        return []
    return [
        f"actor {actor} drifted: its own AR runs range from {rate_text(fmean(slowest.values()))}"
        f" to {rate_text(fmean(fastest.values()))} tokens/s"
    ]


def _output_caveats(method: Method, figures: Figures) -> list[Caveat]:
    outcome, found = figures.agreement, []
    if outcome.violations:
        wrong = f"{outcome.violations} of {outcome.compared} samples (violations)"
        found.append(Caveat(f"output is not the target's in {wrong}", CaveatKind.DOUBT))
    if outcome.ties:
        tied = f"{outcome.ties} of {outcome.compared} samples"
        found.append(Caveat(f"output leaves the target's at a numeric tie in {tied}"))
    if method is not Method.AR and not outcome.compared:
        found.append(Caveat("output was not compared with the target's", CaveatKind.DOUBT))
    if figures.distinct_2 is not None and figures.distinct_2 < DEGENERATE_DISTINCT_2:
        repetitive = f"output repeats itself (distinct-2 {figures.distinct_2:.2f})"
        found.append(Caveat(f"{repetitive}, which flatters acceptance"))
    return found


def environment_difference(other: str | None, expected: str | None, environments: Environments) -> str:
    """Name the facts in which an environment differs from the expected one, or both digests."""
    here, there = environments.get(other or "", {}), environments.get(expected or "", {})
    changed = [name for name in sorted({*here, *there}) if here.get(name) != there.get(name)]
    if not here or not there or not changed:
        return f"{_short(other)} instead of {_short(expected)}"
    return "; ".join(f"{name}: {_fact(here, name)} instead of {_fact(there, name)}" for name in changed)


def _fact(facts: Mapping[str, Scalar], name: str) -> Scalar:
    """Return a fact; an environment of an earlier version may lack it."""
    value = facts.get(name)
    return "unknown" if value is None else value


def elsewhere_warning(environment: Environment, earlier: Sequence[ResultOrigin]) -> str:
    """Return that a pair goes on in an environment in which none of its finished jobs was measured.

    `earlier` is where those were measured, the latest last. Empty where there are none, or one was there too.
    """
    if not earlier or environment.digest in {own.environment for own in earlier}:
        return ""
    last = earlier[-1]
    facts = {environment.digest: environment.facts, last.environment: last.facts}
    return (
        f"ran in another environment than its results {last.origin}"
        f" ({environment_difference(environment.digest, last.environment, facts)}), and `report` refuses to"
        " mix them; submit the file with another --name to measure all rows here"
    )


def _others(values: Iterable[str | None], expected: str | None) -> list[str | None]:
    return [value for value in dict.fromkeys(values) if value != expected]


def _short(digest: str | None) -> str:
    return "unknown" if digest is None else digest[:12]


def _next_tenth(share: float) -> str:
    return f"{ceil(round(share * 10.0, 6)) * 10} %"


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %" if share >= 0.01 else "under 1 %"
