"""Every method emits exactly what the target alone emits."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest
import torch
from dyna_eval_workers.decoding import Decoded, idle_clock
from dyna_eval_workers.drafting import Drafting, PromptLookup
from dyna_eval_workers.growth import GrowthPolicy
from dyna_eval_workers.growth.cost_aware import CostAware
from dyna_eval_workers.growth.trees import BestFirst, DynaTree, StaticTree, TopBranches
from dyna_eval_workers.tree import Tree

from dyna_eval.errors import DecodingError
from dyna_eval.jobs import GenerationSpec
from dyna_eval.measurements import Calibration
from dyna_eval.topology import Topology
from tests.models import SUPPORTED, VOCABULARY, near, tiny_gpt_neox, tiny_llama, tiny_model
from tests.runners import RUNNERS, decoder

PROMPT = (17, 5, 250, 31, 8)
CHEAP_DRAFT = Calibration(draft_seconds=((1, 1e-4), (16, 2e-4)), verify_seconds=((1, 1e-3), (64, 2e-3)))


def dynatree(**changes: Any) -> DynaTree:
    settings: dict[str, Any] = {
        "depth_target": 3,
        "max_depth": 6,
        "branch_min": 1,
        "branch_mid": 2,
        "branch_max": 3,
        "confidence_high": 0.9,
        "confidence_low": 0.4,
        "stop_probability": 0.01,
        "deep_probability": 0.2,
        "history_window": 4,
        "history_target": 0.6,
        "history_step": 0.05,
        "max_nodes": 40,
        "branch_phase": True,
        "depth_phase": True,
        "history_phase": True,
    }
    return DynaTree(**(settings | changes))


POLICIES: dict[str, Drafting] = {
    "linear": TopBranches(depth=6, branches=1, root_branches=1, threshold=0.0, max_nodes=6),
    "full tree": TopBranches(depth=4, branches=3, root_branches=3, threshold=0.0, max_nodes=120),
    "pruned tree": TopBranches(depth=5, branches=2, root_branches=2, threshold=0.02, max_nodes=62),
    "pruned by expansion": TopBranches(
        depth=5, branches=2, root_branches=2, threshold=0.2, max_nodes=62, drop_pruned=False
    ),
    "capped tree": TopBranches(depth=5, branches=3, root_branches=2, threshold=0.0, max_nodes=9),
    "one root branch": TopBranches(depth=3, branches=4, root_branches=1, threshold=0.0, max_nodes=100),
    "static tree": StaticTree(Topology.of_paths([(0,), (1,), (4,), (0, 0), (0, 2), (4, 1), (0, 0, 0)])),
    "best first": BestFirst(depth=5, width=3, max_nodes=12),
    "dynatree": dynatree(),
    "dynatree without phases": dynatree(branch_phase=False, depth_phase=False, history_phase=False),
    "cost aware": CostAware(depth=8, width=4, max_nodes=24, calibration=CHEAP_DRAFT),
    "prompt lookup": PromptLookup(k=5, ngram=2),
}
MAKERS: dict[str, Callable[..., Any]] = {"gpt_neox": tiny_gpt_neox, "llama": tiny_llama}


@pytest.fixture(params=RUNNERS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=MAKERS)
def target(request: pytest.FixtureRequest) -> Any:
    return MAKERS[request.param](seed=1)


@functools.cache
def drafts(target: Any) -> dict[str, Any]:
    """Friendly and hostile drafts: a stranger, the target itself, and one that knows nothing."""
    maker = tiny_llama if target.config.model_type == "llama" else tiny_gpt_neox
    uniform = maker(seed=3, layers=1)
    with torch.no_grad():
        for parameter in uniform.parameters():
            parameter.zero_()
    return {"stranger": maker(seed=2, hidden=16, layers=1), "the target itself": target, "uniform": uniform}


@functools.cache
def tokens_of_eager_ar(target: Any, generation: GenerationSpec, seed: str) -> tuple[int, ...]:
    """Return what the target alone writes after the prompt."""
    return decoder(target, None).decode(PROMPT, generation, None, seed=seed).token_ids


def test_ar_is_what_generate_writes(target: Any, backend: str) -> None:
    generated = target.generate(
        torch.tensor([PROMPT]), max_new_tokens=40, min_new_tokens=40, do_sample=False, pad_token_id=0
    )
    # min_new_tokens forbids the end token, so the two can differ only if the target ever wants to stop.
    ours = decoder(target, None, backend=backend).decode(
        PROMPT, GenerationSpec(max_new_tokens=40), None, seed="0"
    )
    assert 0 not in ours.token_ids
    assert ours.token_ids == tuple(generated[0, len(PROMPT) :].tolist())


@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0, 1.5])
@pytest.mark.parametrize("policy", POLICIES)
def test_every_tree_emits_the_tokens_of_ar(
    target: Any, policy: str, temperature: float, backend: str
) -> None:
    """With the kernels too, whose AR is the eager one's: the same tokens from either."""
    generation = GenerationSpec(max_new_tokens=24, temperature=temperature)
    expected = tokens_of_eager_ar(target, generation, "7")
    for name, draft in drafts(target).items():
        decoded = decoder(target, draft, backend=backend).decode(
            PROMPT, generation, POLICIES[policy], seed="7"
        )
        assert decoded.token_ids == expected, name
        check_invariants(decoded, POLICIES[policy])


