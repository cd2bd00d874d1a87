"""How soon a mixture answers after its slider moved, and how long a direction's reading takes, at the size of 0.5B.

python benchmarks/lab.py --json

A model with the shape of Qwen2.5-0.5B and random weights (the time does not depend on them) is decoded on this machine,
in the number type that the chat takes for such a model here, with four random adapters of rank 16 on all seven kinds of
linear modules. A slider's answer is measured from the new weights to the first token: the small cores, the prompt of 24
tokens, one token. The factors have been placed before, as they are when the section is open; `ready` tells how long
that takes. Beside it, in the same run: the same with every module's ΔW (m × n) formed densely and placed anew, as tools
do that merge weights.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import time
import zlib
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the chat process has it

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lora_playground.analysis.merging import Mixture, Recipe
from lora_playground.analysis.update import Update
from lora_playground.models.batch import Row
from lora_playground.models.decoding import Decoder, RowUpdate
from lora_playground.models.direction_reader import DirectionReader
from lora_playground.models.linear import linear_shape
from lora_playground.models.placed_mixture import PlacedMixture
from lora_playground.models.placed_update import PlacedUpdate
from lora_playground.models.precision import torch_dtype

PROMPT = list(range(100, 124))
"""24 tokens, a short question in its template."""
TEXT = " ".join(["What is the name?"] * 4)
"""What the reader reads, about as long."""


class Words:
    """A tokenizer as far as the reader needs one: words and marks are tokens, about as with a real one."""

    chat_template = None
    eos_token_id = 0

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [zlib.crc32(word.encode()) % 150_000 for word in re.findall(r" ?\w+|\W", text)]}

    def decode(self, ids: list[int], **_: Any) -> str:
        return "".join(f"<{id}>" for id in ids)


def model(dtype: torch.dtype) -> Qwen2ForCausalLM:
    """Qwen2.5-0.5B's shape, random weights."""
    config = Qwen2Config(
        vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
        num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    return Qwen2ForCausalLM(config).to(dtype).eval()


def adapter(base: Any, seed: int, rank: int = 16) -> list[Update]:
    """Random factors for every linear module of the layers."""
    noise = np.random.default_rng(seed)
    shapes = {n: linear_shape(m) for n, m in base.named_modules() if linear_shape(m) and "lm_head" not in n}
    return [
        Update(
            name,
            (noise.standard_normal((out, rank)) * 0.01).astype(np.float32),
            (noise.standard_normal((rank, inn)) * 0.01).astype(np.float32),
        )
        for name, (out, inn) in shapes.items()  # type: ignore[misc]
    ]


def first_token(decoder: Decoder, update: RowUpdate) -> None:
    """Reads the prompt and chooses one token."""
    batch = decoder.batch()
    batch.add([Row(PROMPT, update)])
    with decoder.evaluating():
        batch.step()


def timed(do: Any, repeats: int) -> tuple[float, float, float]:
    """(median, least, most) seconds."""
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        do()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken), min(taken), max(taken)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", help="float32 or bfloat16 (default: as the chat takes it)")
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    dtype = torch_dtype(given.dtype, "cpu")
    base = model(dtype)
    decoder = Decoder(base, Words())
    adapters = [adapter(base, seed) for seed in range(4)]
    noise = np.random.default_rng(9)
    found: dict[str, Any] = {
        "dtype": str(dtype).removeprefix("torch."),
        "threads": given.threads,
        "modules": len(adapters[0]),
        "rank": 16,
        "adapters": 4,
    }
    first_token(decoder, RowUpdate(PlacedUpdate(base, adapters[0])))  # what is made at the first use
    found["base_first_token"] = timed(lambda: first_token(decoder, None), given.repeats)  # type: ignore[arg-type]
    for method in ("sum", "ties", "core_ties", "knots", "svd"):
        began = time.perf_counter()
        placed = PlacedMixture(base, Mixture(adapters, Recipe(method)))
        ready = time.perf_counter() - began

        def slide(placed: PlacedMixture = placed) -> None:
            first_token(decoder, RowUpdate(placed.at(noise.uniform(-2, 2, 4))))

        found[method] = {"ready": ready, "slider": timed(slide, given.repeats)}

    def dense() -> None:
        weights = noise.uniform(-2, 2, 4)
        made = []
        for parts in zip(*adapters):
            total = sum(w * (u.B @ u.A) for w, u in zip(weights, parts))
            made.append(Update(parts[0].name, dense=total.astype(np.float32)))
        first_token(decoder, RowUpdate(PlacedUpdate(base, made)))

    found["dense"] = {"slider": timed(dense, 2)}
    reader, whole = DirectionReader(decoder), PlacedUpdate(base, adapters[0])
    name = "model.layers.20.mlp.down_proj"
    began = time.perf_counter()
    reader.read(whole, name, 1, TEXT)
    found["reader_first"] = time.perf_counter() - began
    found["reader_tokens"] = len(decoder.encode([{"role": "user", "content": TEXT}]))
    found["reader"] = timed(lambda: reader.read(whole, name, 2, TEXT), given.repeats)
    if given.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
