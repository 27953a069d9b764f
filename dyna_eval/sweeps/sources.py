"""Pairs and prompts as a sweep file names them: folders and files are found beside it, hub ids are kept."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from dyna_eval.jobs import PACKAGED_PAIRS, PairSpec, PromptSpec
from dyna_eval.mistakes import Mistakes, shown
from dyna_eval.sweeps.sections import PairSection, PromptsSection
from dyna_eval.yaml_source import Location

MOST_LISTED = 100
_MOST_OF_A_TEMPLATE = 1_000_000
"""Bytes of a chat template's file."""
_BUILDER_OF_ENDING = {
    "arrow": "arrow",
    "csv": "csv",
    "json": "json",
    "jsonl": "json",
    "ndjson": "json",
    "parquet": "parquet",
    "txt": "text",
}
"""What of `datasets` reads a file, by its ending."""
_FILE_BUILDERS = frozenset(_BUILDER_OF_ENDING.values())

HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}(/[A-Za-z0-9_][\w.-]{0,95})?", re.ASCII)
"""A model or data set of a hub as people write it: a name, or an organisation and a name."""


def read_pairs(value: object, folder: Path, mistakes: Mistakes) -> dict[Location, PairSpec]:
    """Return the pairs by where they stand in the file, up to the first mistake."""
    pairs: dict[Location, PairSpec] = {}
    for location, item in items_of("pair", "pairs", value, mistakes).items():
        pair = _read_pair(item, location, folder, mistakes)
        if pair is None:
            break
        if any(pair.name == other.name for other in pairs.values()):
            mistakes.add(location, f"duplicate pair {shown(pair.name)}; give each its own 'name'")
        pairs[location] = pair
    return pairs


def items_of(key: str, what: str, value: object, mistakes: Mistakes) -> dict[Location, object]:
    """Return what a key holds, or each item of its list, by where it stands; nothing of a list too long."""
    if not isinstance(value, list):
        return {(key,): value}
    if not 0 < len(value) <= MOST_LISTED:
        mistakes.add((key,), f"{key!r} should list 1 to {MOST_LISTED} {what}, not {len(value)}")
        return {}
    return {(key, i): item for i, item in enumerate(value)}


def _read_pair(value: object, location: Location, folder: Path, mistakes: Mistakes) -> PairSpec | None:
    if isinstance(value, str) and value in PACKAGED_PAIRS:
        return PairSpec(name=value, target=value, draft=value)
    if not isinstance(value, dict):
        known = " or ".join(PACKAGED_PAIRS)
        what = f"unknown pair {shown(value)}; write {known}, or {{target: FOLDER_OR_HUB_ID, draft: ...}}"
        mistakes.add(location, what)
        return None
    section = mistakes.check(PairSection, value, location)
    if section is None:
        return None
    target = _located(section.target, folder, (*location, "target"), mistakes)
    draft = section.draft and _located(section.draft, folder, (*location, "draft"), mistakes)
    _check_revisions(section, target, draft, location, mistakes)
    names = [_last_name(section.target, target)]
    if section.draft and draft:
        names.append(_last_name(section.draft, draft))
    return PairSpec(
        name=section.name or "/".join(names),
        target=target,
        draft=draft,
        dtype=section.dtype,
        target_revision=section.target_revision or (section.revision if _on_hub(target) else None),
        draft_revision=section.draft_revision or (section.revision if _on_hub(draft) else None),
    )


def _check_revisions(
    section: PairSection, target: str, draft: str | None, location: Location, mistakes: Mistakes
) -> None:
    if section.revision and (section.target_revision or section.draft_revision):
        mistakes.add((*location, "revision"), "'revision' is for both models; give one kind only")
    revised = {
        "revision": section.revision and not (_on_hub(target) or _on_hub(draft)),
        "target_revision": section.target_revision and not _on_hub(target),
        "draft_revision": section.draft_revision and not _on_hub(draft),
    }
    for key, wrong in revised.items():
        if wrong:
            mistakes.add((*location, key), f"{key!r} is for models on a hub; leave it out")


def _on_hub(model: str | None) -> bool:
    return model is not None and model not in PACKAGED_PAIRS and not Path(model).is_absolute()


def _located(text: str, folder: Path, location: Location, mistakes: Mistakes) -> str:
    """Return the absolute path of a folder where there is one, else the hub id as written."""
    if text in PACKAGED_PAIRS:
        return text
    path = _beside(text, folder)
    if path is not None and path.is_dir():
        return str(path)
    if text.startswith((".", "/", "~")) or text.count("/") > 1:
        mistakes.add(location, f"there is no folder {shown(text)}{_looked_in(text, folder)}")
    elif not HUB_ID.fullmatch(text):
        mistakes.add(location, f"{shown(text)} is neither a folder nor a hub id such as org/name")
    return text


def _looked_in(text: str, folder: Path) -> str:
    """Return where a relative path was looked for: at the sweep file, not where the command runs."""
    return "" if text.startswith(("/", "~")) else f" in {folder.resolve()}, where the sweep file is"


def _last_name(written: str, found: str) -> str:
    """Return a model's last name as written (a link keeps its own), or as found for `.` and `..`."""
    name = Path(written).name
    return name if name not in ("", "..") else Path(found).name


def read_prompt_sets(value: object, folder: Path, mistakes: Mistakes) -> dict[str, PromptSpec]:
    """Return the prompt sets by their labels, up to the first mistake: one mapping, or a list of them."""
    prompt_sets: dict[str, PromptSpec] = {}
    for location, item in items_of("prompts", "prompt sets", value, mistakes).items():
        section = mistakes.check(PromptsSection, item, location)
        if section is None:
            break
        label = section.label or _data_name(section)
        if label in prompt_sets:
            mistakes.add(location, f"duplicate prompts {shown(label)}; give each its own 'label'")
        prompt_sets[label] = _prompt_set(section, folder, location, mistakes)
    return prompt_sets


