#!/usr/bin/env python3
"""The decoding engine against transformers' own loops and against what the machine allows; ratios of one run.

    python benchmarks/engine.py --out benchmarks/engine-cpu.json        about 13 minutes on 2 cores
    python benchmarks/engine.py --quick                                 a look, in 3 minutes
    python benchmarks/engine.py --prompts 3 --repeats 2 --out benchmarks/engine-gpu.json        on a GPU

Nothing else may run beside it. Every contender decodes the same prompts in the same process, and all take
turns prompt by prompt, so that a disturbance hits them alike. Throughput is the mean over prompts of tokens
per second of decoding, prefill apart, as in reports. Peers run with their best settings. On a machine with a
GPU other parts run: a random model of Pythia-2.8B's shape, and the demo pair enlarged to about the cost of
Pythia-2.8B and 70M; our passes are fused kernels in CUDA graphs there, and
transformers' passes, captured and eager, stand beside them. What is measured is
written part by part, so that a part that fails takes nothing with it.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
import transformers
from dyna_eval_workers import collector
from dyna_eval_workers.calibration import calibrate
from dyna_eval_workers.cudagraph import GraphRunner
from dyna_eval_workers.decoding import Decoded, Decoder, idle_clock
from dyna_eval_workers.drafting import drafting_for
from dyna_eval_workers.enlarged import enlarge
from dyna_eval_workers.environment import capture_environment
from dyna_eval_workers.fused.runner import FusedRunner
from dyna_eval_workers.loading import load_pair
from dyna_eval_workers.model_files import demo_folder
from dyna_eval_workers.native.runner import NativeRunner
from dyna_eval_workers.pairs import available_device, inspect_pair
from dyna_eval_workers.peers import PeerDecoder
from dyna_eval_workers.prompts import load_prompts
from dyna_eval_workers.runner import TorchRunner
from transformers import AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM

from dyna_eval.errors import first_line
from dyna_eval.jobs import Backend, Configuration, GenerationSpec, Method, PairSpec, Params, PromptSpec
from dyna_eval.measurements import Calibration
from dyna_eval.methods import METHODS

Loop = Callable[[Sequence[int]], Decoded]
SPLIT = "test[8:]"  # prompts that the four-step example does not report
MAX_PROMPT = 64
ROWS = 512  # that sequences of all parts fit into

PYTHIA_2_8B = {
    "hidden_size": 2560,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "intermediate_size": 10240,
    "vocab_size": 50304,
    "max_position_embeddings": 2048,
}
ENLARGED = {"target": {"width": 8, "layers": 38}, "draft": {"width": 4, "layers": 6}}
"""2.8 B parameters, and the width and depth of Pythia-70M, whose output layer is larger."""


def configuration(label: str, method: Method, **params: Any) -> Configuration:
    resolved: Params = METHODS[method](**params).resolved()
    return Configuration(label=label, method=method, params=resolved)


LINEAR = [configuration(f"linear K={k}", Method.LINEAR, k=k) for k in range(2, 11)]
TREES = [
    configuration(f"tree D={d} B={b} tau={tau}", Method.TREE, depth=d, branch=b, threshold=tau)
    for d in (4, 5, 6, 7, 8)
    for b in (2, 3)
    for tau in (0.01, 0.03, 0.1)
]
SWEEP = [*LINEAR, *TREES]  # with AR a sweep of 40 points
UNTUNED = [
    configuration("cost_aware", Method.COST_AWARE),
    configuration("best_first", Method.BEST_FIRST),
    configuration("dynatree", Method.DYNATREE),
    configuration("prompt_lookup K=6", Method.PROMPT_LOOKUP, k=6),
]
AR = configuration("AR", Method.AR)
SAMPLED_ROWS = [AR, configuration("linear K=6", Method.LINEAR, k=6)]
SAMPLED = " at temperature 1"
PEERS = [
    configuration("generate, dynamic cache", Method.HF_GENERATE, cache="dynamic"),
    configuration("generate, static cache, compiled", Method.HF_GENERATE, cache="static"),
    configuration(
        "assisted, constant K=6", Method.HF_ASSISTED, num_assistant_tokens=6, confidence_threshold=0.0
    ),
    configuration(
        "assisted, heuristic schedule",
        Method.HF_ASSISTED,
        num_assistant_tokens=5,
        schedule="heuristic",
        confidence_threshold=0.0,
    ),
]


# -------------------------------------------------------------------------- measuring


def take_turns(
    loops: dict[str, Loop], prompts: Sequence[Sequence[int]], *, repeats: int
) -> dict[str, dict[str, Any]]:
    """Let all contenders decode every prompt in turn, in a new random order each; return their figures."""
    decoded: dict[str, list[list[Decoded]]] = {name: [] for name in loops}
    order = random.Random(0)
    for loop in loops.values():
        loop(prompts[0])  # warm-up
    for repeat in range(repeats):
        for runs in decoded.values():
            runs.append([])
        for prompt in prompts:
            for name in order.sample(list(loops), k=len(loops)):
                with collector.paused():
                    decoded[name][-1].append(loops[name](prompt))
        print(f"  repeat {repeat + 1} of {repeats}", file=sys.stderr, flush=True)
    return {name: figures(runs) for name, runs in decoded.items()}


def figures(runs: list[list[Decoded]]) -> dict[str, Any]:
    """Return throughput, acceptance length and shares of decode time over all runs of a contender."""
    by_prompt = list(zip(*runs, strict=True))
    everything = [decoded for run in runs for decoded in run]
    rounds = [round_ for decoded in everything for round_ in decoded.rounds]
    seconds = sum(decoded.decode_seconds for decoded in everything)
    phases = {
        f"{phase}_share": sum(getattr(r, f"{phase}_seconds") or 0.0 for r in rounds) / seconds
        for phase in ("draft", "grow", "verify", "walk")
        if rounds and getattr(rounds[0], f"{phase}_seconds") is not None
    }
    if "verify_share" in phases:
        phases["host_share"] = 1 - phases.get("draft_share", 0.0) - phases["verify_share"]
    return {
        "tokens_per_s": fmean(
            sum(len(d.token_ids) for d in same) / sum(d.decode_seconds for d in same) for same in by_prompt
        ),
        "by_repeat": [fmean(len(d.token_ids) / d.decode_seconds for d in run) for run in runs],
        "tokens_per_round": sum(len(d.token_ids) for d in everything) / len(rounds) if rounds else None,
        "verified_nodes": fmean(r.verified for r in rounds) if rounds else None,
        **phases,
        "tokens": [list(decoded.token_ids) for decoded in runs[0]],
    }


def with_ratios(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Add each contender's speed as a multiple of our AR's, and the share of prompts with its very tokens.

    Those of a sampled contender are compared with what AR draws.
    """
    for name, own in found.items():
        texts = found[f"AR{SAMPLED}" if name.endswith(SAMPLED) else "AR"]["tokens"]
        own["over_ar"] = own["tokens_per_s"] / found["AR"]["tokens_per_s"]
        own["exact"] = fmean(a == b for a, b in zip(own["tokens"], texts, strict=True))
    for own in found.values():
        del own["tokens"]
    return found


