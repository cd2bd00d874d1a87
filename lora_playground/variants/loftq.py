"""LoftQ: LoRA that starts by mending what 4-bit storage lost."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_playground.config import LowRankConfig
from lora_playground.errors import ModelError
from lora_playground.variants.base import Card, Context
from lora_playground.variants.lora_family import LoraFamily
from lora_playground.variants.peft_variant import ADAPTER, tuner_layers

if TYPE_CHECKING:
    import torch


class Config(LowRankConfig):
    """Options of LoftQ."""

    name: str = "loftq"


@dataclass(frozen=True)
class QuantisationAware(LoraFamily):
    """LoRA whose start is the best rank-r approximation of the quantisation error."""

    def finish(self, model: "torch.nn.Module", config: Any, context: Context) -> None:
        """Reads the unquantised weights from the base model's folder, one at a time."""
        from peft import replace_lora_weights_loftq

        source = str(getattr(model.config, "_name_or_path", ""))
        folder = Path(source)
        if folder.is_dir():
            files = sorted(folder.glob("model*.safetensors*"))
            index = [f for f in files if f.name.endswith(".index.json")]
            single = [f for f in files if f.suffix == ".safetensors"]
            if not files:
                raise ModelError(f"LoftQ reads the unquantised weights from {source}, which has no model.safetensors.")
            replace_lora_weights_loftq(model, model_path=str((index or single)[0]))
        else:
            replace_lora_weights_loftq(model)
        for _, layer in tuner_layers(model):
            # PEFT's start is made for s = 1; undo the scaling, or the correction would be s times too large.
            layer.lora_B[ADAPTER].weight.data.div_(layer.scaling[ADAPTER])


VARIANT = QuantisationAware(
    name="loftq",
    label="LoftQ",
    family="Initialisation",
    config=Config,
    card=Card(
        sentence="Starts A and B so that they make up for part of what storing W in 4 bit lost.",
        equation=r"y = Qx + sBAx,\quad sB_0A_0 \approx W - Q",
        parameters=r"r(m + n)",
        frozen="The quantised base model Q; A and B train.",
        paper="Li et al., LoftQ: LoRA-Fine-Tuning-Aware Quantization for Large Language Models, 2023",
        url="https://arxiv.org/abs/2310.08659",
        notes="The output changes at step 0, on purpose: it moves from the 4-bit model towards the 16-bit one. Its "
        "update is against the 4-bit weights. Only for a base stored in 4 bit.",
    ),
    bits=(4,),
    identity_at_start=False,
)
