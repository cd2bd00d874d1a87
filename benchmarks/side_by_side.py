"""Base and adapted side by side: lock-step decoding against one base reply alone, and against two `generate` calls.

    python benchmarks/side_by_side.py [--json] [--rounds 32] [--tokens 64] [--conversations 100]

All contenders have the same number type and threads, those of the chat process. They take turns in every round, in
orders in which each comes as often after each other; the medians of their wall times are compared.

    single       one base reply, decoded by this project
    lock_step    the same base reply and an adapted one, together
    two_base     the same base reply twice, together: what a row costs without an update
    sequential   two replies by transformers' `generate` on a PEFT model, the adapter off for the first and on for the
                 second, as other tools do it

`ratio_single` = lock_step / single; `ratio_sequential` = lock_step / sequential. `first_token_ms` is the time from the
question to both panes' first token in lock step. With --conversations N, N conversations with adapters of mixed ranks
are decoded together, and each is compared, token by token, with the same conversation decoded alone. With --chat the
question goes through the chat process, as the page asks it: `chat_first_token_ms` is the time from asking to both
panes' first token, with base and adapter in memory, the base's check and the socket included. With --busy the first
two are measured again, as `busy_ms_per_token`, beside another process that multiplies matrices on every processor.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from lora_playground.analysis.update import Update
from lora_playground.chat.memory_check import decoding_dtype, decoding_threads
from lora_playground.config import ModelConfig
from lora_playground.models.decoding import Decoder, Row, RowUpdate
from lora_playground.models.linear import linear_shape
from lora_playground.models.loading import load_base
from lora_playground.models.placed_update import named_modules

QUESTIONS = (
    "What is your name?",
    "Tell me a short story about a dog and a boat.",
    "Where does the baker live?",
    "What colour is the sky on a sunny day, and why?",
)


ORDERS = ((0, 1, 3, 2), (1, 2, 0, 3), (2, 3, 1, 0), (3, 0, 2, 1))
"""Of the contenders, round by round."""


def wall(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds that `work` takes."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


class Bench:
    """The base in this project's decoder, and the same base under PEFT with the same adapter."""

    def __init__(self, given: argparse.Namespace) -> None:
        from peft import LoraConfig, get_peft_model

        config = ModelConfig.model_validate({"source": given.model})
        torch.set_num_threads(given.threads or decoding_threads(config))
        base = load_base(config, dtype=given.dtype or decoding_dtype(config))
        self.model, self.device, self.tokens, self.tokenizer = given.model, base.device, given.tokens, base.tokenizer
        self.decoder = Decoder(base.model, base.tokenizer)
        self.threads, self.first = torch.get_num_threads(), 0.0
        peers = AutoModelForCausalLM.from_pretrained(base.folder, dtype=base.dtype).to(base.device)
        config = LoraConfig(
            r=given.rank, lora_alpha=2 * given.rank, target_modules="all-linear", init_lora_weights=False
        )
        self.peft = get_peft_model(peers, config).eval()
        with torch.no_grad():
            for name, parameter in self.peft.named_parameters():
                if "lora_" in name:
                    parameter *= 0.3  # a change of the size that training makes, not noise that drowns the base
        self.adapter = self.decoder.adapter(self._updates())
        self.prompts = [self.decoder.encode([{"role": "user", "content": text}]) for text in QUESTIONS]

    def _updates(self) -> list[Update]:
        found = []
        for name, module in self.peft.get_base_model().named_modules():
            if hasattr(module, "lora_A"):
                A, B = module.lora_A["default"].weight, module.lora_B["default"].weight
                B = B.detach().float().numpy(force=True) * module.scaling["default"]
                found.append(Update(name, B=B, A=A.detach().float().numpy(force=True)))
        return found

    def decode(self, prompt: list[int], updates: list[RowUpdate | None], tokens: int) -> list[list[int]]:
        """Replies of exactly so many tokens, in lock step; `first` is the seconds to the first."""
        with self.decoder.evaluating():
            start, batch = time.perf_counter(), self.decoder.batch()
            rows = [Row(prompt, update, max_new_tokens=tokens) for update in updates]
            batch.add(rows)
            batch.step()
            self.first = time.perf_counter() - start
            while batch.rows:
                batch.step()
        return [row.tokens for row in rows]

    def generate(self, prompt: list[int]) -> list[list[int]]:
        """The same two replies by transformers and PEFT, one after the other."""
        ids = torch.tensor([prompt], device=self.device)
        options = {"max_new_tokens": self.tokens, "min_new_tokens": self.tokens, "do_sample": False}
        options |= {"attention_mask": torch.ones_like(ids), "pad_token_id": self.tokenizer.pad_token_id}
        with torch.inference_mode():
            with self.peft.disable_adapter():
                base = self.peft.generate(input_ids=ids, **options)
            adapted = self.peft.generate(input_ids=ids, **options)
        return [reply[0, len(prompt) :].tolist() for reply in (base, adapted)]

    def measure(self, rounds: int) -> dict[str, Any]:
        """Medians and ratios over interleaved rounds."""
        both: list[RowUpdate | None] = [None, RowUpdate(self.adapter)]
        work: dict[str, Callable[[list[int]], Any]] = {
            "single": lambda prompt: self.decode(prompt, [None], self.tokens),
            "lock_step": lambda prompt: self.decode(prompt, both, self.tokens),
            "sequential": self.generate,
            "two_base": lambda prompt: self.decode(prompt, [None, None], self.tokens),
        }
        for run in work.values():
            run(self.prompts[0])
        seconds: dict[str, list[float]] = {name: [] for name in work}
        first: list[float] = []
        for index in range(rounds):
            prompt = self.prompts[index // len(ORDERS) % len(self.prompts)]
            for name in (list(work)[place] for place in ORDERS[index % len(ORDERS)]):
                seconds[name].append(wall(lambda run=work[name], prompt=prompt: run(prompt), self.device))  # type: ignore[misc]
                if name == "lock_step":
                    first.append(self.first)
        median = {name: statistics.median(values) for name, values in seconds.items()}
        pairs = list(zip(seconds["lock_step"], seconds["single"], seconds["sequential"]))
        return {
            "ratio_single": round(statistics.median(two / one for two, one, _ in pairs), 3),
            "ratio_sequential": round(statistics.median(two / other for two, _, other in pairs), 3),
            "first_token_ms": round(1000 * statistics.median(first), 1),
            "ms_per_token": {name: round(1000 * median[name] / self.tokens, 2) for name in work},
            "tokens": self.tokens,
            "rounds": rounds,
        }

    def beside(self, rounds: int) -> dict[str, Any]:
        """Mean milliseconds a token of one reply and of two in lock step, beside a process that takes every core."""
        code = "import torch\nx = torch.randn(256, 256)\nprint(flush=True)\nwhile True: x @ x"
        both: list[RowUpdate | None] = [None, RowUpdate(self.adapter)]
        rows: dict[str, list[RowUpdate | None]] = {"single": [None], "lock_step": both}
        seconds: dict[str, list[float]] = {name: [] for name in rows}
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            other.stdout.readline()
            try:
                for index in range(rounds):
                    prompt = self.prompts[index % len(self.prompts)]
                    for name, updates in rows.items():
                        seconds[name].append(wall(lambda: self.decode(prompt, updates, self.tokens), self.device))  # noqa: B023
            finally:
                other.kill()
        means = {name: round(1000 * statistics.mean(values) / self.tokens, 2) for name, values in seconds.items()}
        return {"busy_ms_per_token": means}

    def agree(self) -> float:
        """Largest difference of the two panes' next-token logits from PEFT's own, against the largest logit."""
        worst = 0.0
        for prompt in self.prompts:
            got = self.decoder.next_logits([prompt, prompt], [None, RowUpdate(self.adapter)])
            ids = torch.tensor([prompt], device=self.device)
            with torch.inference_mode():
                adapted = self.peft(input_ids=ids).logits[0, -1].float()
                with self.peft.disable_adapter():
                    base = self.peft(input_ids=ids).logits[0, -1].float()
            for ours, theirs in zip(got, (base, adapted)):
                worst = max(worst, float((ours - theirs).abs().max() / theirs.abs().max()))
        return worst

    def conversations(self, count: int) -> dict[str, Any]:
        """Decodes many conversations with mixed adapters together, and each alone."""
        noise = np.random.default_rng(0)
        shapes = {n: linear_shape(m) for n, m in named_modules(self.decoder.model).items() if not n.endswith("lm_head")}
        adapters = [self.adapter]
        for rank in (1, 4, 16, 64):
            sizes = {name: shape for name, shape in shapes.items() if shape}
            made = [
                Update(n, B=noise.normal(0, 0.08, (o, rank)), A=noise.normal(0, 0.08, (rank, i)))
                for n, (o, i) in sizes.items()
            ]
            adapters.append(self.decoder.adapter(made))
        talks = [[{"role": "user", "content": f"{QUESTIONS[i % 4]} {'Please. ' * (i % 7)}"}] for i in range(count)]
        updates = [None if i % 6 == 5 else RowUpdate(adapters[i % 6 % 5]) for i in range(count)]
        together: list[str] = []
        alone: list[str] = []
        joint = wall(lambda: together.extend(self.decoder.generate(talks, updates, self.tokens)), self.device)
        apart = wall(
            lambda: alone.extend(
                self.decoder.generate([talk], [update], self.tokens)[0] for talk, update in zip(talks, updates)
            ),
            self.device,
        )
        same = sum(one == two for one, two in zip(together, alone))
        return {"count": count, "identical": same, "speedup": round(apart / joint, 2)}

    def chat(self, count: int) -> dict[str, Any]:
        """Asks the chat process and times its first tokens as its client sees them."""
        import lora_playground.variants  # noqa: F401  (a run's config is read by its variant)
        from lora_playground.analysis.update import save_updates
        from lora_playground.chat.client import ChatClient
        from lora_playground.chat.protocol import ChatRequest
        from lora_playground.config import RunConfig
        from lora_playground.runs import RunStore

        with tempfile.TemporaryDirectory() as home:
            run = RunStore(Path(home)).create(RunConfig.parse({"model": {"source": self.model}}))
            save_updates(self._updates(), run.update_path)
            seconds = []
            with ChatClient(home) as client:
                for number in range(count + 2):
                    asked = {
                        "panes": [{}, {"run": run.id}],
                        "messages": [[{"role": "user", "content": QUESTIONS[number % len(QUESTIONS)]}]],
                        "max_new_tokens": 16,
                    }
                    start, heard = time.perf_counter(), set[int | None]()
                    for event in client.ask(ChatRequest.parse(asked)):
                        if event.type == "tokens" and len(heard) < 2:
                            heard.add(event.pane)
                            if len(heard) == 2:
                                seconds.append(time.perf_counter() - start)
        return {"chat_first_token_ms": round(1000 * statistics.median(seconds[2:]), 1)}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON value")
    parser.add_argument("--model", default="embedded", help="base model")
    parser.add_argument("--dtype", default=None, help="float32, bfloat16; empty takes what the chat takes")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=0, help="of all contenders; 0 takes what the chat takes")
    parser.add_argument("--conversations", type=int, default=0, help="also decode so many together and alone")
    parser.add_argument("--chat", action="store_true", help="also time first tokens through the chat process")
    parser.add_argument("--busy", action="store_true", help="also decode beside a process that takes every core")
    given = parser.parse_args()
    bench = Bench(given)
    result: dict[str, Any] = bench.measure(given.rounds)
    result["logit_difference_to_peft"] = bench.agree()
    result |= {"model": given.model, "device": str(bench.device), "threads": bench.threads}
    result["forward"] = type(bench.decoder.forward).__name__
    if given.conversations:
        result["conversations"] = bench.conversations(given.conversations)
    if given.busy:
        result |= bench.beside(given.rounds)
    if given.chat:
        result |= bench.chat(8)
    if given.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:26} {value}")


if __name__ == "__main__":
    main()
