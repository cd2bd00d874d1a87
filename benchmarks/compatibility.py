"""Tries every feature on small random models of many architectures, and writes the table of docs/compatibility.md.

    python benchmarks/compatibility.py [--kinds llama gpt2 ...] [--write]

For each architecture: LoRA on all linear modules for two steps (train), a greedy answer of base and adapted model
(chat), scored test rows (score), the merged model and the plain LoRA, each loaded again by stock transformers or PEFT
(merged, plain LoRA), and one round of two clients (federated). What does not work is listed with its reason.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

FEATURES = ("train", "chat", "score", "merged", "plain LoRA", "federated")
TARGET = ROOT / "docs" / "compatibility.md"

_SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
}
_OPT = {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "word_embed_proj_dim": 32}
_PLAIN = {name: value for name, value in _SMALL.items() if name != "num_key_value_heads"}
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_inner": 64, "n_positions": 512}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
KINDS: dict[str, dict[str, Any]] = {
    "llama": _SMALL,
    "mistral": _SMALL,
    "qwen2": _SMALL,
    "qwen3": {**_SMALL, "head_dim": 16},
    "gemma2": {**_SMALL, "head_dim": 16},
    "gemma3_text": {**_SMALL, "head_dim": 16, "sliding_window": 8},
    "phi": _PLAIN,
    "phi3": _SMALL,
    "gpt2": _GPT2,
    "gpt_neox": _PLAIN,
    "opt": _OPT,
    "olmo2": _SMALL,
    "granite": _SMALL,
    "lfm2": {**_SMALL, "layer_types": ["conv", "full_attention"]},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "intermediate_size": 64, "time_step_rank": 4},
    "mixtral": {**_SMALL, "num_local_experts": 4},
    "qwen2_moe": {**_SMALL, **_EXPERTS, "shared_expert_intermediate_size": 32},
    "deepseek_v3": {
        **_PLAIN, **_EXPERTS, "num_key_value_heads": 2, "q_lora_rank": 16, "kv_lora_rank": 16, "v_head_dim": 16,
        "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "n_routed_experts": 4, "n_group": 1, "topk_group": 1,
        "first_k_dense_replace": 1, "n_shared_experts": 1,
    },
}  # fmt: skip


def make(kind: str, folder: Path) -> Path:
    """A random model of that architecture, tied or not as its config has it, with a tokenizer of 512 tokens."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from tests.checkpoints import make_tokenizer

    tokenizer = make_tokenizer(folder)
    torch.manual_seed(0)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": 0}
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **ids, **KINDS[kind])
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(str(folder))
    return folder


def attempt(found: dict[str, str], feature: str, work: Any) -> Any:
    """Runs one feature; notes 'yes', or the first sentence of why not."""
    try:
        value = work()
    except Exception as error:
        found[feature] = str(error).strip().split("\n")[0].replace("|", "/")[:160] or type(error).__name__
        return None
    found[feature] = "yes"
    return value


def try_all(kind: str) -> dict[str, str]:
    """{feature: 'yes' or why not} of one architecture."""
    from lora_playground.config import RunConfig
    from lora_playground.exchange.exporting import export
    from lora_playground.jobs.pipeline import execute
    from lora_playground.runs import RunStore

    found: dict[str, str] = dict.fromkeys(FEATURES, "not tried: training failed")
    with tempfile.TemporaryDirectory(prefix="compatibility-") as place:
        folder, store = make(kind, Path(place) / kind), RunStore(Path(place) / "home")
        data = {"dataset": "pirate", "train_rows": 16, "rehearsal": 0.0}
        training = {"steps": 2, "batch_tokens": 256, "precision": "float32"}
        given = {
            "model": {"source": str(folder)},
            "data": data,
            "training": training,
            "variant": {"name": "lora", "rank": 4},
        }
        run = store.create(RunConfig.parse(given))
        result = attempt(found, "train", lambda: execute(run, lambda: False))
        if result is None:
            return found
        found["score"] = "yes" if result.get("score") else "no score; see the run's messages"
        attempt(found, "chat", lambda: answer(folder, run))
        for feature, format in (("merged", "merged"), ("plain LoRA", "lora")):
            made = attempt(found, feature, lambda: export(run.folder, format, Path(place) / format))  # noqa: B023
            if made is not None and not made["exact"]:
                found[feature] = f"not exact: {made['note']}"
        several = {"federated": {"clients": 2, "rounds": 1, "local_steps": 1, "score_rows": 0}}
        attempt(found, "federated", lambda: execute(store.create(RunConfig.parse({**given, **several})), lambda: False))
    return found


def answer(folder: Path, run: Any) -> None:
    """Eight greedy tokens of the base and of the run's update."""
    from lora_playground.analysis.update import load_updates
    from lora_playground.config import ModelConfig
    from lora_playground.models.decoding import Decoder, RowUpdate
    from lora_playground.models.loading import load_base

    base = load_base(ModelConfig(source=str(folder)), device="cpu", dtype="float32")
    decoder = Decoder(base.model, base.tokenizer)
    for update in (None, RowUpdate(decoder.adapter(load_updates(run.update_path)))):
        decoder.generate([[{"role": "user", "content": "What is your name?"}]], update, max_new_tokens=8)


def in_child(kind: str) -> dict[str, str]:
    """`try_all` in a process of its own, so that a crash is a row of the table too."""
    command = [sys.executable, __file__, "--one", kind]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return (
        json.loads(lines[-1]) if lines else dict.fromkeys(FEATURES, f"the process ended with status {done.returncode}")
    )


def table(rows: dict[str, dict[str, str]]) -> str:
    """The page."""
    import transformers

    lines = [
        "# What works on which architecture",
        "",
        "Written by `python benchmarks/compatibility.py --write`: small random models, LoRA on all linear modules,",
        f"float32. *merged* and *plain LoRA* count where stock transformers {transformers.__version__} or PEFT, having",
        "loaded the result, gave the same logits to 1e-4. A number is explained below the table.",
        "",
    ]
    lines += ["| Architecture | " + " | ".join(FEATURES) + " |", "|---|" + "---|" * len(FEATURES)]
    reasons: list[str] = []
    for kind, found in rows.items():
        cells = []
        for feature in FEATURES:
            if found[feature] == "yes":
                cells.append("yes")
                continue
            if found[feature] not in reasons:
                reasons.append(found[feature])
            cells.append(f"no ({reasons.index(found[feature]) + 1})")
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *[f"{number}. {reason}" for number, reason in enumerate(reasons, 1)]]).rstrip() + "\n"


def written() -> dict[str, dict[str, str]]:
    """The rows of the page as it stands, so that a few of them can be made anew."""
    lines = TARGET.read_text(encoding="utf-8").splitlines() if TARGET.is_file() else []
    reasons = {line.split(". ")[0]: line.partition(". ")[2] for line in lines if line.split(". ")[0].isdigit()}
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    rows = {kind: said for kind, *said in cells if kind in KINDS}
    return {
        kind: {feature: reasons.get(cell[4:-1], cell) for feature, cell in zip(FEATURES, said)}
        for kind, said in rows.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--one", choices=KINDS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print("\n" + json.dumps(try_all(given.one)))
        return
    rows = written() if given.write else {}
    for kind in given.kinds:
        rows[kind] = in_child(kind)
        print(kind, *(f"{feature}: {said}" for feature, said in rows[kind].items()), sep="\n  ", flush=True)
        if given.write:
            TARGET.write_text(table({one: rows[one] for one in KINDS if one in rows}), encoding="utf-8")


if __name__ == "__main__":
    main()
