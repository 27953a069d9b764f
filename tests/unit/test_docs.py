"""The documents name what there is: figures, commands, options, settings, and pages."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml
from dyna_eval_workers.families import FAMILIES
from report_records import record

from dyna_eval.cli import cli
from dyna_eval.reports.measured_report import build_report
from dyna_eval.sweeps.config import parse_sweep
from dyna_eval.sweeps.sections import SweepFile
from dyna_eval.tables.report_json import to_json
from tests.documents import (
    PAGES,
    PAGES_ON_CODE,
    ROOT,
    SWEEP,
    Fence,
    anchors,
    commands,
    fences,
    inline_code,
    lay_out_checkout,
    lay_out_own,
    links,
)

DOCS = ROOT / "docs"
GENERATED = DOCS / "reference"

NOT_FIGURES = {
    "pair", "step", "label", "method", "params", "state", "baseline", "prompts", "repeats", "tokens",
    "prompt_set", "env", "mixed", "job_ids", "key", "generation", "imported", "foreign", "caveats", "slowed",
}  # fmt: skip

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def test_every_figure_of_the_json_report_is_defined() -> None:
    rows = to_json(build_report(record()))["rows"]
    assert isinstance(rows, list)
    lines = (DOCS / "metrics.md").read_text().splitlines()
    named = set(re.findall(r"`([a-z0-9_.]+)", "\n".join(line for line in lines if line.startswith("| `"))))

    for figure in rows[0].keys() - NOT_FIGURES:
        parts = {figure} | {f"...{figure[i:]}" for i in range(len(figure)) if figure[i] == "_"}
        assert named & parts, figure


def test_the_architecture_names_modules_that_there_are() -> None:
    """By their paths or the ends of these, as `jobs.py`, `latex/grid.py` or `native/`."""
    folders = [
        ROOT / name for name in ("dyna_eval", "workers", "db", "dashboards", "scripts", "benchmarks", "tests")
    ]
    there = {f"/{path.relative_to(ROOT).as_posix()}" for folder in folders for path in folder.rglob("*.py")}
    there |= {
        f"/{folder.relative_to(ROOT).as_posix()}/" for path in folders for folder in (path, *path.rglob("*"))
    }
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:\w+/)*\w+(?:\.py|/))`", text)) | set(re.findall(r"\| ([\w/]+\.py) ", text))
    assert len(named) > 30
    for name in named - {"docs/reference/"}:
        assert any(path.endswith(f"/{name}") for path in there), name


def test_every_module_is_in_the_list_of_its_package() -> None:
    """Who looks for something finds its file there: in ARCHITECTURE.md, or in the part's own README."""
    architecture = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = architecture.partition("## Which module")[2].partition("\n## ")[0].splitlines()
    for module in (ROOT / "dyna_eval").rglob("*.py"):
        if module.stem != "__init__":
            folder = f"`{module.parent.relative_to(ROOT)}/`"
            listed = [row for row in rows if folder in row or f"`{module.relative_to(ROOT)}`" in row]
            assert any(re.search(rf"[`/]{module.stem}(\.py)?`", row) for row in listed), module

    for part in ("workers", "db", "dashboards"):
        listed_there = (ROOT / part / "README.md").read_text(encoding="utf-8")
        for path in next((ROOT / part).glob("dyna_eval_*")).iterdir():
            name = f"{path.name}/" if path.is_dir() else path.name
            if name not in ("__init__.py", "__pycache__/", "py.typed"):
                assert f"`{name}`" in listed_there, path


def test_the_families_that_our_kernels_know_are_those_that_the_page_on_sweeps_names() -> None:
    paragraph = (DOCS / "sweeps.md").read_text(encoding="utf-8").partition("know these families")[2]
    named, _, rest = paragraph.partition("\n\n")[0].partition("Those for CPUs also know")
    words = set(re.findall(r"\w+", named.partition(":")[2])) | set(re.findall(r"\w+", rest.partition(";")[0]))
    assert words - {"and"} == set(FAMILIES)


# ------------------------------------------------------------------------ fences


@every_page
def test_a_fence_names_its_language_and_why_it_is_not_run(page: Path) -> None:
    for fence in fences(page):
        assert fence.language in ("sh", "yaml", "toml", "python", "text"), fence
        assert fence.not_run is None or len(fence.not_run.split()) > 1, fence


@every_page
def test_shell_blocks_are_valid_shell(page: Path) -> None:
    for fence in fences(page):
        if fence.language == "sh":
            checked = subprocess.run(
                ["bash", "-n"], input=fence.text, text=True, capture_output=True, check=False
            )
            assert (checked.returncode, checked.stderr) == (0, ""), fence