@pytest.mark.parametrize("kind", SUPPORTED)
def test_every_method_is_exact_on_every_supported_architecture(kind: str, backend: str) -> None:
    """Greedy and sampled, with a draft near its target: some of what it proposes is taken, some is not."""
    target = tiny_model(kind, seed=1)
    pair = decoder(target, near(target, noise=0.2), backend=backend)
    accepted, rejected = Counter[str](), Counter[str]()
    for temperature in (0.0, 1.0):
        generation = GenerationSpec(max_new_tokens=20, temperature=temperature)
        reference = decoder(target, None).decode(PROMPT, generation, None, seed="3")
        for name, policy in POLICIES.items():
            decoded = pair.decode(PROMPT, generation, policy, seed="3")
            assert decoded.token_ids == reference.token_ids, (name, temperature)
            accepted[name] += sum(r.accepted for r in decoded.rounds)
            rejected[name] += sum(r.depth - r.accepted for r in decoded.rounds)
    assert min(accepted.values()) > 0, accepted
    assert rejected.total() > 0


def check_invariants(decoded: Decoded, policy: Drafting) -> None:
    depth, nodes = (
        (policy.depth, policy.max_nodes) if isinstance(policy, GrowthPolicy) else (policy.k, policy.k)
    )
    assert sum(r.emitted for r in decoded.rounds) == len(decoded.token_ids)
    for r in decoded.rounds:
        assert 0 <= r.accepted <= r.depth <= depth
        assert r.verified <= min(nodes, r.drafted)
        assert r.emitted == r.accepted + 1
        assert r.draft_steps <= depth
    rounds = len(decoded.rounds)
    marginal = [sum(r.accepted >= d for r in decoded.rounds) / rounds for d in range(1, depth + 1)]
    assert 1 + sum(marginal) == pytest.approx(len(decoded.token_ids) / rounds)


def test_a_draft_that_is_the_target_is_always_accepted(target: Any) -> None:
    decoded = decoder(target, target).decode(
        PROMPT, GenerationSpec(max_new_tokens=21), POLICIES["linear"], seed="0"
    )
    assert [r.accepted for r in decoded.rounds] == [6, 6, 6]
    assert [r.draft_steps for r in decoded.rounds] == [6, 6, 6]
    assert [r.draft_rows for r in decoded.rounds] == [6, 7, 7], "the last accepted token was not read yet"
    assert decoded.traces == (), "none was asked for"


def test_an_unpruned_tree_has_all_its_nodes(target: Any) -> None:
    policy = TopBranches(depth=7, branches=2, root_branches=2, threshold=0.0, max_nodes=254)
    decoded = decoder(target, drafts(target)["stranger"]).decode(
        PROMPT, GenerationSpec(max_new_tokens=12), policy, seed="0"
    )
    assert decoded.rounds[0].verified == 254
    assert not decoded.rounds[0].capped


def test_a_binding_cap_is_noted(target: Any) -> None:
    decoded = decoder(target, drafts(target)["stranger"]).decode(
        PROMPT, GenerationSpec(max_new_tokens=12), POLICIES["capped tree"], seed="0"
    )
    assert decoded.rounds[0].capped
    assert decoded.rounds[0].verified == 9


@pytest.mark.parametrize(
    ("max_nodes", "steps", "drafted"),
    [(6, 2, 6), (7, 3, 14), (14, 3, 14)],
    ids=["full before a level", "full within a level", "full with the last level"],
)
def test_a_full_tree_takes_no_further_step(target: Any, max_nodes: int, steps: int, drafted: int) -> None:
    """And the cap is noted where it kept nodes out: those of a whole level, or some of one."""
    policy = TopBranches(depth=3, branches=2, root_branches=2, threshold=0.0, max_nodes=max_nodes)
    decoded = decoder(target, drafts(target)["stranger"]).decode(
        PROMPT, GenerationSpec(max_new_tokens=12), policy, seed="0"
    )
    first = decoded.rounds[0]
    assert (first.draft_steps, first.drafted, first.verified) == (steps, drafted, max_nodes)
    assert first.capped == (max_nodes < 14)