def copy_bandwidth(size: int, device: torch.device) -> float:
    """Return bytes per second, read and written, of copies of `size` bytes; the best of several."""
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = 0.0
    for _ in range(20):
        started = idle_clock(device)
        target.copy_(source)
        best = max(best, 2 * size / (idle_clock(device) - started))
    return best


# -------------------------------------------------------------------------- contenders


def our_loops(
    decoder: Decoder, calibration: Calibration, wanted: Sequence[Configuration], generation: GenerationSpec
) -> dict[str, Loop]:
    """Return the loops of methods on a decoder, which is made ready for the largest of their trees.

    Its caches then never grow, for that would drop graphs, which measured passes would have to capture again.
    """
    drafting = {row.label: drafting_for(row, calibration) for row in wanted}
    speculative = [own for own in drafting.values() if own is not None]
    decoder.prepare(
        ROWS,
        max_rows=max(own.max_rows for own in speculative),
        branch=max(own.max_branch for own in speculative),
    )
    return {
        label: partial(decoder.decode, generation=generation, drafting=own, seed="0")
        for label, own in drafting.items()
    }


def plain_loop(decoder: Decoder, generation: GenerationSpec) -> Loop:
    return partial(decoder.decode, generation=generation, drafting=None, seed="0")


def sampled_loops(
    decoder: Decoder, rows: Sequence[Configuration], generation: GenerationSpec
) -> dict[str, Loop]:
    sampled = replace(generation, temperature=1.0)
    return {
        f"{row.label}{SAMPLED}": partial(
            decoder.decode, generation=sampled, drafting=drafting_for(row), seed="0"
        )
        for row in rows
    }


