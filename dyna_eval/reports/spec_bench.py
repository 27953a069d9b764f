"""A sweep's rows as answer files of Spec-Bench, for its own `evaluation/speed.py`.

One file per row and pair, one line per prompt; the repeats of a prompt are its turns. For a line `speed.py`
takes sum(new_tokens) / sum(wall_time), and the mean of that over lines: with the repeats as turns this is
`throughput_tokens_per_s`. Its #Mean accepted tokens is the mean of all `accept_lengths`, which is
`mean_acceptance_length`. docs/spec-bench.md says where its definitions differ from ours.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from dyna_eval.jobs import JobState, Method
from dyna_eval.measurements import Sample
from dyna_eval.records import StoredJob, SweepRecord
from dyna_eval.reports.cells import pair_slugs, slug
from dyna_eval.reports.report import Report
from dyna_eval.reports.samples import SampleTable
from dyna_eval.reports.tuning import reported_record
from dyna_eval.wording import one_line

_NO_CATEGORY = "none"
"""What an answer file has where a prompt is without a category."""

ReadSamples = Callable[[int], Iterable[Sample]]
"""Reads a job's samples with their rounds, by the job's number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerFile:
    name: str
    label: str
    lines: Iterable[str] = field(repr=False)
    """JSON, one per prompt; none where no job of the row is done. Read once."""


def answer_files(record: SweepRecord, report: Report, read_samples: ReadSamples) -> Iterator[AnswerFile]:
    """Return the file of every row of a sweep and its report; a row's samples are read while its lines are.

    With a tuning split the files hold the reported prompts, as all figures do. A prompt without decode time
    is left out, as in our throughput.
    """
    reported = reported_record(record)
    several = len(record.pairs) > 1
    slugs = pair_slugs(report)
    for pair in record.pairs:
        for step, row in enumerate(record.configurations, start=1):
            jobs = [
                job
                for job in reported.jobs
                if (job.pair, job.label, job.state) == (pair, row.label, JobState.DONE)
            ]
            name = "-".join(filter(None, (slugs[pair], f"{step:02}", slug(row.label)[:80])))
            label = one_line(f"{row.label} ({pair})" if several else row.label)
            yield AnswerFile(
                name=f"{name}.jsonl",
                label=label,
                lines=_lines(jobs, row.method, label, record.categories, read_samples),
            )


def _lines(
    jobs: Iterable[StoredJob],
    method: Method,
    model_id: str,
    categories: Mapping[str, Mapping[int, str]],
    read_samples: ReadSamples,
) -> Iterator[str]:
    turns: dict[int, list[Sample]] = {}
    known: dict[int, str] = {}
    for job in sorted(jobs, key=lambda job: job.repeat):
        known.update(categories.get(job.prompt_set, {}))
        shown = SampleTable.of(job.samples).prompts()
        for sample in read_samples(job.id):
            if sample.prompt_index in shown:
                turns.setdefault(sample.prompt_index, []).append(sample)
    for index, samples in sorted(turns.items()):
        if sum(sample.decode_seconds for sample in samples) > 0.0:
            answer = {
                "question_id": index + 1,
                "category": known.get(index, _NO_CATEGORY),
                "model_id": model_id,
                "choices": [choice(method, samples)],
            }
            yield json.dumps(answer, ensure_ascii=False)


def choice(method: Method, samples: Iterable[Sample]) -> dict[str, object]:
    """Return the answer to one prompt, whose repeats are the turns.

    `accept_lengths` are the tokens that each round emitted, bonus token included; they are 1 for the target
    alone, and none for a peer that does not tell its rounds. `prefill_time`, which Spec-Bench does not have,
    is what its own `wall_time` holds beside ours.
    """
    turns = list(samples)
    lengths = [_accept_lengths(method, sample) for sample in turns]
    return {
        "index": 0,
        "turns": [sample.text for sample in turns],
        "decoding_steps": [len(own) for own in lengths],
        "new_tokens": [len(sample.token_ids) for sample in turns],
        "wall_time": [sample.decode_seconds for sample in turns],
        "accept_lengths": [length for own in lengths for length in own],
        "prefill_time": [sample.prefill_seconds for sample in turns],
    }


def _accept_lengths(method: Method, sample: Sample) -> list[int]:
    if method.is_target_alone:
        return [1] * len(sample.token_ids)
    return [round_.emitted for round_ in sample.rounds]