def test_a_tree_that_is_chosen_from_grows_beyond_its_cap(target: Any) -> None:
    decoded = decoder(target, drafts(target)["stranger"]).decode(
        PROMPT, GenerationSpec(max_new_tokens=12), BestFirst(depth=3, width=3, max_nodes=4), seed="0"
    )
    first = decoded.rounds[0]
    assert (first.draft_steps, first.drafted, first.verified, first.capped) == (3, 3 + 9 + 9, 4, False)


@pytest.mark.parametrize(("max_nodes", "capped"), [(2, True), (4096, False)])
def test_a_cap_on_what_pays_is_noted(target: Any, max_nodes: int, capped: bool) -> None:
    """The draft is the target and costs nothing, so all that may still be emitted is worth verifying."""
    free = Calibration(draft_seconds=((1, 0.0),), verify_seconds=((1, 1.0), (64, 1.0)))
    policy = CostAware(depth=4, width=2, max_nodes=max_nodes, calibration=free)
    decoded = decoder(target, target).decode(PROMPT, GenerationSpec(max_new_tokens=12), policy, seed="0")
    first = decoded.rounds[0]
    assert first.capped == capped
    assert first.verified == (2 if capped else first.drafted)


def test_a_threshold_no_child_reaches_leaves_the_pending_token_alone(target: Any) -> None:
    policy = TopBranches(depth=3, branches=2, root_branches=2, threshold=0.999999, max_nodes=14)
    decoded = decoder(target, drafts(target)["uniform"]).decode(
        PROMPT, GenerationSpec(max_new_tokens=6), policy, seed="0"
    )
    assert [r.verified for r in decoded.rounds] == [0] * 6


def test_a_prompt_of_one_token_and_k_beyond_what_is_left(target: Any) -> None:
    generation = GenerationSpec(max_new_tokens=3)
    reference = decoder(target, None).decode((9,), generation, None, seed="0")
    policy = TopBranches(depth=10, branches=1, root_branches=1, threshold=0.0, max_nodes=10)
    decoded = decoder(target, target).decode((9,), generation, policy, seed="0")
    assert decoded.token_ids == reference.token_ids
    assert [r.drafted for r in decoded.rounds] == [2]


def test_decoding_stops_at_an_end_token_inside_an_accepted_path(target: Any) -> None:
    """The end token is one that the target emits early, and the draft is the target, so it is mid-path."""
    free = decoder(target, None).decode(PROMPT, GenerationSpec(max_new_tokens=24), None, seed="0")
    end = free.token_ids[3]
    stop = free.token_ids.index(end) + 1
    generation = GenerationSpec(max_new_tokens=24, stop_at_eos=True)
    for policy in (None, POLICIES["linear"], POLICIES["full tree"]):
        decoded = decoder(target, target, end_tokens=[end]).decode(PROMPT, generation, policy, seed="0")
        assert decoded.token_ids == free.token_ids[:stop]
        assert sum(r.emitted for r in decoded.rounds) == stop


def test_decoding_stops_at_the_first_of_several_end_tokens(target: Any) -> None:
    free = decoder(target, None).decode(PROMPT, GenerationSpec(max_new_tokens=24), None, seed="0").token_ids
    _, early, _, late, *_ = dict.fromkeys(free)
    stop = free.index(early) + 1
    generation = GenerationSpec(max_new_tokens=24, stop_at_eos=True)
    for policy in (None, POLICIES["linear"], POLICIES["full tree"]):
        ours = decoder(target, target, end_tokens=[late, early])
        assert ours.decode(PROMPT, generation, policy, seed="0").token_ids == free[:stop]


class Listener(BestFirst):
    """Notes what it hears: that a prompt starts, or the tokens of an accepted path behind the pending one."""

    heard: ClassVar[list[list[int] | None]] = []

    def reset(self) -> None:
        self.heard.append(None)

    def learn(self, tree: Tree, path: Sequence[int]) -> None:
        self.heard.append([tree.token[node] for node in path[1:]])


