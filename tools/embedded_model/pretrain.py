"""Trains the embedded base model on the corpus: seeded, resumable, for a given number of minutes.
    python -m tools.embedded_model.pretrain --minutes 75 --work .work/pretrain --export assets/models/embedded

The learning rate follows a trapezoid over the share of the time that is spent, so that it also decays in time on a
slower machine.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lora_playground.models.catalogue import EMBEDDED
from tools.embedded_model.corpus import chats
from tools.embedded_model.guidance import Guidance
from tools.embedded_model.muon import Muon
from tools.embedded_model.packing import write_rows
from tools.embedded_model.tokenizer import ASSISTANT, CONTEXT, END, render
from tools.embedded_model.world import build_world

WARM_UP, DECAY = 0.02, 0.35  # shares of the budget: warm-up and decay
LOG_STEPS = 20
FULL_SHARE = 0.25  # share of the chats that are trained on in full, user turns included
HELD_OUT_SEED = 999_983  # seed of the stream on which the loss is measured


def make_model(tokenizer: Any, width: int, layers: int, feed_forward: int) -> Any:
    """A Llama of that size, fp32, tied embeddings, with its initial weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=feed_forward, num_hidden_layers=layers,
        num_attention_heads=width // 32, num_key_value_heads=width // 64, head_dim=32,
        max_position_embeddings=CONTEXT, rms_norm_eps=1e-5,
        tie_word_embeddings=True, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, initializer_range=0.02, attention_dropout=0.0, use_cache=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():  # residual branches start at zero: each block begins as the identity
        for block in model.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
    return model


def spoken(tokens: Tensor, assistant: int, end: int) -> Tensor:
    """True where a token belongs to an assistant's turn, its end included. tokens: (batch, length)."""
    index = torch.arange(1, tokens.shape[1] + 1)
    opened = (index * (tokens == assistant)).cummax(1).values
    closed = (index * (tokens == end)).cummax(1).values
    before = F.pad(closed[:, :-1], (1, 0))
    return (opened > before) & (tokens != assistant)


def batch_loss(model: Any, rows: Tensor, roles: tuple[int, int] | None = None) -> Tensor:
    """Mean cross-entropy in nats. rows: (batch, 2, length), tokens and chat numbers.

    With `roles` (the ids that open and end an assistant's turn), even-numbered chats count with the
    assistant's words only.
    """
    tokens, numbers = rows[:, 0], rows[:, 1]
    same = numbers[:, None, :, None] == numbers[:, None, None, :]
    mask = torch.tril(same)
    starts = torch.ones_like(numbers)
    starts[:, 1:] = numbers[:, 1:] != numbers[:, :-1]
    index = torch.arange(numbers.shape[1])
    positions = index - (index * starts).cummax(1).values
    hidden = model.model(
        inputs_embeds=model.model.embed_tokens(tokens), attention_mask=mask, position_ids=positions, use_cache=False
    )
    keep = (numbers[:, 1:] == numbers[:, :-1]) & (numbers[:, 1:] > 0)
    if roles:
        keep &= (numbers[:, 1:] % 2 == 1) | spoken(tokens, *roles)[:, 1:]
    return F.cross_entropy(model.lm_head(hidden.last_hidden_state[:, :-1][keep]), tokens[:, 1:][keep])


def schedule(spent: float, decay: float = DECAY) -> float:
    """The learning rate's factor when `share` of the budget is spent: rising, constant, then falling to zero."""
    return max(0.0, min(spent / WARM_UP, 1.0, (1.0 - spent) / max(decay, 1e-9)))


def token_stream(tokenizer: Any, seed: int, emphasis: frozenset[str] = frozenset()) -> Iterator[list[int]]:
    """Endless tokenised chats, those to be trained on in full marked by a leading -1 (see packing.pack)."""
    rng, block = random.Random(seed), []
    for messages in chats(build_world(), seed, emphasis):
        block.append(render(messages))
        if len(block) == 2000:
            for encoding in tokenizer.backend_tokenizer.encode_batch(block, add_special_tokens=False):
                yield [-1, *encoding.ids] if rng.random() < FULL_SHARE else encoding.ids
            block = []


def prepare_rows(
    tokenizer: Any, path: Path, seed: int, rows: int, length: int, emphasis: frozenset[str] = frozenset()
) -> np.ndarray[Any, Any]:
    """The packed rows of that seed, as a memory map of `path`, which is written if missing."""
    if not path.exists():
        part = path.with_suffix(".part.npy")
        write_rows(token_stream(tokenizer, seed, emphasis), length, tokenizer.pad_token_id, rows, part)
        part.rename(path)
    return np.load(path, mmap_mode="r")


def to_tensor(rows: np.ndarray[Any, Any]) -> Tensor:
    """int64 copy of packed rows."""
    return torch.from_numpy(rows.astype(np.int64))


