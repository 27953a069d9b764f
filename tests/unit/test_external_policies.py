"""Growth policies of other packages: found by entry point, refused in one line, held to promises."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from dyna_eval_workers.decoding import Decoded
from dyna_eval_workers.external import CheckedPolicy, external_policy
from dyna_eval_workers.growth import Candidates, GrowthPolicy, Selection
from dyna_eval_workers.growth.trees import BestFirst, TopBranches
from dyna_eval_workers.tree import ROOT, Tree
from jsonschema import Draft202012Validator

from dyna_eval import policies
from dyna_eval.errors import PolicyError, SweepFileError
from dyna_eval.jobs import PACKAGE, Configuration, GenerationSpec, Method, SweepSpec
from dyna_eval.measurements import Calibration
from dyna_eval.reports.cells import configuration_text
from dyna_eval.reports.presets import is_pruned_tree
from dyna_eval.sweeps.config import parse_sweep
from dyna_eval.sweeps.sections import json_schema
from tests.models import tiny_gpt_neox
from tests.runners import decoder

CALIBRATION = Calibration(draft_seconds=((1, 1e-4),), verify_seconds=((1, 1e-3),))
SOURCE = """\
from dyna_eval.policies import PolicyParameters
from dyna_eval_workers.growth.trees import TopBranches
from pydantic import Field

class Chain(PolicyParameters):
    "A chain."
    length: int = Field(ge=1, le=9)
    extra: float = 0.5
    def policy(self, calibration):
        return TopBranches(
            depth=self.length, branches=1, root_branches=1, threshold=0.0, max_nodes=self.length
        )
"""
SWEEP = """\
pair: {target: a, draft: b}
prompts: {dataset: demo}
configs:
  - {label: Baseline, method: ar}
  - label: Own
    method: chain
    length: 3