def test_a_policy_hears_of_every_prompt_and_of_what_counts_of_every_path(target: Any) -> None:
    """The draft is the target, so all levels are accepted; in the last round not beyond the end token."""
    free = decoder(target, None).decode(PROMPT, GenerationSpec(max_new_tokens=24), None, seed="0").token_ids
    end = next(token for place, token in enumerate(free) if place >= 5 and free.index(token) == place)
    stop = free.index(end) + 1
    Listener.heard.clear()
    decoded = decoder(target, target, end_tokens=[end]).decode(
        PROMPT,
        GenerationSpec(max_new_tokens=24, stop_at_eos=True),
        Listener(depth=3, width=2, max_nodes=9),
        seed="0",
    )
    assert decoded.token_ids == free[:stop]
    begun, *paths = Listener.heard
    assert begun is None
    starts = [sum(r.emitted for r in decoded.rounds[:place]) for place in range(len(decoded.rounds))]
    expected = zip(starts, decoded.rounds, strict=True)
    assert paths == [list(free[start : start + r.accepted]) for start, r in expected]
    assert all(r.accepted == 3 for r in decoded.rounds[:-1])


def test_one_decoder_gives_the_same_tokens_whatever_it_decoded_before(target: Any) -> None:
    used = decoder(target, drafts(target)["stranger"])
    generation = GenerationSpec(max_new_tokens=16)
    first = used.decode(PROMPT, generation, POLICIES["pruned tree"], seed="0")
    used.decode(tuple(range(1, 40)), generation, POLICIES["full tree"], seed="5")
    assert used.decode(PROMPT, generation, POLICIES["pruned tree"], seed="0").token_ids == first.token_ids


def test_phase_times_are_known_in_every_round_and_fit_into_the_decode_time(target: Any) -> None:
    decoded = decoder(target, target).decode(
        PROMPT, GenerationSpec(max_new_tokens=15), POLICIES["linear"], seed="0"
    )
    phases = [(r.draft_seconds, r.verify_seconds) for r in decoded.rounds]
    assert len(phases) == 3  # the last one has a single token left, and drafts none
    assert all(draft is not None and verify is not None for draft, verify in phases)
    assert sum((draft or 0) + (verify or 0) for draft, verify in phases) <= decoded.decode_seconds
    assert 0 < decoded.ttft_seconds <= decoded.prefill_seconds + decoded.decode_seconds