def export(model: Any, tokenizer_dir: Path, folder: Path) -> None:
    """Writes the model as a Hugging Face folder with 16-bit weights, first beside it, then moved into place."""
    from transformers import GenerationConfig, LlamaForCausalLM

    stage = folder.with_name(folder.name + ".stage")
    shutil.rmtree(stage, ignore_errors=True)
    config = model.config
    half = LlamaForCausalLM(config).to(torch.bfloat16)
    half.load_state_dict({k: v.to(torch.bfloat16) for k, v in model.state_dict().items()})
    half.config.use_cache = True
    half.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id, do_sample=True,
        temperature=0.7, top_p=0.9, max_new_tokens=160,
    )  # fmt: skip
    half.save_pretrained(stage)
    model.config.use_cache = False
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(stage.iterdir()):
        path.replace(folder / path.name)
    shutil.rmtree(stage)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (tokenizer_dir / name).resolve() != (folder / name).resolve():
            shutil.copy(tokenizer_dir / name, folder / name)


def weights_of(folder: Path) -> dict[str, Tensor]:
    """{name: fp32 weights} of a model folder."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return dict(model.state_dict())


def one_thread() -> None:
    """For the calling thread only: operations use one core, and denormal numbers count as zero."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


def make_optimizers(model: Any, lr_matrix: float, lr_rest: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for the embedding and the norms."""
    blocks = model.model.layers
    matrices = [p for p in blocks.parameters() if p.ndim == 2]
    first = {
        id(p) for block in blocks[: len(blocks) // 2] for p in block.parameters()
    }  # two optimizers of about equal work, for two threads
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    halves = [[p for p in matrices if id(p) in first], [p for p in matrices if id(p) not in first]]
    muons: list[torch.optim.Optimizer] = [Muon(half, lr=lr_matrix, weight_decay=0.01) for half in halves]
    return [*muons, torch.optim.AdamW(rest, lr=lr_rest, betas=(0.9, 0.95), weight_decay=0.0)]


class Pretraining:
    """A training run: rows, model, optimizers and the time spent. `work/state.pt` is its checkpoint."""

    def __init__(self, args: argparse.Namespace) -> None:
        from transformers import AutoTokenizer

        self.args, self.work = args, args.work
        self.work.mkdir(parents=True, exist_ok=True)
        self.tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
        torch.manual_seed(args.seed)
        self.model = make_model(self.tokenizer, args.width, args.layers, args.feed_forward)
        self.optimizers = make_optimizers(self.model, args.lr_matrix, args.lr_rest)
        if args.start:
            self.begin_with(args.start)
        self.rates = [group["lr"] for o in self.optimizers for group in o.param_groups]
        self.step, self.seconds, self.chunk = 0, 0.0, 0
        self.val = to_tensor(prepare_rows(self.tokenizer, self.work / "held-out.npy", HELD_OUT_SEED, 64, args.row))
        if (self.work / "state.pt").exists():
            self.load()
        self.parameters = list(self.model.parameters())
        self.pool = ThreadPoolExecutor(args.threads, initializer=one_thread)
        self.guidance = Guidance(self.model) if args.guidance else None
        self.roles = tuple(self.tokenizer.convert_tokens_to_ids([ASSISTANT, END]))

    def begin_with(self, folder: Path) -> None:
        """Starts from the weights of a model folder: a further stage, on another mixture or more tokens."""
        self.model.load_state_dict(weights_of(folder))

    def load(self) -> None:
        """Continues from the last checkpoint."""
        state = torch.load(self.work / "state.pt", weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.seconds = state["step"], state["seconds"]

    def save(self) -> None:
        """Writes the checkpoint and the exported model, each completely or not at all."""
        part = self.work / "state.part"
        state = {"model": self.model.state_dict(), "optimizers": [o.state_dict() for o in self.optimizers]}
        torch.save(state | {"step": self.step, "seconds": self.seconds}, part)
        part.rename(self.work / "state.pt")
        export(self.averaged(), self.args.tokenizer, self.args.export)

    def averaged(self) -> Any:
        """The model to export: this one, or with `--average-with` the mean of its weights and that model's. If one was
        trained from the other, the mean keeps the skills of both (model soups, arXiv 2203.05482)."""
        if not self.args.average_with:
            return self.model
        mean, other = copy.deepcopy(self.model), weights_of(self.args.average_with)
        mean.load_state_dict({name: (value + other[name]) / 2 for name, value in self.model.state_dict().items()})
        return mean

    def batches(self) -> Iterator[Tensor]:
        """Batches from the next step on. Rows are made in chunks when needed, each chunk from its own seed."""
        per_chunk = self.args.chunk_rows // self.args.rows
        while True:
            chunk, at = divmod(self.step, per_chunk)
            path = self.work / f"rows-{self.args.row}-{chunk}.npy"
            seed, emphasis = self.args.seed * 1000 + chunk, frozenset(self.args.emphasise)
            rows = prepare_rows(self.tokenizer, path, seed, self.args.chunk_rows, self.args.row, emphasis)
            for i in range(at, per_chunk):
                yield to_tensor(rows[i * self.args.rows : (i + 1) * self.args.rows])
            path.unlink()

    @torch.no_grad()
    def held_out(self) -> tuple[float, float]:
        """(nats per token, bits per character) on chats from a stream that is never trained on."""
        losses = [batch_loss(self.model, part).item() for part in self.val.split(16)]
        nats = sum(losses) / len(losses)
        tokens = self.val[:, 0][self.val[:, 1] > 0].tolist()
        characters = len(self.tokenizer.decode(tokens, skip_special_tokens=True))
        return nats, nats * len(tokens) / math.log(2) / characters

    def log(self, **values: float) -> None:
        """Prints one point of the loss curve and appends it to curve.jsonl."""
        line = json.dumps({key: round(value, 4) for key, value in values.items()})
        print(line, flush=True)
        with (self.work / "curve.jsonl").open("a") as file:
            file.write(line + "\n")

    def part_gradients(self, rows: Tensor) -> tuple[float, tuple[Tensor, ...]]:
        """Loss in nats and gradients of one part of a batch, on one thread."""
        loss = total = batch_loss(self.model, rows, self.roles)
        if self.guidance:
            total = loss + self.args.guidance * self.guidance.loss(rows[:, 0], rows[:, 1])
        return loss.item(), torch.autograd.grad(total, self.parameters)

    def backward(self, rows: Tensor) -> float:
        """Computes a step's gradients and returns the mean loss in nats.

        The batch is cut into two parts a thread, and a thread does a whole part, so that no operation waits for
        another core. Two parts rather than one even out a core that other programs use."""
        size = -(-len(rows) // (2 * self.args.threads)) if self.args.threads > 1 else len(rows)
        parts = list(self.pool.map(self.part_gradients, rows.split(size)))
        for i, p in enumerate(self.parameters):
            p.grad = parts[0][1][i]
            for _, gradients in parts[1:]:
                p.grad += gradients[i]
            p.grad /= len(parts)
        return sum(loss for loss, _ in parts) / len(parts)

    def update(self, optimizer: torch.optim.Optimizer) -> None:
        """One step of one optimizer, on one thread."""
        optimizer.step()

    def run(self) -> None:
        """Trains until the budget of minutes or steps is spent."""
        budget, saved, running = self.args.minutes * 60, time.monotonic(), 0.0
        start = time.monotonic() - self.seconds
        for rows in self.batches():
            self.seconds = time.monotonic() - start
            spent = max(self.seconds / budget, self.step / self.args.steps)
            if spent >= 1:
                break
            for rate, group in zip(self.rates, (g for o in self.optimizers for g in o.param_groups), strict=True):
                group["lr"] = rate * schedule(spent, self.args.decay)
            loss = self.backward(rows)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            list(self.pool.map(self.update, self.optimizers))
            self.model.zero_grad(set_to_none=True)
            self.step += 1
            running = loss if running == 0 else 0.95 * running + 0.05 * loss
            if self.step % LOG_STEPS == 0:
                self.log(
                    step=self.step,
                    seconds=self.seconds,
                    tokens=self.step * rows[:, 0].numel(),
                    loss=running,
                    rate=schedule(spent, self.args.decay),
                )
            if time.monotonic() - saved > self.args.save_minutes * 60:
                nats, bits = self.held_out()
                self.log(step=self.step, held_out=nats, bits_per_character=bits)
                self.save()
                saved = time.monotonic()
        nats, bits = self.held_out()
        self.log(step=self.step, held_out=nats, bits_per_character=bits)
        self.save()


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the embedded base model.")
    parser.add_argument("--minutes", type=float, default=75)
    parser.add_argument("--steps", type=int, default=1_000_000, help="ends earlier at this many steps")
    parser.add_argument("--work", type=Path, default=Path(".work/pretrain"))
    parser.add_argument("--export", type=Path, default=EMBEDDED)
    parser.add_argument("--tokenizer", type=Path, default=EMBEDDED)
    parser.add_argument("--start", type=Path, help="a model folder of the same size whose weights are the first ones")
    parser.add_argument(
        "--average-with", type=Path, help="a model folder whose weights' mean with the trained is exported"
    )
    parser.add_argument("--emphasise", nargs="*", default=[], help="skills that come six times as often, as copying")
    parser.add_argument("--guidance", type=float, default=0.0, help="weight of the loss that shows heads how to copy")
    parser.add_argument("--decay", type=float, default=DECAY, help="last share of the budget, in which the rate falls")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=7)
    parser.add_argument("--feed-forward", type=int, default=704)
    parser.add_argument("--row", type=int, default=256, help="tokens a row")
    parser.add_argument("--rows", type=int, default=16, help="rows a step")
    parser.add_argument("--chunk-rows", type=int, default=9600)
    parser.add_argument("--lr-matrix", type=float, default=0.02)
    parser.add_argument("--lr-rest", type=float, default=3e-3)
    parser.add_argument("--save-minutes", type=float, default=5)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Trains as the command line says."""
    args = parse(argv)
    one_thread()
    Pretraining(args).run()


if __name__ == "__main__":
    main()
