#!/usr/bin/env python3
"""Train the packaged demo pair: a GPT-NeoX target of about 10 M parameters and a draft of about 1 M.

The corpus is the Python standard library itself (its modules and the reference texts in
`pydoc_data.topics`), so the script needs no download. Three stages, all seeded:

1. a byte-level BPE tokenizer;
2. target and draft side by side: the target on cross-entropy, the draft on the target's own
   distribution over the same batch (0.7 KL + 0.3 cross-entropy), which costs no extra target forward;
3. the draft alone, on text that the finished target wrote (sequence-level distillation, Kim and Rush
   2016), because that text is what speculative decoding asks a draft to predict.

Held-out files never enter any stage; `scripts/make_demo_prompts.py` cuts the demo prompts from them.

    python scripts/train_demo_pair.py --out build/demo-pair
    python scripts/train_demo_pair.py --out build/refined --from build/demo-pair --distill-steps 9000 --seed 2

The second command is another round of stage 3 alone, from a pair that is there; it changes only the draft.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 4096
END_OF_TEXT = "<|endoftext|>"
SHORT, LONG = 256, 1024  # window lengths in tokens; LONG is also the model's position limit
TOKENS_PER_STEP = 2048
LONG_SHARE = 0.15  # last share of the steps, trained on long windows
EXCLUDED = {"test", "tests", "idle_test", "site-packages", "encodings", "ensurepip", "lib2to3", "__phello__"}
HELD_OUT_SHARE = 0.06
WRITTEN_PROMPT = 64  # tokens that the target continues in stage 3

TARGET = {"hidden_size": 320, "num_hidden_layers": 8, "num_attention_heads": 5, "intermediate_size": 1152}
DRAFT = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512}


def corpus() -> dict[str, str]:
    """Return the documents by name: library modules, and reference topics as `topics/NAME`."""
    library = Path(sysconfig.get_paths()["stdlib"])
    documents = {}
    for path in sorted(library.rglob("*.py")):
        name = path.relative_to(library)
        if EXCLUDED & set(name.parts) or name.parts[0].startswith("config-") or name.name == "topics.py":
            continue
        text = path.read_text("utf-8", errors="ignore")
        if len(text) > 200:
            documents[str(name)] = text
    documents |= {f"topics/{name}": text for name, text in sorted(topics.items())}
    return documents


def is_held_out(name: str) -> bool:
    """Decide by the name alone, so that adding a file moves no other file between the splits."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 2**32 < HELD_OUT_SHARE


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        bos_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
        model_max_length=LONG,
        clean_up_tokenization_spaces=False,
    )


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> torch.Tensor:
    """Return all texts as one row of token ids, each closed by the end-of-text token."""
    ids: list[int] = []
    for text in texts:
        ids += [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    return torch.tensor(ids)


def build(shape: dict[str, int], eos: int) -> GPTNeoXForCausalLM:
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=LONG,
        rotary_pct=0.5,
        tie_word_embeddings=True,
        bos_token_id=eos,
        eos_token_id=eos,
        **shape,
    )
    return GPTNeoXForCausalLM(config)