def peer_loops(
    models: Callable[[Configuration], tuple[Any, Any | None]],
    wanted: Sequence[Configuration],
    generation: GenerationSpec,
    *,
    vocabulary: int,
    end_tokens: Sequence[int] = (),
) -> dict[str, Loop]:
    loops: dict[str, Loop] = {}
    for row in wanted:
        peer = PeerDecoder(*models(row), vocabulary=vocabulary, end_tokens=end_tokens)
        peer.warm_up(row, tokens=MAX_PROMPT + generation.max_new_tokens)
        loops[row.label] = partial(peer.decode, generation=generation, configuration=row, seed="0")
    return loops


def pair_part(
    spec: PairSpec, settings: argparse.Namespace, *, peers: Sequence[Configuration]
) -> dict[str, Any]:
    """Measure all contenders on one pair, on a CPU."""
    device = torch.device("cpu")
    pair = load_pair(inspect_pair(spec, device="cpu").pair, device)
    eager = load_pair(inspect_pair(spec, device="cpu", backend=Backend.EAGER).pair, device)
    generation = GenerationSpec(max_new_tokens=settings.tokens)
    return contest(
        pair.decoder,
        {"AR, eager backend": eager.decoder},
        peer_loops(
            pair.peer_models,
            peers,
            generation,
            vocabulary=len(pair.tokenizer),
            end_tokens=pair.pair.end_tokens,
        ),
        settings,
        positions=pair.position_limit,
        read=bytes_read(pair.peer_models(AR)[0], settings),
    )


def contest(
    decoder: Decoder,
    others: dict[str, Decoder],
    peers: dict[str, Loop],
    settings: argparse.Namespace,
    *,
    positions: int | None,
    read: int,
) -> dict[str, Any]:
    """Measure all methods with one decoder, two of them also sampled, and their peers.

    AR is measured with the other decoders too.
    """
    generation = GenerationSpec(max_new_tokens=settings.tokens)
    before = calibrate(decoder, position_limit=positions)
    loops = our_loops(decoder, before, [AR, *SWEEP, *UNTUNED], generation) | peers
    loops |= sampled_loops(decoder, SAMPLED_ROWS, generation)
    loops |= {name: plain_loop(other, generation) for name, other in others.items()}
    found = with_ratios(take_turns(loops, demo_prompts(settings), repeats=settings.repeats))
    return {
        "dtype": str(decoder.target.dtype).removeprefix("torch."),
        "backend": decoder.target.backend,
        "contenders": found,
        "ratios": ratios(found),
        "bandwidth": bandwidth(read, found["AR"]["tokens_per_s"], decoder.target.device),
        "calibration": {
            "before": milliseconds(before),
            "after": milliseconds(calibrate(decoder, position_limit=positions)),
        },
    }


def milliseconds(calibration: Calibration) -> dict[str, dict[int, float]]:
    """Return what passes of up to 16 tokens cost; `cost_aware` goes by what they did before the contest."""
    costs = {"draft": calibration.draft_seconds, "verify": calibration.verify_seconds}
    return {
        model: {size: round(1000 * seconds, 4) for size, seconds in points if size <= 16}
        for model, points in costs.items()
    }


