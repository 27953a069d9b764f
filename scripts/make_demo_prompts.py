#!/usr/bin/env python3
"""Cut the demo prompts from the files that the demo pair never saw.

A prompt begins where a definition or a paragraph begins. Small models loop under greedy decoding, and a
loop is easy to draft, so a prompt is taken only if the target's own greedy continuation of its first
64 tokens is real text: at least half of its bigrams differ, and no token makes up a third of it. The
draft has no part in the choice.

    python scripts/make_demo_prompts.py --pair build/demo-pair --out workers/dyna_eval_workers/demo_pair
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections import Counter, defaultdict
from pathlib import Path

import torch
from dyna_eval_workers.session import distinct_n
from train_demo_pair import corpus, is_held_out
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTNeoXForCausalLM

PROMPT_TOKENS, SEED_TOKENS, CONTINUATION = 160, 64, 64
CHARACTERS = 1500  # enough for PROMPT_TOKENS, and the least distance of two prompts from one file
WANTED = {"code": 32, "reference": 8}
BATCH = 64
DISTINCT_2 = 0.5
BEGINNINGS = {
    "code": re.compile(r"^(?=(?:class|def|async def|    def|@\w+\n(?:class|def)) ?\w)", re.MULTILINE),
    "reference": re.compile(r"(?<=\n\n)(?=[A-Z`*])"),
}


def candidates(documents: dict[str, str]) -> list[tuple[str, str, int, str]]:
    """Return (category, file, offset, text) of every beginning in held-out files, in a hashed order."""
    found = []
    for name, text in documents.items():
        if not is_held_out(name):
            continue
        category = "reference" if name.startswith("topics/") else "code"
        starts = [match.start() for match in BEGINNINGS[category].finditer(text)]
        found += [(category, name, start, text[start : start + CHARACTERS]) for start in starts]
    return sorted(found, key=lambda row: hashlib.sha256(f"{row[1]}:{row[2]}".encode()).digest())


@torch.inference_mode()
def continuations(model: GPTNeoXForCausalLM, rows: list[list[int]]) -> list[tuple[int, ...]]:
    """Return the target's greedy continuation of the first SEED_TOKENS tokens of every row."""
    prompts = torch.tensor([row[:SEED_TOKENS] for row in rows])
    length = SEED_TOKENS + CONTINUATION
    written = model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        do_sample=False,
        min_length=length,
        max_length=length,
        pad_token_id=0,
    )
    return [tuple(row) for row in written[:, SEED_TOKENS:].tolist()]


def is_real_text(token_ids: tuple[int, ...]) -> bool:
    """Say whether a continuation repeats itself little."""
    commonest = Counter(token_ids).most_common(1)[0][1] / len(token_ids)
    return (distinct_n(token_ids, 2) or 0.0) >= DISTINCT_2 and commonest < 1 / 3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pair", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(arguments.pair / "target")
    model = AutoModelForCausalLM.from_pretrained(arguments.pair / "target", dtype=torch.float32).eval()
    rows = []
    for category, name, offset, text in candidates(corpus()):
        token_ids = tokenizer(text, verbose=False)["input_ids"][:PROMPT_TOKENS]
        if len(token_ids) == PROMPT_TOKENS:
            rows.append((category, name, offset, token_ids))
    taken: list[dict[str, str]] = []
    offsets: dict[str, list[int]] = defaultdict(list)
    counts: Counter[str] = Counter()
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        written = continuations(model, [token_ids for *_, token_ids in batch])
        for (category, name, offset, token_ids), continuation in zip(batch, written, strict=True):
            crowded = any(abs(offset - other) < CHARACTERS for other in offsets[name])
            if crowded or counts[category] == WANTED[category] or not is_real_text(continuation):
                continue
            taken.append({"text": tokenizer.decode(token_ids), "category": category, "source": name})
            offsets[name].append(offset)
            counts[category] += 1
    taken.sort(key=lambda row: hashlib.sha256(row["text"].encode()).digest())
    arguments.out.mkdir(parents=True, exist_ok=True)
    with (arguments.out / "prompts.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in taken)
    print(f"{len(taken)} prompts {dict(counts)} from {len(offsets)} files; {len(rows)} candidates")


if __name__ == "__main__":
    main()
