"""The shape of a sweep file: its sections with their keys, bounds and defaults, and their JSON Schema."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic.json_schema import WithJsonSchema

from dyna_eval.jobs import PACKAGED_PAIRS, Backend, EngineSpec, GenerationSpec, MeasureSpec, PromptSpec
from dyna_eval.methods import MethodParameters, PositiveZero
from dyna_eval.policies import method_names, parameters_of
from dyna_eval.sweeps.templates import columns_of

_GENERATION, _MEASURE, _PROMPTS = GenerationSpec(), MeasureSpec(), PromptSpec(dataset="")
_ENGINE = EngineSpec()
_BIDIRECTIONAL = "\u202a-\u202e\u2066-\u2069"  # would let a label show as another one
_NOT_IN_A_LINE = re.compile(f"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff{_BIDIRECTIONAL}]")
_NOT_IN_A_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_BLANK = "\u115f\u1160\u2800\u3164\uffa0"  # letters and signs without ink


def _within_a_line(text: str) -> str:
    if _NOT_IN_A_LINE.search(text):
        raise ValueError("should be one line without control characters")
    if not any(unicodedata.category(one)[0] in "LNPS" and one not in _BLANK for one in text):
        raise ValueError("should have a character that can be seen")
    return text


def _not_a_number(name: str) -> str:
    if name.isdecimal():
        raise ValueError("would be taken for a sweep's number; add a letter to it")
    return name


def _or_auto(value: object, check: ValidatorFunctionWrapHandler) -> object:
    return AUTO_REPEATS if value == "auto" else check(value)


def _greedy_or_warm(temperature: float) -> float:
    if 0 < temperature < LEAST_TEMPERATURE:
        raise ValueError(
            f"should be 0, which is greedy, or at least {LEAST_TEMPERATURE:f}, not {temperature}"
        )
    return temperature


def _or_no_variables(value: object, check: ValidatorFunctionWrapHandler) -> object:
    """Read true as a template without variables of the user's, and false as none."""
    return check(({} if value else None) if isinstance(value, bool) else value)


def _with_columns(template: str) -> str:
    if _NOT_IN_A_TEXT.search(template):
        raise ValueError("should be text without control characters")
    columns_of(template)
    return template


def _plain_value(value: object) -> object:
    if not isinstance(value, str | int | float | bool):
        raise ValueError("should be a text, a number, true or false")
    return value


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


AUTO_REPEATS = 0
"""Stands for `repeats: auto` once a file is read."""
FIRST_REPEATS, MAX_REPEATS, PRECISION = 3, 10, 0.03
"""What `repeats: auto` begins with, ends with at the latest, and aims at unless the file says otherwise."""

LEAST_TEMPERATURE = 1e-6
"""Logits divided by less would no longer be finite numbers, and draws no longer the target's."""

Repeats = Annotated[
    int,
    Field(ge=1, le=1000),
    WrapValidator(_or_auto),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1, "maximum": 1000}, {"const": "auto"}]}),
]
Text = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=1000),
    AfterValidator(_within_a_line),
]
Label = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=80),
    AfterValidator(_within_a_line),
]
SweepName = Annotated[Label, AfterValidator(_not_a_number)]
TextOrTexts = Annotated[
    list[Text],
    BeforeValidator(_as_list),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
ChatTemplate = Annotated[
    dict[Text, Annotated[Any, AfterValidator(_plain_value)]] | None,
    WrapValidator(_or_no_variables),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"type": "object"}]}),
]
TextTemplate = Annotated[
    str, StringConstraints(min_length=1, max_length=100_000), AfterValidator(_with_columns)
]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False), PositiveZero]


