"""Measures the embedded base model and writes its model card: skills, bits per character, sampled chats, table of runs.

    python benchmarks/embedded_card.py

Skills and bits per character are measured now; the table of fine-tuning runs is read from docs/embedded.json, which
benchmarks/embedded_table.py fills. The sampled chats are the first twenty of a stream that was never trained on.
"""

import argparse
import itertools
import json
import math
import sys
from pathlib import Path
from string import Template
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from embedded_table import RESULTS, show

from lora_playground import evaluation
from lora_playground.embedded import BASE_SKILLS_DIR, MODEL_DIR, corpus
from lora_playground.embedded.assets import fingerprint
from lora_playground.embedded.world import build_world

CHATS_SEED, CHATS = 424_242, 20
TEMPERATURE = 0.7


def load() -> tuple[Any, Any]:
    """(model in fp32, tokenizer), loaded as any local folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(MODEL_DIR)


def skills(decoder: Any) -> tuple[float, int, dict[str, tuple[float, int]]]:
    """(mean score, rows, {skill: (score, rows)}) on all held-out probes, greedy."""
    rows = evaluation.load_rows(BASE_SKILLS_DIR / "test.jsonl")
    result = evaluation.evaluate(
        lambda chats: decoder.generate(chats, max_new_tokens=64), rows, "base-skills", batch=24
    )
    means = evaluation.score_by(rows, result["samples"])
    counts = {name: sum(row["meta"]["skill"] == name for row in rows) for name in means}
    return result["score"], result["n"], {name: (means[name], counts[name]) for name in means}


def bits_per_character(model: Any, tokenizer: Any, rows: int = 96) -> float:
    """On chats of the training distribution that were never trained on, user and assistant alike."""
    import tempfile

    import torch

    from lora_playground.embedded import pretrain

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npy"
        held = pretrain.to_tensor(pretrain.prepare_rows(tokenizer, path, pretrain.HELD_OUT_SEED, rows, 256))
    with torch.no_grad():
        nats = sum(pretrain.batch_loss(model, part).item() for part in held.split(8)) / len(held.split(8))
    tokens = held[:, 0][held[:, 1] > 0].tolist()
    return nats * len(tokens) / math.log(2) / len(tokenizer.decode(tokens, skip_special_tokens=True))


def sampled_chats(decoder: Any) -> list[corpus.Messages]:
    """The first chats of two to four turns of an unused stream: its user turns, the model's own sampled answers."""
    stream = corpus.chats(build_world(), CHATS_SEED)
    scripts = []
    for chat in itertools.islice(stream, 2000):
        asked = [m for m in chat if m["role"] == "user"]
        if 2 <= len(asked) <= 4:
            scripts.append(asked)
        if len(scripts) == CHATS:
            break
    talks: list[corpus.Messages] = [[] for _ in scripts]
    for turn in range(4):
        live = [i for i, script in enumerate(scripts) if turn < len(script)]
        for i in live:
            talks[i].append(scripts[i][turn])
        asked = [talks[i] for i in live]
        answers = decoder.generate(asked, max_new_tokens=120, temperature=TEMPERATURE, top_p=0.9, seed=1)
        for i, answer in zip(live, answers, strict=True):
            talks[i].append({"role": "assistant", "content": answer})
    return talks


def write_card(found: dict[str, Any], table: str, chats: list[corpus.Messages], template: Path, out: Path) -> None:
    """Fills the card's template."""
    lines = []
    for number, chat in enumerate(chats, 1):
        lines.append(f"**{number}.**\n")
        lines += [f"- {'you' if m['role'] == 'user' else '**model**'}: {m['content']}" for m in chat]
        lines.append("")
    skill_lines = ["| skill | score | rows |", "|---|--:|--:|"]
    skill_lines += [f"| {name} | {score:.0%} | {n} |" for name, (score, n) in found["skills"].items()]
    figures = {"score": f"{found['score']:.1%}", "n": found["n"], "bits": f"{found['bits']:.3f}", "sha": found["sha"]}
    parts = {"skills": "\n".join(skill_lines), "table": table, "chats": "\n".join(lines), "temperature": TEMPERATURE}
    card = Template(template.read_text())
    text = card.substitute(parameters=f"{found['parameters']:,}", **figures, **parts)
    out.write_text(text)


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--template", type=Path, default=Path(__file__).with_name("embedded_card.md"))
    parser.add_argument("--out", type=Path, default=MODEL_DIR / "README.md")
    parser.add_argument("--json", action="store_true", help="print the figures too")
    args = parser.parse_args()
    from lora_playground.models.decoding import Decoder

    model, tokenizer = load()
    decoder = Decoder(model, tokenizer)
    score, n, by_skill = skills(decoder)
    found: dict[str, Any] = {
        "score": score, "n": n, "skills": by_skill, "bits": bits_per_character(model, tokenizer),
        "sha": fingerprint(MODEL_DIR / "model.safetensors")["sha256"],
        "parameters": sum(p.numel() for p in model.parameters()),
    }  # fmt: skip
    kept = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    mine = kept.get("base") == found["sha"][:12]
    write_card(
        found, show(kept["runs"]) if mine else "(not measured yet)", sampled_chats(decoder), args.template, args.out
    )
    if args.json:
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
