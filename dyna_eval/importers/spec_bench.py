"""Answer files of Spec-Bench: JSON lines, one per question, of one method.

    {question_id, category, model_id, choices: [{turns, new_tokens, wall_time, accept_lengths}]}

A question's throughput is new tokens / wall seconds over its turns, prefill included, as in Spec-Bench's own
`speed.py`. Files that `report --spec-bench` wrote have `prefill_time` beside `wall_time`, which is without it
there. A turn that failed is the text ERROR, beside numbers left over from the turn before it: it is left out,
and so are the accepted lengths of its question, of which nobody knows which turn they belong to.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from pydantic import Field

from dyna_eval.importers.reading import Content, Count, FileSection, Text
from dyna_eval.jobs import Method, digest
from dyna_eval.reports.imported import (
    PAIR_NOT_RECORDED,
    Claims,
    Counts,
    ImportedFile,
    ImportedRow,
    ImportedSample,
    Source,
)

NAME = "spec-bench"
SUMMARY = "Spec-Bench answer files: JSON lines with question_id, category, model_id, choices; one row each"

_FAILED = "ERROR"


class _Choice(FileSection):
    turns: list[str]
    new_tokens: list[Count]
    wall_time: list[float]
    accept_lengths: list[Count | float] = Field(default_factory=list)
    prefill_time: list[float] | None = None


class _Answer(FileSection):
    question_id: int | Text
    category: Text | None = None
    model_id: Text
    choices: list[_Choice] = Field(min_length=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """An answer that was understood; `sample` is None where every turn failed."""

    question: int | str
    category: str | None
    model: str
    turns: int
    failed: int
    sample: ImportedSample | None
    all_ones: bool | None
    prefill: float | None
    """Seconds, where they are apart from the sample's."""


def recognises(content: Content) -> bool:
    first = content.first
    return isinstance(first, dict) and "question_id" in first and "choices" in first


def read(content: Content) -> ImportedFile:
    """Raises ImportFileError where a line is damaged, a question is there twice, or models are mixed."""
    answers = [_read_answer(content, line, value) for line, value in content.values]
    _check_distinct(content, answers)
    apart = _prefill_is_apart(content, answers)
    samples = tuple(answer.sample for answer in answers if answer.sample is not None)
    if not samples or not any(sample.tokens for sample in samples):
        content.refuse("holds no answer with tokens")
    ones = [answer.all_ones for answer in answers if answer.all_ones is not None]
    method = Method.AR if ones and all(ones) else Method.OTHER
    row = ImportedRow(
        pair=PAIR_NOT_RECORDED,
        label=answers[0].model or "no name",
        method=method,
        params={},
        is_baseline=method is Method.AR,
        counts=_counts(samples, method),
        prompt_set=digest(
            [[answer.question, answer.category, answer.turns] for answer in sorted(answers, key=_place)]
        ),
        notes=tuple(_failures(answers)),
        end_to_end=_end_to_end(answers) if apart else None,
        samples=samples,
    )
    return ImportedFile(
        source=Source(file=content.file, format=NAME, sha256=content.sha256),
        claims=Claims(prompts=len(answers)),
        rows=(row,),
        notes=(
            "throughputs of answer files are means over questions of tokens / wall seconds, prefill"
            f" {'apart, as in our own' if apart else 'included'}",
            "answer files record no models, machine or settings: that they ran alike is the word of whoever"
            " imported them under one name",
        ),
        in_parts=True,
    )


def _read_answer(content: Content, line: int, value: object) -> _Read:
    answer = content.check(_Answer, value, line=line)
    choice = answer.choices[0]
    if not len(choice.turns) == len(choice.new_tokens) == len(choice.wall_time) or not choice.turns:
        content.refuse("turns, new_tokens and wall_time should have an entry for each turn", line)
    if not all(0 <= length < 2**31 for length in choice.accept_lengths):
        content.refuse("accept_lengths should be counts of tokens", line)
    good = [index for index, text in enumerate(choice.turns) if text.strip() != _FAILED]
    if not all(0.0 < choice.wall_time[index] < 1e9 for index in good):
        content.refuse("wall_time should be seconds above 0", line)
    prefill = choice.prefill_time
    if prefill is not None and len(prefill) != len(choice.turns):
        content.refuse("prefill_time should have an entry for each turn", line)
    if prefill is not None and not all(0.0 <= prefill[index] < 1e9 for index in good):
        content.refuse("prefill_time should be seconds", line)
    failed, lengths = len(choice.turns) - len(good), choice.accept_lengths
    counted = bool(lengths) and not failed
    sample = ImportedSample(
        prompt=_number(answer.question_id),
        category=answer.category,
        tokens=sum(choice.new_tokens[index] for index in good),
        seconds=sum(choice.wall_time[index] for index in good),
        rounds=len(lengths) if counted else None,
        emitted=round(sum(lengths)) if counted else None,
    )
    return _Read(
        question=answer.question_id,
        category=answer.category,
        model=answer.model_id,
        turns=len(choice.turns),
        failed=failed,
        sample=sample if good else None,
        all_ones=all(length == 1 for length in lengths) if lengths else None,
        prefill=None if prefill is None else sum(prefill[index] for index in good),
    )


def _prefill_is_apart(content: Content, answers: list[_Read]) -> bool:
    """Whether the wall times are without the prefill: it stands beside them in every answer, or in none."""
    apart = [answer.prefill is not None for answer in answers]
    if any(apart) and not all(apart):
        line = content.values[apart.index(False)][0]
        content.refuse("prefill_time is missing, which other answers have", line)
    return any(apart)


def _end_to_end(answers: list[_Read]) -> float:
    """Return the mean over questions of tokens per second with the prefill, where that stands apart."""
    return fmean(
        answer.sample.tokens / (answer.sample.seconds + (answer.prefill or 0.0))
        for answer in answers
        if answer.sample is not None
    )


def _number(question: int | str) -> int:
    """Return a number that is the same for the same question in every file."""
    if isinstance(question, int) and 0 <= question < 2**31:
        return question
    return 2**31 + int(digest(question)[:13], 16)


def _place(answer: _Read) -> tuple[int, str]:
    return _number(answer.question), str(answer.question)


def _check_distinct(content: Content, answers: list[_Read]) -> None:
    models = sorted({answer.model for answer in answers})
    if len(models) > 1:
        content.refuse(f"holds answers of {len(models)} models ({models[0]!r}, {models[1]!r}); split it")
    seen: dict[int, int] = {}
    for (line, _), answer in zip(content.values, answers, strict=True):
        first = seen.setdefault(_number(answer.question), line)
        if first != line:
            content.refuse(f"answers question {answer.question!r} again, after line {first}", line)


def _counts(samples: tuple[ImportedSample, ...], method: Method) -> Counts:
    tokens = float(sum(sample.tokens for sample in samples))
    if method is Method.AR or any(sample.rounds is None for sample in samples):
        return Counts(tokens=tokens)
    rounds = float(sum(sample.rounds or 0 for sample in samples))
    emitted = sum(sample.emitted or 0 for sample in samples)
    return Counts(tokens=tokens, rounds=rounds, tokens_per_round=emitted / rounds)


def _failures(answers: list[_Read]) -> list[str]:
    failed, turns = sum(answer.failed for answer in answers), sum(answer.turns for answer in answers)
    if not failed:
        return []
    lost = sum(answer.sample is None for answer in answers)
    questions = f", among them all of {lost} questions" if lost else ""
    return [f"{failed} of {turns} turns failed (ERROR) and are left out{questions}"]
