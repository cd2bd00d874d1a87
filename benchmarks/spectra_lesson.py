"""The lesson of docs/spectra.md on the embedded model: trains short runs and takes what their updates are made of.

    python benchmarks/spectra_lesson.py [--steps 160]       # train, measure, draw, write the page's section
    python benchmarks/spectra_lesson.py --draw              # from the numbers that were kept, without training

Style against facts (LoRA, r = 16, cut to its first k directions; and trained at lower ranks from the start), full
fine-tuning on both, and r = 8 against r = 64 on the same facts from other starts. Numbers go to
docs/spectra/lesson.json; `spectra_page` makes pictures and words of them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import spectra_page

from lora_playground.analysis.alignment import above_noise, amplification, intruders
from lora_playground.analysis.low_rank import nonzero
from lora_playground.analysis.spectra import analyse, effective_rank, energy_captured, energy_rank
from lora_playground.analysis.subspaces import directions, random_similarity, similarity
from lora_playground.analysis.truncation import Truncation
from lora_playground.analysis.update import Update
from lora_playground.analysis.weights import Weights
from lora_playground.models.catalogue import EMBEDDED

STYLE, FACTS = "pirate", "facts-large"
RANK, SMALL, LARGE = 16, 8, 64
LOW = (1,)  # trained at these ranks too
FULL_RATE = 1e-3  # learns the facts in as many steps as LoRA does at its own rate
KS = (0, 1, 2, 4, 8, 16)


def linear(updates: Iterable[Update]) -> list[Update]:
    """The updates of linear modules, without embedding and head."""
    return [u for u in updates if len(u.shape) == 2 and not u.name.endswith(".weight") and "head" not in u.name]


def curves(updates: Sequence[Update]) -> dict[str, Any]:
    """Medians over the modules of σᵢ/σ₁, of the energy in the first i directions and of the ranks, and the share of the
    whole update's energy that lies in the first direction of every module."""
    values = [s.values[: nonzero(s.values)] for s in analyse(linear(updates)).values() if nonzero(s.values)]
    length = min(v.size for v in values)
    total = sum(float(np.sum(v**2)) for v in values)
    return {
        "modules": len(values),
        "values": digits(np.median([v[:length] / v[0] for v in values], 0)),
        "energy": digits(np.median([energy_captured(v)[:length] for v in values], 0)),
        "effective_rank": float(np.median([effective_rank(v) for v in values])),
        "energy_rank_90": float(np.median([energy_rank(v, 0.9) for v in values])),
        "first": float(sum(v[0] ** 2 for v in values) / total),
    }


def digits(values: Any) -> Any:
    """Nested lists of numbers at 4 significant digits, so that the kept file stays small."""
    array = np.asarray(values, dtype=np.float64)
    return array.tolist() if not array.size else np.vectorize(lambda x: float(f"{x:.4g}"))(array).tolist()


def noise(updates: Sequence[Update], module: str) -> dict[str, Any]:
    """How far dense updates stand above the edge of noise: medians over modules, and one module's whole spectrum."""
    counts, shares = [], []
    for update in linear(updates):
        values = np.linalg.svd(update.matrix(), compute_uv=False)
        count, edge = above_noise(values, (update.shape[0], update.shape[1]))
        counts.append(count)
        shares.append(float(energy_captured(values)[count - 1]) if count else 0.0)
        if update.name == module:
            one = {"module": module, "values": digits(values), "edge": edge, "above": count, "share": shares[-1]}
    return {"above": float(np.median(counts)), "share": float(np.median(shares)), "one": one}