def ratios(found: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    """Return the ratios that the goals speak of; None where a contender was left out."""
    speed = {name: own["tokens_per_s"] for name, own in found.items()}
    best_linear = max(speed[row.label] for row in LINEAR)
    best_tree = max(speed[row.label] for row in TREES)
    best_fixed = max(best_linear, best_tree)
    best = max(best_fixed, *(speed[row.label] for row in UNTUNED))

    def over(name: str, peer: str) -> float | None:
        return speed[name] / speed[peer] if peer in speed else None

    return {
        "AR / generate, dynamic cache": over("AR", "generate, dynamic cache"),
        "AR / generate, static cache, compiled": over("AR", "generate, static cache, compiled"),
        "linear K=6 / assisted, constant K=6": over("linear K=6", "assisted, constant K=6"),
        "best speculation / AR": best / speed["AR"],
        "best speculation / generate, dynamic cache": best / speed["generate, dynamic cache"]
        if "generate, dynamic cache" in speed
        else None,
        "best pruned tree / best linear": best_tree / best_linear,
        "cost_aware / best fixed configuration": speed["cost_aware"] / best_fixed,
        **chosen_beforehand(found),
        "AR at temperature 1 / AR": speed[f"AR{SAMPLED}"] / speed["AR"],
        "host share of AR": found["AR"]["host_share"],
        "host share of linear K=6": found["linear K=6"]["host_share"],
        "host share of tree D=7 B=2 tau=0.03": found["tree D=7 B=2 tau=0.03"]["host_share"],
    }


def chosen_beforehand(found: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Return the ratios to a best row that is chosen by the other repeats.

    The highest of forty noisy figures is too high by the luck that chose it; what the same row does in a
    repeat that had no say is not.
    """
    runs = {name: own["by_repeat"] for name, own in found.items()}
    repeats = len(runs["AR"])
    if repeats < 2:
        return {}

    def fair(rows: Sequence[Configuration]) -> float:
        """Return the mean speed, over repeats, of the row that is the fastest in all others."""
        names = [row.label for row in rows]
        return fmean(
            runs[max(names, key=lambda name: sum(runs[name]) - runs[name][left_out])][left_out]
            for left_out in range(repeats)
        )

    return {
        "best pruned tree / best linear, each chosen by the other repeats": fair(TREES) / fair(LINEAR),
        "cost_aware / best fixed configuration, chosen by the other repeats": fmean(runs["cost_aware"])
        / fair(SWEEP),
    }


def bandwidth(read: int, tokens_per_s: float, device: torch.device) -> dict[str, float]:
    """Compare AR with reading weights and cache once per token, at the speed of copies in the same run."""
    copied = copy_bandwidth(read, device)
    return {
        "bytes_per_token": read,
        "copy_bytes_per_s": copied,
        "copy_bytes_per_s_of_512_MiB": copy_bandwidth(2**29, device),
        "share_of_limit": tokens_per_s * read / copied,
    }


def bytes_read(model: Any, settings: argparse.Namespace) -> int:
    """Return the bytes of a model that a token reads, for models without grouped heads.

    They are all weights once, and the cache of the longest prompt and of half of what follows. Of an
    embedding that is not the output layer too, it is one row.
    """
    config = model.config.get_text_config()
    weights = {w.data_ptr(): w.numel() * w.element_size() for w in model.parameters()}
    embedding = model.get_input_embeddings().weight
    if embedding.data_ptr() != model.get_output_embeddings().weight.data_ptr():
        weights[embedding.data_ptr()] = embedding.shape[1] * embedding.element_size()
    row = 2 * config.num_hidden_layers * config.hidden_size * embedding.element_size()
    read: int = sum(weights.values()) + row * (MAX_PROMPT + settings.tokens // 2)
    return read


def demo_prompts(settings: argparse.Namespace) -> list[tuple[int, ...]]:
    tokenizer = AutoTokenizer.from_pretrained(demo_folder() / "target")
    spec = PromptSpec(dataset="demo", split=SPLIT, limit=settings.prompts, max_prompt_tokens=MAX_PROMPT)
    return [prompt.token_ids for prompt in load_prompts(spec, tokenizer).prompts]


# ------------------------------------------------------------------------ special parts


def long_generation(positions: int = 2304) -> dict[str, Any]:
    """Time AR steps at growing context, on a random model of the demo target's shape with more positions."""
    config = GPTNeoXConfig.from_pretrained(demo_folder() / "target", max_position_embeddings=positions)
    torch.manual_seed(0)
    runner = NativeRunner(GPTNeoXForCausalLM(config).to(torch.bfloat16).eval())
    decoder = Decoder(runner, None, vocabulary=config.vocab_size, end_tokens=())
    decoded = decoder.decode([1, 2, 3], GenerationSpec(max_new_tokens=2000), None, seed="0")
    steps = [r.verify_seconds or 0.0 for r in decoded.rounds]
    at = {n: median(steps[n - 50 : n]) for n in (100, 550, 1000, 1500, 2000)}
    return {
        "milliseconds_per_token_at": {n: 1000 * seconds for n, seconds in at.items()},
        "growth_of_second_half_over_first": (at[2000] - at[1000]) / (at[1000] - at[100]) * 900 / 1000,
    }


def large_random_model(settings: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """AR on a random model of Pythia-2.8B's shape in float16, on a GPU."""
    config = GPTNeoXConfig(**PYTHIA_2_8B, rotary_pct=0.25)
    torch.manual_seed(0)
    with torch.device(device):
        model = GPTNeoXForCausalLM(config).to(torch.float16).eval()
    generation = GenerationSpec(max_new_tokens=settings.tokens)
    decoder, others = decoders_on_gpu(model, None, vocabulary=config.vocab_size)
    loops = {name: plain_loop(own, generation) for name, own in ({"AR": decoder} | others).items()}
    loops |= sampled_loops(decoder, [AR], generation)
    loops |= peer_loops(lambda _: (model, None), PEERS[:2], generation, vocabulary=config.vocab_size)
    prompts = [list(range(start, start + MAX_PROMPT)) for start in range(100, 100 + settings.prompts)]
    found = with_ratios(take_turns(loops, prompts, repeats=settings.repeats))
    speed = {name: own["tokens_per_s"] for name, own in found.items()}
    return {
        "dtype": "float16",
        "backend": decoder.target.backend,
        "contenders": found,
        "ratios": {f"AR / {row.label}": speed["AR"] / speed[row.label] for row in PEERS[:2]}
        | {
            "AR at temperature 1 / AR": speed[f"AR{SAMPLED}"] / speed["AR"],
            "host share of AR": found["AR"]["host_share"],
        },
        "bandwidth": bandwidth(bytes_read(model, settings), speed["AR"], device),
    }


def enlarged_on_gpu(settings: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """All contenders on the demo pair enlarged to about the cost of Pythia-2.8B and 70M, in bfloat16."""
    models = {}
    for role, growth in ENLARGED.items():
        small = GPTNeoXForCausalLM.from_pretrained(
            demo_folder() / role, dtype=torch.bfloat16, attn_implementation="sdpa"
        ).to(device)
        with torch.device(device):
            models[role] = enlarge(small, **growth)
    target, draft = models["target"], models["draft"]
    tokenizer = AutoTokenizer.from_pretrained(demo_folder() / "target")
    vocabulary, end_tokens = len(tokenizer), [tokenizer.eos_token_id]
    generation = GenerationSpec(max_new_tokens=settings.tokens)
    found = contest(
        *decoders_on_gpu(target, draft, vocabulary=vocabulary, end_tokens=end_tokens),
        peer_loops(
            lambda _: (target, draft), PEERS, generation, vocabulary=vocabulary, end_tokens=end_tokens
        ),
        settings,
        positions=target.config.max_position_embeddings,
        read=bytes_read(target, settings),
    )
    return found | {
        "parameters": {role: sum(w.numel() for w in m.parameters()) for role, m in models.items()}
    }


def decoders_on_gpu(
    target: Any, draft: Any | None, *, vocabulary: int, end_tokens: Sequence[int] = ()
) -> tuple[Decoder, dict[str, Decoder]]:
    """Return a prepared decoder of our kernels, and those of transformers' passes, captured and eager."""

    def over(runner: type[TorchRunner]) -> Decoder:
        drafting = None if draft is None else runner(draft)
        return Decoder(runner(target), drafting, vocabulary=vocabulary, end_tokens=end_tokens)

    fused, graphs, eager = over(FusedRunner), over(GraphRunner), over(TorchRunner)
    for prepared in (fused, graphs):
        prepared.prepare(ROWS)
    return fused, {"AR, graphs of transformers' passes": graphs, "AR, eager backend": eager}


# -------------------------------------------------------------------------------- main


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="where to write the results as JSON")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--only", default="", help="run the parts whose names contain this alone")
    parser.add_argument("--quick", action="store_true", help="one repeat of three prompts")
    settings = parser.parse_args()
    if settings.quick:
        settings.repeats, settings.prompts = 1, 3
    device = torch.device(available_device())
    results: dict[str, Any] = {
        "command": " ".join(["python", "benchmarks/engine.py", *sys.argv[1:]]),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": dict(capture_environment(device, "").facts) | {"node": platform.machine()},
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "settings": {"repeats": settings.repeats, "prompts": settings.prompts, "tokens": settings.tokens},
        "parts": {},
    }
    for name, part in parts(device, settings).items():
        if settings.only not in name:
            continue
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            results["parts"][name] = part()
            show(name, results["parts"][name])
        except Exception as error:  # the other parts are worth having
            traceback.print_exc()
            results["parts"][name] = {"failed": first_line(error)}
        if settings.out is not None:
            settings.out.write_text(json.dumps(results, indent=1) + "\n")
    if any("failed" in part for part in results["parts"].values()):
        sys.exit(1)


def parts(device: torch.device, settings: argparse.Namespace) -> dict[str, Callable[[], dict[str, Any]]]:
    def demo(dtype: str) -> dict[str, Any]:
        spec = PairSpec(name="demo", target="demo", draft="demo", dtype=dtype)
        return pair_part(spec, settings, peers=PEERS)

    if device.type == "cuda":
        return {
            "random model of Pythia-2.8B's shape": partial(large_random_model, settings, device),
            "demo pair enlarged": partial(enlarged_on_gpu, settings, device),
        }
    large = PairSpec(name="demo-large", target="demo-large", draft="demo-large")
    dtype = inspect_pair(large, device="cpu").pair.dtype  # what `auto` is on this machine
    return {
        "demo pair, float32": partial(demo, "float32"),
        "demo pair, bfloat16": partial(demo, "bfloat16"),
        f"demo pair enlarged, {dtype}": partial(pair_part, large, settings, peers=[PEERS[0], PEERS[2]]),
        "2,000 tokens": long_generation,
    }


def show(name: str, part: dict[str, Any]) -> None:
    print(f"\n{name}")
    for label, own in part.get("contenders", {}).items():
        shares = "  ".join(f"{key} {own[key]:.2f}" for key in own if key.endswith("_share"))
        length = f"{own['tokens_per_round']:5.2f}" if own["tokens_per_round"] else "     "
        print(
            f"  {label:36} {own['tokens_per_s']:8.1f} tokens/s  {own['over_ar']:6.3f} of AR  "
            f"{length} per round  exact {own['exact']:.0%}  {shares}"
        )
    for key, value in part.items():
        if key != "contenders":
            print(f"  {key}: {json.dumps(value)}")


if __name__ == "__main__":
    main()
