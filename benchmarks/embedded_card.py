"""Measures the embedded base model and writes its model card: skills, bits per character, sampled chats, table of runs.

    python benchmarks/embedded_card.py

Skills and bits per character are measured now; the table of fine-tuning runs is read from docs/embedded.json, which
benchmarks/embedded_table.py fills. The sampled chats are the first twenty of a stream that was never trained on.
"""

import argparse
import itertools
import json
import math
import random
import re
import statistics
import sys
from pathlib import Path
from string import Template
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from embedded_table import RESULTS, show

from lora_playground import evaluation
from lora_playground.data.catalogue import list_datasets
from lora_playground.models.catalogue import EMBEDDED
from tools.embedded_model import corpus
from tools.embedded_model.assets import fingerprint
from tools.embedded_model.skills import fact
from tools.embedded_model.world import build_world

CHATS_SEED, CHATS = 424_242, 20
PROBES_SEED, PROBES_EACH = 4_243, 40
TEMPERATURE = 0.7
LAST_STAGE = """\
| 6 | `--minutes 37 --guidance 0.1 --seed 6 --start ...`, more wordings from step 327 on | 704 | 2.9M |
| 7 | `--minutes 14 --lr-matrix 0.015 --lr-rest 2e-3 --decay 0.6 --guidance 0.1 --seed 7 --start ...` and \
`--emphasise fact yes_no counting sorting reading stranger judging` | 315 | 1.3M |
| 8 | `--steps 250 --lr-matrix 0.012 --lr-rest 1.5e-3 --decay 0.6 --guidance 0.2 --seed 8 --start ...` and \
`--emphasise yes_no copying word_problem reading spelling sorting` (340 steps planned till step 114) | 250 | 1.0M |
| 9 | `--steps 1100 --minutes 600 --lr-matrix 0.018 --lr-rest 2.5e-3 --decay 0.6 --guidance 0.15 --seed 9 --start ...` \
with more wordings, guesses at sums, cards as JSON | 1,100 | 4.5M |
| 10 | `--steps 330 --minutes 600 --lr-matrix 0.012 --lr-rest 1.5e-3 --decay 0.7 --guidance 0.1 --seed 10 --start ...` \
and `--emphasise word_problem sorting counting` | 330 | 1.4M |
| 11 | `--steps 120 --minutes 600 --lr-matrix 0.008 --lr-rest 1e-3 --decay 0.9 --guidance 0.1 --seed 11 --start ...` \
and `--average-with` stage 9: the mean of its weights and these | 120 | 0.5M |
| 12 | `--steps 850 --minutes 600 --lr-matrix 0.018 --lr-rest 2.5e-3 --decay 0.6 --guidance 0.1 --seed 12 --start ...` \
with the skills about words, as from here on | 850 | 3.5M |
| 13 | `--steps 240 --minutes 600 --lr-matrix 0.012 --lr-rest 1.5e-3 --decay 0.7 --guidance 0.1 --seed 13 --start ...` \
with `--emphasise sorting` and a skill that was taken out again (below); `--average-with` stage 12 | 240 | 1.0M |"""
COMMANDS = """\
    python benchmarks/embedded_table.py datasets
    python benchmarks/embedded_table.py ranks --steps 250 --seeds 2 --full-rate 1e-3
    python benchmarks/embedded_table.py style --steps 250 --seeds 2"""