def test_phase_times_do_not_wait_for_the_device(target: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for as often in many rounds as in few: around the prefill, and at the end."""
    waits = 0

    def waiting(device: torch.device) -> float:
        nonlocal waits
        waits += 1
        return idle_clock(device)

    monkeypatch.setattr("dyna_eval_workers.decoding.idle_clock", waiting)
    monkeypatch.setattr("torch.cuda.synchronize", waiting)
    pair, counts = decoder(target, target), []
    for tokens in (1, 40):
        waits = 0
        decoded = pair.decode(PROMPT, GenerationSpec(max_new_tokens=tokens), POLICIES["linear"], seed="0")
        counts.append((len(decoded.rounds), waits))
    assert counts == [(1, 3), (6, 3)]


@pytest.fixture
def spend(monkeypatch: pytest.MonkeyPatch) -> Callable[[object, str, float], None]:
    """The engine's clock stands still, but for what a test lets calls of a method take."""
    now = 50.0
    monkeypatch.setattr("dyna_eval_workers.decoding._clock", lambda: now)

    def spend(owner: object, method: str, seconds: float) -> None:
        whole = getattr(owner, method)

        def spending(*arguments: Any, **options: Any) -> Any:
            nonlocal now
            now += seconds
            return whole(*arguments, **options)

        monkeypatch.setattr(owner, method, spending)

    return spend


def test_every_phase_is_given_the_time_that_it_took(
    target: Any, spend: Callable[[object, str, float], None]
) -> None:
    """Two rounds of a draft that is the target: 2 draft steps, 2 choices of the policy, a pass, a keep.

    What the policy learns of the outcome is its growth too, not the walk's. In the last round a single token
    is left, and none is drafted.
    """
    pair = decoder(target, target)
    assert pair.draft is not None
    spend(pair.target, "prefill", 1000.0)
    spend(pair.draft, "prefill", 100.0)
    spend(pair.draft, "top_k", 2.0)
    spend(TopBranches, "select", 3.0)
    spend(TopBranches, "learn", 5.0)
    spend(pair.target, "choose", 10.0)
    spend(pair.target, "keep", 1.0)
    policy = TopBranches(depth=2, branches=1, root_branches=1, threshold=0.0, max_nodes=2)
    decoded = pair.decode(PROMPT, GenerationSpec(max_new_tokens=7), policy, seed="0")
    phases = [(r.draft_seconds, r.grow_seconds, r.verify_seconds, r.walk_seconds) for r in decoded.rounds]
    assert phases == [(4.0, 11.0, 10.0, 1.0), (4.0, 11.0, 10.0, 1.0), (0.0, 5.0, 10.0, 1.0)]
    assert (decoded.prefill_seconds, decoded.ttft_seconds, decoded.decode_seconds) == (1100.0, 1126.0, 68.0)


def test_a_lookup_is_growth_without_a_draft(target: Any, spend: Callable[[object, str, float], None]) -> None:
    pair = decoder(target, None)
    spend(PromptLookup, "propose", 3.0)
    spend(pair.target, "choose", 10.0)
    decoded = pair.decode(PROMPT, GenerationSpec(max_new_tokens=2), POLICIES["prompt lookup"], seed="0")
    first = decoded.rounds[0]
    assert (first.draft_seconds, first.grow_seconds, first.verify_seconds) == (None, 3.0, 10.0)


def test_ar_has_no_draft_time(target: Any) -> None:
    decoded = decoder(target, None).decode(PROMPT, GenerationSpec(max_new_tokens=3), None, seed="0")
    assert [(r.draft_seconds, r.grow_seconds, r.drafted, r.emitted) for r in decoded.rounds] == [
        (None, None, 0, 1)
    ] * 3


def test_prompt_lookup_needs_no_draft_and_finds_what_repeats() -> None:
    """A target that says one token for ever repeats itself, so all lookups but the first ones hit."""
    loop = tiny_gpt_neox(seed=3, layers=1)
    with torch.no_grad():
        for parameter in loop.parameters():
            parameter.zero_()
    decoded = decoder(loop, None).decode(
        (7, 7), GenerationSpec(max_new_tokens=20), PromptLookup(k=4, ngram=2), seed="0"
    )
    assert set(decoded.token_ids) == {0}
    assert max(r.accepted for r in decoded.rounds) == 4
    assert all(r.draft_steps == 0 and r.draft_seconds is None for r in decoded.rounds)
    assert all(r.drafted == r.verified == r.depth for r in decoded.rounds), (
        "a chain, of which all is verified"
    )


def test_another_seed_samples_other_tokens(target: Any) -> None:
    generation = GenerationSpec(max_new_tokens=24, temperature=1.0)
    texts = {decoder(target, None).decode(PROMPT, generation, None, seed=seed).token_ids for seed in "abc"}
    assert len(texts) == 3


def test_a_draft_never_proposes_ids_beyond_the_tokenizer(target: Any) -> None:
    """Padded vocabularies: the draft proposes among the tokenizer's ids, the target chooses among all."""
    generation = GenerationSpec(max_new_tokens=16)
    reference = decoder(target, None).decode(PROMPT, generation, None, seed="0")
    padded = decoder(target, drafts(target)["stranger"], vocabulary=100)
    assert padded.decode(PROMPT, generation, POLICIES["full tree"], seed="0").token_ids == reference.token_ids


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("size", [100, VOCABULARY + 20])
def test_a_draft_may_have_fewer_or_more_ids_than_the_target(
    size: int, temperature: float, backend: str
) -> None:
    """Vocabularies are padded by size of model: what the target emits need not be an id of the draft."""
    target, draft = tiny_gpt_neox(seed=1), tiny_gpt_neox(seed=2, vocabulary=size)
    pair = decoder(target, draft, backend=backend, vocabulary=90)
    generation = GenerationSpec(max_new_tokens=24, temperature=temperature)
    reference = pair.decode(PROMPT, generation, None, seed="0")
    assert max(reference.token_ids) >= 100
    for name in ("linear", "full tree", "best first"):
        decoded = pair.decode(PROMPT, generation, POLICIES[name], seed="0")
        assert decoded.token_ids == reference.token_ids, name


def test_a_speculative_method_without_a_draft_is_refused(target: Any) -> None:
    with pytest.raises(DecodingError, match="needs a draft"):
        decoder(target, None).decode(PROMPT, GenerationSpec(max_new_tokens=2), POLICIES["linear"], seed="0")


def test_a_draft_that_cannot_pay_is_not_asked(target: Any, backend: str) -> None:
    """A cost-aware tree is then AR, round by round."""
    slow = Calibration(draft_seconds=((1, 2.0),), verify_seconds=((1, 1.0), (64, 1.0)))
    pair = decoder(target, drafts(target)["stranger"], backend=backend)
    policy = CostAware(depth=8, width=4, max_nodes=24, calibration=slow)
    generation = GenerationSpec(max_new_tokens=8)
    decoded = pair.decode(PROMPT, generation, policy, seed="0")
    assert decoded.token_ids == pair.decode(PROMPT, generation, None, seed="0").token_ids
    assert [(r.draft_steps, r.drafted, r.verified, r.emitted) for r in decoded.rounds] == [(0, 0, 0, 1)] * 8