def beside(updates: Sequence[Update], k: int = 10, epsilon: float = 0.5) -> dict[str, Any]:
    """The updates beside W: intruders among the first k of W + ΔW, summed over modules, and median amplification."""
    weights, found, factors, random, least = Weights(EMBEDDED), 0, [], [], []
    for update in linear(updates):
        W = weights.weight(update.name, update.shape)
        seen = intruders(update, W, k, epsilon)
        found += seen.count
        least.append(float(seen.cosines.min()))
        strength = amplification(update, W)
        factors.append(strength.factor)
        random.append(strength.factor_random)
    return {
        "looked_at": k * len(least),
        "intruders": found,
        "least": float(np.median(least)),
        "factor": float(np.median(factors)),
        "factor_random": float(np.median(random)),
    }


class Asker:
    """Validation loss (nats per token) and task score of updates on the first rows of a dataset."""

    def __init__(self, bench: Any, dataset: str, rows: int) -> None:
        from lora_playground.config import RunConfig
        from lora_playground.data.catalogue import get_dataset
        from lora_playground.data.encoding import encode
        from lora_playground.models.decoding import Decoder

        found = get_dataset(dataset, bench.home)
        length = RunConfig.parse({"data": {"dataset": dataset}}).data.max_length
        self.examples = encode(bench.base.tokenizer, found.validation[:rows], length).examples
        self.decoder = Decoder(bench.base.model, bench.base.tokenizer)
        self.test, self.metric = found.test[:rows], found.card.metric

    def ask(self, updates: Sequence[Update], ks: Sequence[int | None] = (None,)) -> dict[str, list[float]]:
        """Loss and score with the first k directions of every module, for every k; None is all of them, 0 the base."""
        from lora_playground.jobs.truncation_curve import loss_of, score_of
        from lora_playground.models.decoding import RowUpdate

        adapter = self.decoder.adapter(updates)
        made: dict[str, list[float]] = {"loss": [], "score": []}
        for k in ks:
            update = None if k == 0 else RowUpdate(adapter, truncation=None if k is None else Truncation("top", k=k))
            made["loss"].append(float(loss_of(self.decoder, self.examples, update) or 0.0))
            made["score"].append(float(score_of(self.decoder, self.test, self.metric, update) or 0.0))
        return made


def inside(small: Sequence[Update], large: Sequence[Update], side: Any) -> dict[str, Any]:
    """φ(i, j) of two runs' directions and the share of the small one's energy that lies in the large one's directions:
    the mean over the layers for each kind of module, and what chance gives."""
    by_name = {update.name: update for update in large}
    kinds: dict[str, list[tuple[np.ndarray, float]]] = {}
    chance: dict[str, float] = {}
    for update in linear(small):
        V1, V2 = directions(update, side), directions(by_name[update.name], side)
        if min(V1.shape[1], SMALL) < SMALL or V2.shape[1] < SMALL:
            continue
        matrix = update.matrix() if side == "left" else update.matrix().T
        held = float(np.linalg.norm(V2[:, :LARGE].T @ matrix) ** 2 / np.linalg.norm(matrix) ** 2)
        kind = update.name.rsplit(".", 1)[-1]
        kinds.setdefault(kind, []).append((similarity(V1, V2)[:SMALL, :LARGE], held))
        chance[kind] = float(random_similarity(1, 1, V1.shape[0])[0, 0])
    made = {}
    for kind, pairs in kinds.items():
        width = min(square.shape[1] for square, _ in pairs)
        mean = np.mean([square[:, :width] for square, _ in pairs], 0)
        held = float(np.mean([share for _, share in pairs]))
        made[kind] = {"phi": digits(mean), "chance": chance[kind], "held": held}
    return made


def begun(given: argparse.Namespace, part: Path) -> dict[str, Any]:
    """What `part` holds of a lesson with these settings, or a new lesson that holds nothing but them."""
    about = {"steps": given.steps, "tokens": given.tokens, "rows": given.rows, "rank": RANK, "ks": list(KS)}
    about |= {"datasets": [STYLE, FACTS], "low": list(LOW)}
    found = json.loads(part.read_text()) if part.is_file() else {}
    return found if {key: found.get(key) for key in about} == about else about | {"minutes": 0.0}