def load() -> tuple[Any, Any]:
    """(model in fp32, tokenizer), loaded as any local folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(EMBEDDED)


def skills(decoder: Any) -> tuple[float, int, dict[str, tuple[float, int]]]:
    """(mean score, rows, {skill: (score, rows)}) on held-out probes, greedy: more of the kind of the shipped ones."""
    rows = corpus.probes(build_world(), PROBES_SEED, PROBES_EACH)
    result = evaluation.evaluate(
        lambda chats: decoder.generate(chats, max_new_tokens=64), rows, "base-skills", batch=24
    )
    scores: dict[str, list[float]] = {}
    for row, sample in zip(rows, result["samples"], strict=True):
        scores.setdefault(row["meta"]["skill"], []).append(sample["score"])
    each = {name: (statistics.fmean(found), len(found)) for name, found in sorted(scores.items())}
    return result["score"], result["n"], each


def different_words(count: int = 60_000) -> int:
    """How many different words that many chats of the corpus use, names among them."""
    stream = itertools.islice(corpus.chats(build_world(), 1), count)
    return len({word for chat in stream for m in chat for word in re.findall(r"[a-z]+", m["content"].lower())})


def world_questions(decoder: Any, count: int = 200) -> float:
    """Share of right answers to as many questions about the whole world, in held-out wordings."""
    rng = random.Random("world-questions")
    world = build_world()
    rows: list[evaluation.Row] = []
    for _ in range(count):
        sample = fact(rng, world, True)
        rows.append({"messages": corpus.to_messages(sample.turns), "meta": {"answer": sample.answer}})
    answered = evaluation.evaluate(lambda asked: decoder.generate(asked, max_new_tokens=32), rows, "contains", 24)
    return float(answered["score"])


def bits_per_character(model: Any, tokenizer: Any, rows: int = 96) -> float:
    """On chats of the training distribution that were never trained on, user and assistant alike."""
    import tempfile

    import torch

    from tools.embedded_model import pretrain

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


def goals(found: dict[str, Any], runs: dict[str, Any]) -> str:
    """Rows of the table of goals, each judged by the figures at hand."""
    lines = []

    def judge(goal: str, reached: bool, figure: str) -> None:
        lines.append(f"| {goal} | {'yes' if reached else '**no**'}: {figure} |")

    facts = found["world"]
    judge("world questions at least 90%", facts >= 0.9, f"{facts:.0%}")
    weak = [f"{name} {score:.0%}" for name, (score, _) in found["skills"].items() if score < 0.9]
    judge("every other skill at least 90%", not weak, ", ".join(weak) or "all")
    tasks: dict[str, dict[str, float]] = {}
    for key, run in runs.items():
        if key.startswith("datasets"):
            tasks.setdefault(key.split(": ")[1].split(",")[0], run["score"])
    high = [f"{name} {score['base']:.0%}" for name, score in tasks.items() if score["base"] > 0.15]
    missing = [card.name for card in list_datasets() if card.name not in tasks]
    rest = f"all {len(tasks)} that were measured" + (f"; not measured: {', '.join(missing)}" if missing else "")
    judge("base at most 15% on each dataset", not high and not missing, ", ".join(high) or rest)
    low = [f"{name} {score['adapted']:.0%}" for name, score in tasks.items() if score["adapted"] < 0.8]
    judge("r = 8 at least 80% on each dataset", not low and not missing, ", ".join(low) or rest)

    def adapted(kind: str, what: str) -> float | None:
        found = [run["score"]["adapted"] for key, run in runs.items() if key.startswith(kind) and f", {what}, " in key]
        return sum(found) / len(found) if found else None

    one, eight, full = (adapted("ranks", what) for what in ("lora r=1", "lora r=8", "full"))
    if one is not None and eight is not None:
        judge("new facts: r = 1 at least 15 points below r = 8", eight - one >= 0.15, f"{one:.0%} and {eight:.0%}")
    if eight is not None and full is not None:
        judge("new facts: r = 8 at most 12 points below full", full - eight <= 0.12, f"{eight:.0%} and {full:.0%}")
    one, sixteen = adapted("style", "lora r=1"), adapted("style", "lora r=16")
    if one is not None and sixteen is not None:
        judge("style: r = 1 within 8 points of r = 16", sixteen - one <= 0.08, f"{one:.0%} and {sixteen:.0%}")
    return "\n".join(lines)


def write_card(
    found: dict[str, Any], runs: dict[str, Any], chats: list[corpus.Messages], template: Path, out: Path
) -> None:
    """Fills the card's template."""
    lines = []
    for number, chat in enumerate(chats, 1):
        lines.append(f"**{number}.**\n")
        lines += [f"- {'you' if m['role'] == 'user' else '**model**'}: {m['content']}" for m in chat]
        lines.append("")
    skill_lines = ["| skill | score | rows |", "|---|--:|--:|"]
    skill_lines += [f"| {name} | {score:.0%} | {n} |" for name, (score, n) in found["skills"].items()]
    figures = {"score": f"{found['score']:.1%}", "n": found["n"], "bits": f"{found['bits']:.3f}", "sha": found["sha"]}
    figures["world"] = f"{found['world']:.1%}"
    weak = sorted((score, name) for name, (score, _) in found["skills"].items() if score < 0.9)
    figures["weak"] = ", ".join(f"{name} {score:.0%}" for score, name in weak) or "nothing"
    figures["seconds"] = next((f"{run['config']['training']['seconds']:g} s" for run in runs.values()
                               if "seconds" in run["config"]["training"]), "some seconds")  # fmt: skip
    figures["words"] = f"{found['words']:,}"
    figures["last_stage"], figures["commands"] = LAST_STAGE, COMMANDS
    parts = {
        "skills": "\n".join(skill_lines),
        "table": show(runs),
        "chats": "\n".join(lines),
        "temperature": TEMPERATURE,
    }
    parts["goals"] = goals(found, runs)
    card = Template(template.read_text())
    text = card.substitute(parameters=f"{found['parameters']:,}", **figures, **parts)
    out.write_text(text)


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--template", type=Path, default=Path(__file__).with_name("embedded_card.md"))
    parser.add_argument("--out", type=Path, default=EMBEDDED / "README.md")
    parser.add_argument("--json", action="store_true", help="print the figures too")
    args = parser.parse_args()
    from lora_playground.models.decoding import Decoder

    model, tokenizer = load()
    decoder = Decoder(model, tokenizer)
    score, n, by_skill = skills(decoder)
    found: dict[str, Any] = {
        "score": score, "n": n, "skills": by_skill, "bits": bits_per_character(model, tokenizer),
        "world": world_questions(decoder), "words": different_words(),
        "sha": fingerprint(EMBEDDED / "model.safetensors")["sha256"],
        "parameters": sum(p.numel() for p in model.parameters()),
    }  # fmt: skip
    kept = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    mine = kept.get("base") == found["sha"][:12]
    write_card(found, kept["runs"] if mine else {}, sampled_chats(decoder), args.template, args.out)
    if args.json:
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