class Section(BaseModel):
    """A mapping of the file. Strict: no text for numbers, no booleans for integers, no unknown keys."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class PairSection(Section):
    """A target/draft pair: local folders or hub ids."""

    target: Text = Field(description="A folder with safetensors, beside the sweep file, or a hub id.")
    draft: Text | None = Field(None, description="As target; may be left out where no row drafts with it.")
    dtype: Dtype = Field("auto", description="auto: that of the engine section.")
    revision: Text | None = Field(None, description="Hub revision of both models.")
    target_revision: Text | None = Field(None, description="Hub revision of the target alone.")
    draft_revision: Text | None = Field(None, description="Hub revision of the draft alone.")
    name: Label | None = Field(None, description="Unless given, the models' last names.")


class PromptsSection(Section):
    """Arguments of `datasets.load_dataset`, and how its rows become prompts."""

    dataset: Text = Field(description="'demo', a hub id, a folder, or arrow, csv, json, parquet or text.")
    name: Text | None = Field(None, description="The configuration of a data set that has several.")
    revision: Text | None = Field(
        None, description="Commit, tag or branch of a data set on the hub; unless given, its newest commit."
    )
    split: Text | None = Field(
        None,
        description="Unless given, 'train' where the data set is arrow, csv, json, parquet or text, otherwise"
        " 'test', for a folder too. Slices of it work, as test[100:200] or test[:10%], and sums, as"
        " train+test.",
    )
    column: Text = Field(_PROMPTS.column, description="Of texts, or of lists of turns: the first one counts.")
    template: TextTemplate | None = Field(
        None,
        description="Instead of 'column': a text from several columns, as 'Question: {question}'; {{ and }}"
        " are braces themselves. Rows without a value in one of them are left out.",
    )
    data_files: TextOrTexts = Field(
        default_factory=list,
        max_length=1000,
        description="Files, beside the sweep file or in the current folder; patterns with * or ?; addresses.",
    )
    min_chars: int = Field(_PROMPTS.min_chars, ge=0, description="Shorter texts are left out.")
    limit: int | None = Field(None, ge=1, description="At most so many prompts.")
    shuffle: int | None = Field(
        None,
        ge=0,
        lt=2**63,
        description="A seed: rows are taken in a random order, which is the same on every machine, rather"
        " than as they stand.",
    )
    max_prompt_tokens: int | None = Field(
        None, ge=1, description="Longer prompts are cut at their end; with a chat template they are left out."
    )
    chat_template: ChatTemplate = Field(
        None,
        description="true: texts, turns or lists of messages go through the chat template of the target's "
        "tokenizer; a mapping sets variables of the template besides, as {enable_thinking: false}.",
    )
    chat_template_file: Text | None = Field(
        None,
        description="A chat template in Jinja instead of the tokenizer's own; beside the sweep file or in the"
        " current folder. It needs no 'chat_template: true'.",
    )
    category: Text | None = Field(None, description="A column that `report --by-category` groups by.")
    per_category: int | None = Field(
        None, ge=1, description="At most so many prompts of each category; for 'category'."
    )
    label: Label | None = Field(None, description="Of one prompt set among several; else its data's name.")


class GenerationSection(Section):
    """How much to generate, and by which law. A list in it stands for each of its values."""

    max_new_tokens: int = Field(
        _GENERATION.max_new_tokens, ge=1, le=1_000_000, description="Tokens after each prompt."
    )
    temperature: Annotated[NotNegative, AfterValidator(_greedy_or_warm)] = Field(
        _GENERATION.temperature,
        le=100,
        description=f"0 is greedy; anything else at least {LEAST_TEMPERATURE:f}.",
    )
    seed: int = Field(
        _GENERATION.seed, ge=0, lt=2**63, description="Of sampling, and of the order in which rows run."
    )
    stop_at_eos: bool = Field(
        _GENERATION.stop_at_eos,
        description="End a sample at the tokenizer's end token, or at one of the target's generation config.",
    )
    label: Label | None = Field(
        None, description="Of one setting among several; else what differs between them, as T=0."
    )

    @property
    def spec(self) -> GenerationSpec:
        return GenerationSpec(**self.model_dump(exclude={"label"}))


class MeasureSection(Section):
    """How often to measure, and how sure to be."""

    repeats: Repeats = Field(
        _MEASURE.repeats,
        description="Runs of every row; auto adds blocks until each speedup, and the baseline's throughput,"
        " is known to within 'precision'.",
    )
    max_repeats: int | None = Field(
        None, ge=FIRST_REPEATS, le=1000, description=f"At most, with auto; unless given, {MAX_REPEATS}."
    )
    precision: float | None = Field(
        None,
        gt=0,
        lt=1,
        allow_inf_nan=False,
        description="With auto: half-width of each speedup's interval over repeats, relative;"
        f" unless given, {PRECISION}.",
    )
    warmup: int = Field(
        _MEASURE.warmup,
        ge=0,
        le=1000,
        description="Unmeasured runs before a job, of at most 32 tokens after its first prompt reversed,"
        " so that they go over none of the measured prompts.",
    )
    confidence: float = Field(
        _MEASURE.confidence, gt=0, lt=1, allow_inf_nan=False, description="Of all intervals of a report."
    )
    job_timeout_s: float | None = Field(
        _MEASURE.job_timeout_s,
        gt=0,
        allow_inf_nan=False,
        description="A job that takes longer is tried on another worker. Unless given, 50 times what the"
        " target alone would take for the job and for one of the actor's own AR runs, by the pair's slowest"
        " calibration, and at least 1800; before the pair's first result, 5 for each token of both, and at"
        " least 7200.",
    )
    sentinel_every: int = Field(
        _MEASURE.sentinel_every, ge=1, le=1_000_000, description="Jobs between two of an actor's own AR runs."
    )
    tune_fraction: NotNegative = Field(
        _MEASURE.tune_fraction,
        lt=1,
        description="Share of the prompts on which the best row is chosen; figures are over the others.",
    )
    store_trees: int = Field(
        _MEASURE.store_trees,
        ge=0,
        le=100,
        description="First rounds of each sample whose draft tree is kept, to look at in the dashboard.",
    )

    @property
    def spec(self) -> MeasureSpec:
        given = self.model_dump()
        if self.repeats == AUTO_REPEATS:
            given["repeats"] = FIRST_REPEATS
            given["max_repeats"] = self.max_repeats or MAX_REPEATS
            given["precision"] = self.precision or PRECISION
        return MeasureSpec(**given)


class EngineSection(Section):
    """What runs the forward passes."""

    backend: Literal["auto", "eager", "compile", "cudagraph"] = Field(
        _ENGINE.backend.value, description="auto is the fastest that the machine and the model allow."
    )
    dtype: Dtype = Field("auto", description="For pairs that name none; auto follows checkpoint and machine.")

    @property
    def spec(self) -> EngineSpec:
        return EngineSpec(backend=Backend(self.backend), dtype=self.dtype)


class RowSection(BaseModel):
    """What every row has beside the parameters of its method."""

    model_config = ConfigDict(strict=True, frozen=True)

    label: Label = Field(description="The row's name in every table; its own in the file.")
    method: Text = Field(description="One of the methods; its parameters stand beside it.")
    zip: Any = Field(
        None, description="Lists that are gone through together, as [depth, branch]; others multiply."
    )


ROW_KEYS = tuple(RowSection.model_fields)


class SweepFile(Section):
    """A dyna-eval sweep: which configurations to measure, on which models and prompts.

    Only the outline: the sections typed `Any` are validated one by one, with the classes above.
    """

    name: SweepName = Field(description="Unless given, the file's name without its ending.")
    pair: Any = Field(
        description="'demo', 'demo-large', a target/draft pair, or a list of those to sweep over."
    )
    prompts: Any = Field(description="A prompt set, or a list of those, each with a table of its own.")
    generation: Any = Field(
        default_factory=dict,
        description="How texts are generated, or a list of ways, each with a table of its own.",
    )
    measure: Any = Field(default_factory=dict)
    engine: Any = Field(default_factory=dict)
    baseline: Label | None = Field(None, description="The row to compare with; unless given, the first ar.")
    configs: list[dict[str, Any]] = Field(min_length=1, description="The rows; a list in one is swept over.")


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a sweep file, for editors, with the methods that are installed here."""
    schema = SweepFile.model_json_schema()
    properties = schema["properties"]
    pair = {"anyOf": [{"enum": list(PACKAGED_PAIRS)}, PairSection.model_json_schema()]}
    properties["pair"] |= {"anyOf": [*pair["anyOf"], {"type": "array", "items": pair, "minItems": 1}]}
    prompts = PromptsSection.model_json_schema()
    properties["prompts"] |= {"anyOf": [prompts, {"type": "array", "items": prompts, "minItems": 1}]}
    generation = GenerationSection.model_json_schema()
    generation["properties"] = _or_lists(generation["properties"], but="label")
    properties["generation"] |= {"anyOf": [generation, {"type": "array", "items": generation, "minItems": 1}]}
    properties["measure"] = MeasureSection.model_json_schema()
    properties["engine"] = EngineSection.model_json_schema()
    properties["configs"]["items"] = {"oneOf": [_row_schema(parameters_of(name)) for name in method_names()]}
    schema["required"].remove("name")
    schema["description"] = "Which configurations dyna-eval measures, on which models and prompts."
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _row_schema(method: type[MethodParameters]) -> dict[str, Any]:
    """Return the schema of a method's rows, in which a parameter may also be a list of its values."""
    parameters = method.model_json_schema()
    swept = _or_lists(parameters.get("properties", {}))
    names = {"type": "array", "items": {"enum": list(swept)}, "minItems": 2}
    row = {
        "label": {"type": "string", "minLength": 1, "maxLength": 80},
        "method": {"const": method.method.value},
    }
    linked = {"zip": {"anyOf": [names, {"type": "array", "items": names}]}} if swept else {}
    return {
        **parameters,
        "properties": row | swept | linked,
        "required": ["label", "method", *parameters.get("required", [])],
    }


def _or_lists(properties: Mapping[str, Any], *, but: str | None = None) -> dict[str, Any]:
    """Return keys that may also have a list of their values; `but` one."""
    return {
        name: value if name == but else {"anyOf": [value, {"type": "array", "items": value, "minItems": 1}]}
        for name, value in properties.items()
    }