def measure(given: argparse.Namespace, part: Path) -> dict[str, Any]:
    """Trains the runs one after the other and takes every number that the page states.

    Every run's numbers are written to `part` when it ends; a lesson that was interrupted goes on from there.
    """
    from variant_trials import Bench

    from lora_playground.variants import VARIANTS

    found = begun(given, part)
    bench = Bench(home=given.home) if given.home else Bench()

    def trained(name: str, dataset: str, seed: int = 0, **options: Any) -> list[Update]:
        started = time.perf_counter()
        config = VARIANTS[name].config(**options)
        outcome, model = bench.fit(name, config, dataset, seed, FULL_RATE if name == "full" else None, given)
        spent = time.perf_counter() - started
        print(f"{name:5} {dataset:13} {options} loss {outcome.validation_end:.3f}  {spent:.0f} s", flush=True)
        return list(VARIANTS[name].updates(model))

    def stage(name: str, make: Callable[[], dict[str, Any]]) -> None:
        if name not in found:
            started = time.perf_counter()
            found[name] = make()
            found["minutes"] = round(found["minutes"] + (time.perf_counter() - started) / 60, 1)
            part.write_text(json.dumps(found) + "\n")

    askers: dict[str, Asker] = {}

    def ask(dataset: str, updates: Sequence[Update], ks: Sequence[int | None] = (None,)) -> dict[str, list[float]]:
        if dataset not in askers:
            askers[dataset] = Asker(bench, dataset, given.rows)
        return askers[dataset].ask(updates, ks)

    def adapted(dataset: str) -> dict[str, Any]:
        updates = trained("lora", dataset, rank=RANK, alpha=2.0 * RANK)
        return curves(updates) | {"dataset": dataset, "beside": beside(updates)} | ask(dataset, updates, KS)

    def whole(dataset: str) -> dict[str, Any]:
        dense = trained("full", dataset)
        module = linear(dense)[len(linear(dense)) // 2].name
        return curves(dense) | noise(dense, module) | {"beside": beside(dense)} | ask(dataset, dense)

    def low(dataset: str, rank: int) -> dict[str, Any]:
        updates = trained("lora", dataset, rank=rank, alpha=2.0 * rank)
        return curves(updates) | ask(dataset, updates)

    def nested() -> dict[str, Any]:
        small = trained("lora", FACTS, seed=1, rank=SMALL, alpha=2.0 * SMALL)
        large = trained("lora", FACTS, seed=2, rank=LARGE, alpha=2.0 * LARGE)
        made: dict[str, Any] = {side: inside(small, large, side) for side in ("left", "right")}
        return made | {"small": ask(FACTS, small), "large": ask(FACTS, large)}

    for word, dataset in (("style", STYLE), ("facts", FACTS)):
        stage(word, lambda dataset=dataset: adapted(dataset))
        for rank in LOW:
            stage(f"{word}_{rank}", lambda dataset=dataset, rank=rank: low(dataset, rank))
        stage(f"{word}_full", lambda dataset=dataset: whole(dataset))
    stage("inside", nested)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--tokens", type=int, default=512, help="tokens a step")
    parser.add_argument("--rows", type=int, default=64, help="validation and test rows of the cut")
    parser.add_argument("--home", type=Path, default=None, help="where prepared data is kept")
    parser.add_argument("--out", type=Path, default=spectra_page.FOLDER, help="where numbers and pictures go")
    parser.add_argument("--page", type=Path, default=spectra_page.PAGE, help="the page whose section is written")
    parser.add_argument("--draw", action="store_true", help="draw and write from the kept numbers, train nothing")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    kept = given.out / "lesson.json"
    if not given.draw:
        part = given.out / "lesson.part.json"
        kept.write_text(json.dumps(measure(given, part)) + "\n")
        part.unlink(missing_ok=True)
    found = json.loads(kept.read_text())
    spectra_page.draw(found, given.out)
    print(spectra_page.write(found, given.page))


if __name__ == "__main__":
    main()
