"""EVA: LoRA whose A starts from the directions in which the data excites each module most."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_playground.config import LowRankConfig
from lora_playground.variants.base import Card, Context
from lora_playground.variants.data_start import model_inputs, need_batches
from lora_playground.variants.lora_family import LoraFamily

if TYPE_CHECKING:
    import torch


class Config(LowRankConfig):
    """Options of EVA."""

    name: str = "eva"


@dataclass(frozen=True)
class ExplainedVariance(LoraFamily):
    """LoRA with A from an incremental SVD of the modules' inputs."""

    def lora_options(self, config: Any, context: Context) -> dict[str, Any]:
        from peft import EvaConfig

        # rho = 1 gives every module the rank asked for; a larger one would move rank between modules.
        return {"init_lora_weights": "eva", "eva_config": EvaConfig(rho=1.0)}

    def finish(self, model: "torch.nn.Module", config: Any, context: Context) -> None:
        from peft import initialize_lora_eva_weights

        was_training = model.training
        model.eval()
        initialize_lora_eva_weights(
            model,
            dataloader=[model_inputs(batch, model, labels=False) for batch in need_batches(self.name, context)],
            prepare_model_inputs_fn=None,
            prepare_layer_inputs_fn=None,
            show_progress_bar=False,
        )
        model.train(was_training)


VARIANT = ExplainedVariance(
    name="eva",
    label="EVA",
    family="Initialisation",
    config=Config,
    card=Card(
        sentence="Starts A from the main directions of what each module sees in your data.",
        equation=r"y = Wx + sBAx,\quad A_0 = V_r^\top,\ X = U\Sigma V^\top",
        parameters=r"r(m + n)",
        frozen="All of the base model; A and B train.",
        paper="Paischer et al., One Initialization to Rule them All: Explained Variance Adaptation, 2024",
        url="https://arxiv.org/abs/2410.07170",
        notes="B starts at zero. It reads a few training batches before the first step. Ranks are not redistributed.",
    ),
)