"""

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a package of one module as pip leaves it: the module, and its metadata beside it."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    modules: list[str] = []

    def install(
        source: str = SOURCE, *, name: str = "chain", module: str = "chains", version: str = "1.0"
    ) -> Path:
        for known in modules:
            sys.modules.pop(known, None)
        modules.append(module)
        metadata = tmp_path / f"{module}-1.dist-info"
        metadata.mkdir(exist_ok=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: {version}\n")
        (metadata / "entry_points.txt").write_text(f"[{policies.GROUP}]\n{name} = {module}:Chain\n")
        file = tmp_path / f"{module}.py"
        file.write_text(source)
        forget()
        return file

    yield install
    for module in modules:
        sys.modules.pop(module, None)
    forget()


def forget() -> None:
    """What is installed is looked up once per process; here it changes."""
    policies._entry_points.cache_clear()
    policies.parameters_of.cache_clear()


def sweep(text: str = SWEEP) -> SweepSpec:
    return parse_sweep(text, file="sweep.yaml")


def own_row(text: str = SWEEP) -> Configuration:
    return sweep(text).configurations[1]


def test_an_installed_policy_is_a_method_of_sweep_files(install: Install) -> None:
    install()
    row = own_row()
    assert (row.method, row.method.is_external) == (Method("chain"), True)
    assert row.params | {PACKAGE: ""} == {"length": 3, "extra": 0.5, PACKAGE: ""}
    assert configuration_text(row.method, row.params) == "chain, length=3, extra=0.5"
    assert is_pruned_tree(row)


def test_lists_of_its_parameters_are_swept_and_equal_rows_are_merged(install: Install) -> None:
    install()
    spec = sweep(
        SWEEP.replace("length: 3", "length: [2, 3]") + "  - {label: Again, method: chain, length: 3}\n"
    )
    assert [row.label for row in spec.configurations] == ["Baseline", "Own (length=2)", "Again"]
    assert [merged.into for merged in spec.merged] == ["Again"]


@pytest.mark.parametrize(
    ("wrong", "line", "told"),
    [
        ("length: 30", 7, "'length' should be at most 9, not 30"),
        ("lenght: 3", 7, "unknown key 'lenght'; did you mean 'length'?"),
        ("length: 3\n    extra: text", 8, "'extra' should be a number"),
    ],
)
def test_its_parameters_are_checked_with_file_and_line(
    install: Install, wrong: str, line: int, told: str
) -> None:
    install()
    with pytest.raises(SweepFileError) as caught:
        sweep(SWEEP.replace("length: 3", wrong))
    assert str(caught.value).startswith(f"sweep.yaml:{line}: {told}")


def test_the_schema_knows_it(install: Install) -> None:
    install()
    valid = Draft202012Validator(json_schema()).is_valid
    rows = [{"label": "Own", "method": "chain", "length": [2, 3]}, {"label": "Own", "method": "chain"}]
    files = [{"pair": "demo", "prompts": {"dataset": "demo"}, "configs": [row]} for row in rows]
    assert list(map(valid, files)) == [True, False]


@pytest.mark.parametrize("change", ["version", "source"])
def test_another_version_or_source_is_another_configuration(install: Install, change: str) -> None:
    install()
    before = own_row()
    install(version="2.0") if change == "version" else install(SOURCE + "# edited\n")
    assert own_row().params[PACKAGE] != before.params[PACKAGE]
    with pytest.raises(
        PolicyError, match=r"is to be that of chains 1\.0 \w{12}, but installed here is chains"
    ):
        external_policy(before, CALIBRATION)


def test_a_policy_that_the_worker_lacks_is_named_with_its_package() -> None:
    row = Configuration(label="Own", method=Method("chain"), params={"length": 3, PACKAGE: "chains 1.0 abc"})
    with pytest.raises(PolicyError, match=r"unknown method 'chain'; .*\(needed: chains 1\.0 abc\)"):
        external_policy(row, CALIBRATION)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (
            "import no_such_module\n",
            "cannot be imported: ModuleNotFoundError: No module named 'no_such_module'",
        ),
        ("def broken(:\n", "cannot be imported: SyntaxError"),
        ("Chain = 3\n", "is not a subclass of dyna_eval.policies.PolicyParameters"),
        (SOURCE.replace("def policy", "def polity"), "does not say how to make its `policy`"),
        (SOURCE.replace("extra", "zip"), "has a parameter 'zip', a name that is taken"),
    ],
)
def test_a_policy_that_cannot_be_used_is_refused_in_one_line(
    install: Install, source: str, told: str
) -> None:
    install(source)
    with pytest.raises(SweepFileError) as caught:
        sweep()
    message = str(caught.value)
    assert message.startswith("sweep.yaml:6: method 'chain' of package chains 1.0 ")
    assert told in message
    assert "\n" not in message


def test_a_broken_policy_does_not_keep_others_from_working(install: Install) -> None:
    install("import no_such_module\n", name="broken", module="broken_ones")
    install()
    assert own_row().method == Method("chain")


def test_a_name_of_a_built_in_method_or_of_two_packages_is_refused(install: Install) -> None:
    install(name="linear")
    with pytest.raises(PolicyError, match=r"'linear' is brought by dyna-eval itself and by chains 1\.0; un"):
        policies.parameters_of("linear")
    assert policies.parameters_of("tree").package is None
    install(name="chain")
    install(name="chain", module="other_chains")
    with pytest.raises(PolicyError, match=r"is brought by chains 1\.0 and by other_chains 1\.0; uninstall"):
        policies.parameters_of("chain")


def test_an_unknown_method_names_those_that_are_installed(install: Install) -> None:
    install()
    with pytest.raises(SweepFileError, match=r"unknown method 'chian'; did you mean 'chain'\?"):
        sweep(SWEEP.replace("method: chain", "method: chian"))
    with pytest.raises(SweepFileError, match=r"unknown method 'zzz'; installed: ar, .*, chain; "):
        sweep(SWEEP.replace("method: chain", "method: zzz"))


def test_a_method_s_name_is_one_object_wherever_it_comes_from() -> None:
    method = Method("my_policy")
    assert pickle.loads(pickle.dumps(method)) is copy.deepcopy(method) is Method("my_policy") is method  # noqa: S301
    assert method not in list(Method)
    for name in ("", "My", "a b", "a\n", "x" * 33, "1a"):
        with pytest.raises(ValueError, match="is not a valid Method"):
            Method(name)


def test_what_it_decodes_is_what_the_target_alone_emits(install: Install) -> None:
    install()
    target, draft = tiny_gpt_neox(seed=0), tiny_gpt_neox(seed=1)
    engine = decoder(target, draft)

    def decoded(drafting: GrowthPolicy | None) -> Decoded:
        return engine.decode((17, 5, 250), GenerationSpec(max_new_tokens=12), drafting, seed="0:0")

    grown = decoded(external_policy(own_row(), CALIBRATION))
    assert grown.token_ids == decoded(None).token_ids
    assert max(a.verified for a in grown.rounds) == 3


# -------------------------------------------------------------- promises of a policy


class Misbehaving(GrowthPolicy):
    """Does what it is told to do, whatever `GrowthPolicy` promises."""

    max_nodes, depth = 4, 2
    reranks = False  # type: ignore[misc]

    def __init__(self, **changes: Any) -> None:
        for name, value in changes.items():
            setattr(self, name, value)

    def branch(self, _: int) -> int:
        return 2

    def select(self, candidates: Candidates, *_: object) -> Selection:
        return Selection(range(len(candidates)), [True] * len(candidates))


def two_candidates() -> Candidates:
    return Candidates([ROOT, ROOT], [5, 6], [-0.1, -0.2], [0, 1], [0.9, 0.9])


def selects(kept: Sequence[int], grows: Sequence[bool]) -> Callable[..., Selection]:
    return lambda *_: Selection(kept, grows)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"select": selects([0, 5], [True, True])}, "kept number 5 of 2"),
        ({"select": selects([1, 0], [True, True])}, "kept number 0 of 2, after 1; they have to ascend"),
        ({"select": selects([0, 0], [True, True])}, "kept number 0 of 2, after 0"),
        ({"select": selects([-1], [True])}, "kept number -1 of 2"),
        ({"select": selects([0, 1], [True])}, "kept 2 candidates but says of 1"),
        ({"max_nodes": 1}, "kept more than its max_nodes, 1"),
        ({"max_nodes": 1, "reranks": True}, "grows more nodes than its max_rows, 1"),
    ],
)
def test_a_selection_that_would_break_the_loop_is_refused(changes: dict[str, Any], told: str) -> None:
    checked = CheckedPolicy("misbehaving", Misbehaving(**changes))
    with pytest.raises(PolicyError, match=f"policy 'misbehaving' {told}"):
        checked.select(two_candidates(), 1, Tree.with_root(9))


@pytest.mark.parametrize(
    ("nodes", "told"),
    [
        ([ROOT, 2], "verified a node without its parent"),
        ([1, 2], "verified a node without its parent"),
        ([], "verified a node without its parent"),
        ([ROOT, 3], "verified number 3 of 3"),
        ([ROOT, 1, 2], "verified more than its max_nodes, 1"),
    ],
)
def test_verified_nodes_that_are_no_tree_are_refused(nodes: Sequence[int], told: str) -> None:
    tree = Tree.with_root(9)
    tree.add(tree.add(ROOT, 5, -0.1), 6, -0.2)
    checked = CheckedPolicy("misbehaving", Misbehaving(max_nodes=1, reranks=True, rerank=lambda _: nodes))
    with pytest.raises(PolicyError, match=told):
        checked.rerank(tree)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"max_nodes": 0}, "has max_nodes 0, which should be a whole number from 1 to 4096"),
        ({"max_nodes": 10**6}, "has max_nodes 1000000"),
        ({"depth": 2.5}, r"has depth 2\.5"),
        ({"depth": -1}, "has depth -1"),
    ],
)
def test_bounds_that_no_cache_has_room_for_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(PolicyError, match=told):
        CheckedPolicy("misbehaving", Misbehaving(**changes))


@pytest.mark.parametrize("branch", [0, -1, 1.5, True])
def test_a_number_of_children_that_cannot_be_proposed_is_refused(branch: Any) -> None:
    with pytest.raises(PolicyError, match="has branch"):
        CheckedPolicy("misbehaving", Misbehaving(branch=lambda _: branch)).branch(1)


@pytest.mark.parametrize(
    "policy",
    [
        TopBranches(depth=3, branches=3, root_branches=2, threshold=0.01, max_nodes=9),
        BestFirst(depth=3, width=3, max_nodes=5),
    ],
    ids=lambda policy: type(policy).__name__,
)
def test_dyna_evals_own_policies_keep_the_promises_and_decode_the_same_when_checked(
    policy: GrowthPolicy,
) -> None:
    target, draft = tiny_gpt_neox(seed=0), tiny_gpt_neox(seed=1)
    engine = decoder(target, draft)
    runs = [
        engine.decode((17, 5, 250), GenerationSpec(max_new_tokens=16), one, seed="0:0")
        for one in (policy, CheckedPolicy("same", policy))
    ]
    shapes = [[(r.drafted, r.verified, r.accepted, r.capped) for r in run.rounds] for run in runs]
    assert runs[0].token_ids == runs[1].token_ids
    assert shapes[0] == shapes[1]