def windows(tokens: torch.Tensor, length: int, generator: torch.Generator) -> torch.Tensor:
    """Draw random windows; shape (TOKENS_PER_STEP / length, length + 1)."""
    starts = torch.randint(0, len(tokens) - length - 1, (TOKENS_PER_STEP // length,), generator=generator)
    return torch.stack([tokens[start : start + length + 1] for start in starts.tolist()])


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over 100 steps, flat, then linear to zero over the last half."""
    return peak * min(1.0, (step + 1) / 100, 2 * (steps - step) / steps)


def optimizer_for(model: torch.nn.Module) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), fused=True)


def advance(
    optimizer: torch.optim.Optimizer, model: torch.nn.Module, loss: torch.Tensor, rate: float
) -> None:
    loss.backward()  # type: ignore[no-untyped-call]  # torch's own
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def logits_of(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
        return logits.flatten(0, 1)


def distillation_loss(draft: torch.Tensor, target: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """0.7 KL(target || draft) + 0.3 cross-entropy; logits are (N, V), labels (N,)."""
    log_q = F.log_softmax(draft.float(), -1)
    log_p = F.log_softmax(target.float(), -1)
    divergence = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    return 0.7 * divergence + 0.3 * F.nll_loss(log_q, labels)


def log(message: str, started: float) -> None:
    print(f"{time.monotonic() - started:7.0f} s  {message}", flush=True)


def train_together(
    target: GPTNeoXForCausalLM,
    draft: GPTNeoXForCausalLM,
    tokens: torch.Tensor,
    *,
    steps: int,
    seed: int,
    save: Iterator[None],
) -> None:
    started = time.monotonic()
    generator = torch.Generator().manual_seed(seed)
    optimizers = optimizer_for(target), optimizer_for(draft)
    means = [math.log(VOCABULARY)] * 2
    for step in range(steps):
        length = SHORT if step < steps * (1 - LONG_SHARE) else LONG
        batch = windows(tokens, length, generator)
        ids, labels = batch[:, :-1], batch[:, 1:].flatten()
        target_logits = logits_of(target, ids)
        target_loss = F.cross_entropy(target_logits.float(), labels)
        advance(optimizers[0], target, target_loss, learning_rate(step, steps, 1.5e-3))
        draft_logits = logits_of(draft, ids)
        advance(
            optimizers[1],
            draft,
            distillation_loss(draft_logits, target_logits.detach(), labels),
            learning_rate(step, steps, 3e-3),
        )
        if step % 20 == 0:
            losses = target_loss.item(), F.cross_entropy(draft_logits.float(), labels).item()
            means = [0.9 * mean + 0.1 * loss for mean, loss in zip(means, losses, strict=True)]
            log(f"step {step}/{steps}  target {means[0]:.3f}  draft {means[1]:.3f}", started)
        if step % 500 == 499:
            next(save)


@torch.no_grad()
def written_by(
    target: GPTNeoXForCausalLM, tokens: torch.Tensor, wanted: int, generator: torch.Generator
) -> torch.Tensor:
    """Let the target continue random training prompts; shape (wanted, SHORT + 1).

    Half of the rows are greedy and half sampled at temperature 0.7, so that the draft sees both the
    text that is asked for and its neighbourhood.
    """
    rows = []
    batch = 128
    torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
    for index in range(math.ceil(wanted / batch)):
        starts = torch.randint(0, len(tokens) - WRITTEN_PROMPT, (batch,), generator=generator)
        prompts = torch.stack([tokens[start : start + WRITTEN_PROMPT] for start in starts.tolist()])
        sampling = {"do_sample": True, "temperature": 0.7} if index % 2 else {"do_sample": False}
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rows.append(
                target.generate(
                    prompts,
                    attention_mask=torch.ones_like(prompts),
                    max_length=SHORT + 1,
                    min_length=SHORT + 1,
                    pad_token_id=0,
                    **sampling,
                )
            )
    return torch.cat(rows)[:wanted]


def train_on_written(
    target: GPTNeoXForCausalLM,
    draft: GPTNeoXForCausalLM,
    tokens: torch.Tensor,
    *,
    steps: int,
    seed: int,
) -> None:
    """Distil the draft on `steps` windows that the target wrote."""
    started = time.monotonic()
    generator = torch.Generator().manual_seed(seed)
    target.eval()
    rows = written_by(target, tokens, steps, generator)
    log(f"{len(rows)} windows written by the target", started)
    optimizer = optimizer_for(draft)
    mean = None
    for step in range(steps):
        own = rows[torch.randint(0, len(rows), (6,), generator=generator)]
        batch = torch.cat([own, windows(tokens, SHORT, generator)[:2]])
        ids, labels = batch[:, :-1], batch[:, 1:].flatten()
        with torch.no_grad():
            target_logits = logits_of(target, ids)
        loss = distillation_loss(logits_of(draft, ids), target_logits, labels)
        advance(optimizer, draft, loss, learning_rate(step, steps, 1.5e-3))
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        if step % 100 == 0:
            log(f"distillation step {step}/{steps}  loss {mean:.3f}", started)


def save_model(model: GPTNeoXForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    copy = GPTNeoXForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def saver(
    pair: dict[str, GPTNeoXForCausalLM], tokenizer: PreTrainedTokenizerFast, out: Path
) -> Iterator[None]:
    while True:
        for name, model in pair.items():
            save_model(model, tokenizer, out / name)
        yield


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("build/demo-pair"))
    parser.add_argument(
        "--steps", type=int, default=4400, help="steps of 2,048 tokens for target and draft together"
    )
    parser.add_argument(
        "--distill-steps", type=int, default=2000, help="steps for the draft on the target's text"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--from", dest="pair", type=Path, help="a folder with target and draft: run stage 3 alone"
    )
    arguments = parser.parse_args()

    documents = corpus()
    texts = [text for name, text in documents.items() if not is_held_out(name)]
    torch.manual_seed(arguments.seed)
    if arguments.pair is None:
        tokenizer = train_tokenizer(texts)
        target, draft = build(TARGET, tokenizer.eos_token_id), build(DRAFT, tokenizer.eos_token_id)
    else:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(arguments.pair / "target")
        target, draft = (
            GPTNeoXForCausalLM.from_pretrained(arguments.pair / name, dtype=torch.float32)
            for name in ("target", "draft")
        )
    tokens = encode(tokenizer, texts)
    sizes = {
        name: sum(p.numel() for p in m.parameters()) for name, m in (("target", target), ("draft", draft))
    }
    print(
        f"{len(documents)} documents, {len(texts)} for training, {len(tokens)} tokens, parameters {sizes}",
        flush=True,
    )
    save = saver({"target": target, "draft": draft}, tokenizer, arguments.out)
    if arguments.pair is None:
        train_together(target, draft, tokens, steps=arguments.steps, seed=arguments.seed, save=save)
        next(save)
    train_on_written(target, draft, tokens, steps=arguments.distill_steps, seed=arguments.seed + 1)
    next(save)
    (arguments.out / "training.json").write_text(
        json.dumps(
            {"seed": arguments.seed, "steps": arguments.steps, "distill_steps": arguments.distill_steps}
            | {"training_tokens": len(tokens), "parameters": sizes}
        )
    )


if __name__ == "__main__":
    main()
