"""LoRA-GA: LoRA that starts along the gradient that full fine-tuning would follow."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_playground.config import LowRankConfig
from lora_playground.variants.base import Card, Context, Memory, Work
from lora_playground.variants.data_start import model_inputs, need_batches
from lora_playground.variants.start_family import StartFamily

if TYPE_CHECKING:
    import torch


class Config(LowRankConfig):
    """Options of LoRA-GA."""

    name: str = "loraga"


@dataclass(frozen=True)
class GradientStart(StartFamily):
    """LoRA from the singular vectors of the first batches' gradient."""

    def lora_options(self, config: Any, context: Context) -> dict[str, Any]:
        from peft import LoraGAConfig

        return {"init_lora_weights": "lora_ga", "lora_ga_config": LoraGAConfig()}

    def prepare(self, model: "torch.nn.Module", peft_config: Any, config: Any, context: Context) -> None:
        from peft.tuners.lora.loraga import preprocess_loraga

        batches = need_batches(self.name, context)

        def train_step() -> None:
            for batch in batches:
                model(**model_inputs(batch, model, labels=True)).loss.backward()

        preprocess_loraga(model, peft_config, train_step)


VARIANT = GradientStart(
    name="loraga",
    label="LoRA-GA",
    family="Initialisation",
    config=Config,
    card=Card(
        sentence="Starts A and B from the gradient of your data, so that the first step resembles full fine-tuning's.",
        equation=r"y = Wx + s\,(BA - B_0A_0)\,x,\quad \nabla_W L = U \Sigma V^\top",
        parameters=r"r(m + n)",
        frozen="All of the base model and the start B₀, A₀; A and B train.",
        paper="Wang et al., LoRA-GA: Low-Rank Adaptation with Gradient Approximation, 2024",
        url="https://arxiv.org/abs/2407.05000",
        notes="Against the pristine W the update has rank up to 2r; W is not rewritten. It needs one backward pass "
        "through every weight before the first step, so not a quantised base.",
    ),
    bits=(16,),
    learning_rate=2e-3,
    memory=Memory(frozen=1),
    work=Work(frozen=4),
)
