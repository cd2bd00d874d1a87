"""Short trainings of any variant on the embedded model, for the sweep of learning rates and the table of variants.

One process loads the base and the data once and trains copies of it; it writes no run folders.
"""

import copy
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lora_playground.config import RunConfig, TrainingConfig, VariantConfig
from lora_playground.errors import ConfigError
from lora_playground.variants import VARIANTS
from lora_playground.variants.base import Context

RANKS = (*range(1, 17), *range(18, 65, 2), *range(68, 257, 4))
SIZES = {"block_size": (2, 4, 8, 16, 32, 64), "frequencies": tuple(range(100, 20_001, 100))}


@dataclass
class Bench:
    """The base model and prepared data.

    Attributes:
        source: the base model.
        home: where answers of the base are kept.
    """

    source: str = "embedded"
    home: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="variant-trials-")))

    def __post_init__(self) -> None:
        from lora_playground.config import ModelConfig
        from lora_playground.models.loading import load_base
        from lora_playground.variants.targets import linear_shapes

        self.base = load_base(ModelConfig(source=self.source, quantisation="none"), device="cpu", dtype="float32")
        self.shapes = linear_shapes(self.base.model)
        self.everything = [tuple(p.shape) for p in self.base.model.parameters()]
        self._data: dict[tuple[str, int], Any] = {}

    def data(self, name: str, seed: int) -> Any:
        """Prepared rows of a dataset."""
        from lora_playground.data.catalogue import get_dataset
        from lora_playground.data.preparation import prepare

        if (name, seed) not in self._data:
            config = RunConfig.parse({"data": {"dataset": name}}).data
            found = get_dataset(name, self.home)
            self._data[name, seed] = prepare(self.base.tokenizer, found, config, seed, True)
        return self._data[name, seed]

    def count(self, name: str, config: VariantConfig) -> int:
        """Trained parameters of these options on this base."""
        shapes: Any = self.everything if name == "full" else self.shapes.values()
        return VARIANTS[name].count(list(shapes), config)

    def matched(self, name: str, target: int) -> VariantConfig:
        """The variant's options with its size chosen so that its trained parameters come nearest to `target`."""
        variant = VARIANTS[name]
        fields = variant.config.model_fields
        knob = next((knob for knob in ("rank", "block_size", "frequencies") if knob in fields), None)
        if knob is None:
            return variant.config()
        found = []
        for size in RANKS if knob == "rank" else SIZES[knob]:
            scaled = {"alpha": 2.0 * size} if "alpha" in fields else {}
            try:
                config = variant.config(**{knob: size}, **scaled)
                variant.check(config, self.shapes, variant.bits[0])
            except ConfigError:
                continue
            found.append((abs(self.count(name, config) - target), size, config))
        return min(found, key=lambda entry: entry[:2])[2]

    def trial(
        self, name: str, config: VariantConfig, dataset: str, seed: int, steps: int, tokens: int, rate: float | None
    ) -> tuple[Any, Any]:
        """Trains a copy of the base; returns (outcome, updates)."""
        from lora_playground.jobs.pipeline import start_batches
        from lora_playground.training import train
        from lora_playground.training.plan import TrainPlan

        variant, pad = VARIANTS[name], self.base.tokenizer.pad_token_id
        prepared = self.data(dataset, seed)
        training = TrainingConfig(
            steps=steps, batch_tokens=tokens, learning_rate=rate, seed=seed, precision="float32", validate_every=steps
        )
        context = Context(steps, seed, start_batches(prepared, pad))
        model = variant.attach(copy.deepcopy(self.base.model), config, context)
        plan = TrainPlan.of(prepared, training, variant, pad, on_spectra=False)
        outcome = train(model, plan, lambda event: None, lambda: False)
        return outcome, variant.updates(model)
