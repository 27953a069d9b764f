"""Every example runs, in small and on the demo pair, and is shown by the commands that stand in its head."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from claims import claim_one, land_one
from click.testing import CliRunner
from dyna_eval_db.store import Landing, Store
from dyna_eval_workers.resolution import resolve_sweep
from dyna_eval_workers.session import DecodingSession

from dyna_eval.cli import cli
from dyna_eval.jobs import JobState, ResolvedSweep
from dyna_eval.sweeps.config import load_sweep

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the first test waits until all examples have run

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
SMALL = ["pair=demo", "generation.max_new_tokens=8", "measure.repeats=1"]
DEMO_PROMPTS = "{dataset: demo, limit: 1, max_prompt_tokens: %d}"
SMALLER = {
    "fixed-tree": ["prompts.limit=2"],  # one to choose on, one to report
    "main-table": [
        f"prompts=[{{label: other, {(DEMO_PROMPTS % 24)[1:]}, {DEMO_PROMPTS % 32}]",
        "measure={repeats: 1}",
        "configs.1.cache=dynamic",  # a static one is compiled, which takes a minute
    ],
    "length-scaling": ["prompts.limit=1", "generation.max_new_tokens=[4, 8]"],
    "prompt-length": [f"prompts.{i}.limit=1" for i in range(3)],
    "pythia-wikitext2": ["prompts={dataset: demo, limit: 2}"],  # one prompt would have no interval
}


def commands(example: Path) -> list[list[str]]:
    """Return the words of every `dyna-eval` command in an example's head."""
    head = example.read_text(encoding="utf-8").split("\nname:")[0]
    lines = re.findall(r"^# .*?(dyna-eval [a-z][^;`>\n]*)", head, flags=re.MULTILINE)
    return [shlex.split(line, comments=True)[1:] for line in lines]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a database in which every example has run in small, by one session, as actors hold it."""
    folder = tmp_path_factory.mktemp("examples")
    session = DecodingSession(actor="here", node="here", device=torch.device("cpu"))
    with Store.open(f"sqlite:///{folder}/dyna-eval.db", create=True) as store:
        for example in EXAMPLES:
            overrides = [*SMALL, *SMALLER.get(example.stem, ["prompts.limit=1"])]
            resolved = resolve_sweep(load_sweep(example, overrides))
            run(store, store.add_sweep(resolved), resolved, session)
    return folder


def run(store: Store, sweep_id: int, resolved: ResolvedSweep, session: DecodingSession) -> None:
    """Claim and land every job of a sweep."""
    for pair in resolved.spec.pairs:
        prompts = resolved.prompt_sets[pair.name]
        while claim := claim_one(store, sweep_id, pair=pair.name, actor=session.actor, lease_seconds=600.0):
            assert land_one(store, claim, session.run(claim.job, prompts)) is Landing.LANDED


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_to_its_end_and_its_commands_show_it(
    example: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    with Store.open(f"sqlite:///{folder}/dyna-eval.db", create=False) as store:
        counts = store.progress(store.find_sweep(example.stem))
        assert counts[JobState.DONE] == sum(counts.values()) > 0
    submitted, *shown = commands(example)
    assert submitted[:2] == ["submit", f"examples/{example.name}"]
    assert shown
    for words in shown:
        if words == ["dashboard"]:
            continue
        done = CliRunner().invoke(cli, words)
        assert (done.exit_code, done.exception) == (0, None), (words, done.output)


def test_the_heads_promise_no_time_that_was_not_measured() -> None:
    """The one that was: the fixed trees, nine minutes on two quiet cores."""
    told = [
        found
        for example in EXAMPLES
        for found in re.findall(r"#.*\b(?:hours?|minutes?|[0-9]+ s)\b.*", example.read_text(encoding="utf-8"))
    ]
    assert len(told) == 1
    assert "about 9 minutes on 2 cores" in told[0]