@every_page
def test_commands_are_those_of_dyna_eval_with_its_options(page: Path) -> None:
    """Also where a block is not run, and in the midst of a sentence."""
    for fence in fences(page):
        if fence.language == "sh" or (fence.language == "yaml" and fence.not_run):
            for command in commands(fence.text):
                for arguments in calls(command):
                    refuse_unknown(arguments, fence)
    for line, code in inline_code(page):
        first = code.split(" ", 1)[0]
        words = code if first == "dyna-eval" else f"dyna-eval {code}"
        if first == "dyna-eval" or (first in cli.commands and "--" in code):
            for arguments in calls(words):
                refuse_unknown(arguments, f"{page.relative_to(ROOT)}:{line}")


@pytest.mark.parametrize(
    "arguments", [["reprot"], ["report", "--latx"], ["pairs", "chekc"], ["report", "--plots"]], ids=" ".join
)
def test_a_command_that_does_not_exist_would_be_noticed(arguments: list[str]) -> None:
    """Guards the test above."""
    with pytest.raises(AssertionError):
        refuse_unknown(arguments, "here")


def calls(command: str) -> Iterator[list[str]]:
    """Return the arguments of every call of dyna-eval in a line of shell."""
    lexer = shlex.shlex(re.sub(r"(^|\s)#.*$", "", command), posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        words = list(lexer)
    except ValueError:  # a quote that is open: part of a text over several lines
        return
    for start in (i for i, word in enumerate(words) if Path(word).name == "dyna-eval"):
        ends = (i for i in range(start, len(words)) if re.fullmatch(r"[();<>|&]+", words[i]))
        yield words[start + 1 : next(ends, len(words))]


def refuse_unknown(arguments: list[str], where: object) -> None:
    """Fail where click does not know a command or an option, or an option lacks its value."""
    command: click.Command = cli
    context = click.Context(cli, info_name="dyna-eval")
    rest = arguments
    while rest:
        try:
            _, rest, _ = command.make_parser(context).parse_args(list(rest))
        except click.UsageError as error:
            raise AssertionError(f"{where}: {' '.join(arguments)}: {error.format_message()}") from error
        if not isinstance(command, click.Group):
            assert not rest, f"{where}: dyna-eval {' '.join(arguments)}: {rest} is too much"
            return
        if rest:
            name, rest = rest[0], rest[1:]
            found = command.get_command(context, name)
            assert found is not None, f"{where}: dyna-eval has no command {name!r}"
            context = click.Context(found, info_name=name, parent=context)
            command = found


@every_page
def test_settings_are_those_of_sweep_files(page: Path, tmp_path: Path) -> None:
    lay_out_checkout(tmp_path)
    lay_out_own(tmp_path)
    parts = [(str(fence), fence.text) for fence in fences(page) if is_sweep(fence)]
    sections = "|".join(SweepFile.model_fields)
    parts += [
        (f"{page.relative_to(ROOT)}:{line}", code)
        for line, code in inline_code(page)
        if re.match(rf"({sections}): [\[{{]", code)
    ]
    for where, text in parts:
        given = yaml.safe_load(text)
        assert isinstance(given, dict), where
        whole = text if "configs" in given else yaml.safe_dump(yaml.safe_load(SWEEP) | given)
        spec = parse_sweep(whole, file=where, folder=tmp_path)
        assert spec.configurations, where


def is_sweep(fence: Fence) -> bool:
    return fence.language == "yaml" and fence.not_run is None


# ------------------------------------------------------------------------- pages


@pytest.mark.parametrize("page", [*PAGES, *PAGES_ON_CODE], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_what_is_there(page: Path) -> None:
    for line, target in links(page):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.relative_to(ROOT)}:{line}: there is no {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.relative_to(ROOT)}:{line}: {name} has no heading {anchor}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, waiting = set[Path](), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        found = {(page.parent / target.partition("#")[0]).resolve() for _, target in links(page)}
        waiting += [file for file in found - reached if file.suffix == ".md" and file.is_file()]

    assert set(PAGES) - reached == set()


def test_the_reference_is_what_the_code_says(tmp_path: Path) -> None:
    """`scripts/reference` writes it anew."""
    subprocess.run([sys.executable, ROOT / "scripts" / "write_reference.py", tmp_path], check=True)
    written = {file.name: file.read_text(encoding="utf-8") for file in tmp_path.iterdir()}
    committed = {file.name: file.read_text(encoding="utf-8") for file in GENERATED.iterdir()}

    assert committed == written