def _data_name(section: PromptsSection) -> str:
    """Return what people call the data: the configuration of a data set, or the last part of a name."""
    if section.dataset in _FILE_BUILDERS - {"arrow"} and section.data_files:  # its files are all called alike
        return Path(section.data_files[0]).stem
    return section.name or Path(section.dataset).name


def _prompt_set(section: PromptsSection, folder: Path, location: Location, mistakes: Mistakes) -> PromptSpec:
    dataset, data_files, split = section.dataset, section.data_files, "test"
    if dataset in _FILE_BUILDERS:
        split = "train"  # the only one that files without further naming have
        data_files = [_data_file(text, folder, location, mistakes) for text in data_files]
        if not data_files:
            what = f"data set {dataset!r} is read from files; name them with 'data_files'"
            mistakes.add((*location, "dataset"), what)
    elif builder := _builder_of(dataset, folder):
        what = f"{shown(dataset)} is no data set; write 'dataset: {builder}', and the file in 'data_files'"
        mistakes.add((*location, "dataset"), what)
    else:
        dataset = _located(dataset, folder, (*location, "dataset"), mistakes)
    _check_prompt_keys(section, location, mistakes)
    if section.revision and not _is_hub_data(dataset):
        mistakes.add((*location, "revision"), "'revision' is for data sets on a hub; leave it out")
    written = section.model_dump(exclude={"label", "chat_template_file"})
    found = {"dataset": dataset, "data_files": tuple(data_files), "split": section.split or split}
    return PromptSpec(**written | found | _chat_template(section, folder, location, mistakes))


def _check_prompt_keys(section: PromptsSection, location: Location, mistakes: Mistakes) -> None:
    """Refuse keys that contradict each other, or say nothing alone."""
    given = section.model_fields_set
    if section.template is not None and "column" in given:
        what = "'template' names its columns itself; leave out 'column', or 'template'"
        mistakes.add((*location, "template"), what)
    if section.per_category is not None and section.category is None:
        what = "'per_category' needs to know the categories; name their column with 'category'"
        mistakes.add((*location, "per_category"), what)
    if section.chat_template_file is not None and section.chat_template is None and "chat_template" in given:
        what = "'chat_template: false' leaves no use for 'chat_template_file'; leave out one of the two"
        mistakes.add((*location, "chat_template_file"), what)


def _is_hub_data(dataset: str) -> bool:
    return dataset not in _FILE_BUILDERS and _on_hub(dataset)


def _chat_template(
    section: PromptsSection, folder: Path, location: Location, mistakes: Mistakes
) -> dict[str, object]:
    """Return the chat template of a file, with its variables; nothing where no file is named."""
    text = section.chat_template_file
    if text is None:
        return {}
    location = (*location, "chat_template_file")
    path = _beside(text, folder) or _beside(text, Path())
    if path is None or not path.is_file():
        mistakes.add(location, f"there is no file {shown(text)}; correct 'chat_template_file'")
        return {}
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_OF_A_TEMPLATE + 1)
        template = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        mistakes.add(location, f"{shown(text)} cannot be read: {reason}; name a chat template in Jinja")
        return {}
    if len(content) > _MOST_OF_A_TEMPLATE or not template.strip():
        size = f"larger than {_MOST_OF_A_TEMPLATE:,} bytes" if template.strip() else "empty"
        mistakes.add(location, f"{shown(text)} is {size}; name a chat template in Jinja")
    return {"chat_template": section.chat_template or {}, "chat_template_text": template}


def _builder_of(dataset: str, folder: Path) -> str | None:
    """Return what reads a file that stands where a data set should, or a kind of files that is so written."""
    path = _beside(dataset, folder)
    is_file = path is not None and path.is_file()
    return _BUILDER_OF_ENDING.get(Path(dataset).suffix[1:].lower() if is_file else dataset)


def with_prompts(pairs: Iterable[PairSpec], prompt_sets: Mapping[str, PromptSpec]) -> tuple[PairSpec, ...]:
    """Return every pair once for each of several prompt sets, named after both; with one set, the pairs."""
    if len(prompt_sets) == 1:
        return tuple(pairs)
    return tuple(
        replace(pair, name=f"{pair.name} on {label}", prompts=prompts)
        for pair in pairs
        for label, prompts in prompt_sets.items()
    )


def _data_file(text: str, folder: Path, location: Location, mistakes: Mistakes) -> str:
    """Return the absolute path of a data file beside the sweep file, or else in the current folder.

    A pattern with * or ? counts as found where the folder before it is; an address (`https://...`) stays.
    """
    if "://" in text:
        return text
    parts = Path(text).parts
    pattern = next((i for i, part in enumerate(parts) if re.search(r"[*?\[]", part)), len(parts))
    for base in (folder, Path()):
        fixed = _beside(str(Path(*parts[:pattern])), base)
        if fixed is not None:
            if pattern == len(parts) and fixed.is_dir():
                example = str(Path(text) / "*")
                what = f"{shown(text)} is a folder; name its files in 'data_files', as {shown(example)}"
                mistakes.add((*location, "data_files"), what)
            return str(fixed.joinpath(*parts[pattern:]))
    mistakes.add((*location, "data_files"), f"there is no file {shown(text)}; correct 'data_files'")
    return text


def _beside(text: str, folder: Path) -> Path | None:
    """Return the absolute path of a file or folder that exists; relative ones are looked for in a folder."""
    try:
        return (folder / Path(text).expanduser()).resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: a loop of links, or ~name of an unknown user
        return None
