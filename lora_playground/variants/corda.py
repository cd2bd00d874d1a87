"""CorDA: LoRA that starts from the part of W that matters most, or least, for the inputs that each module gets from the
data."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from lora_playground.config import LowRankConfig
from lora_playground.variants.base import Card, Context, Memory, Work
from lora_playground.variants.data_start import model_inputs, need_batches
from lora_playground.variants.start_family import StartFamily

if TYPE_CHECKING:
    import torch


METHODS = {"learn": "ipm", "keep": "kpm"}
"""{purpose: its name in the paper and in PEFT}: instruction-previewed and knowledge-preserved mode."""


class Config(LowRankConfig):
    """Options of CorDA."""

    name: str = "corda"
    purpose: Literal["learn", "keep"] = Field(
        "learn",
        description="Which part of W, as the data weighs it, trains: the largest, to 'learn' the data soon (the "
        "authors' ipm), or the smallest, to 'keep' what W does on it (kpm).",
    )


@dataclass(frozen=True)
class CovarianceStart(StartFamily):
    """LoRA from the singular vectors of W times the covariance of its inputs."""

    def lora_options(self, config: Any, context: Context) -> dict[str, Any]:
        from peft.tuners.lora.config import CordaConfig

        method: Any = METHODS[config.purpose]
        return {"init_lora_weights": "corda", "corda_config": CordaConfig(corda_method=method)}

    def prepare(self, model: "torch.nn.Module", peft_config: Any, config: Any, context: Context) -> None:
        from peft.tuners.lora.corda import preprocess_corda

        batches = need_batches(self.name, context)

        def look() -> None:
            """Shows the model one example at a time, without padding, since PEFT's hooks weigh all tokens equally."""
            for batch in batches:
                given = model_inputs(batch, model, labels=False)
                for row, length in enumerate(batch["attention_mask"].sum(dim=1).tolist()):
                    model(**{key: value[row : row + 1, :length] for key, value in given.items()})

        was_training = model.training
        preprocess_corda(model, peft_config, look)
        model.train(was_training)


VARIANT = CovarianceStart(
    name="corda",
    label="CorDA",
    family="Initialisation",
    config=Config,
    card=Card(
        sentence="Starts A and B from the directions of W that weigh most, or least, on what the module sees in your "
        "data.",
        equation=r"y = Wx + s\,(BA - B_0A_0)\,x,\quad WC = U\Sigma V^\top,\ "
        r"sB_0A_0 = U_r \Sigma_r V_r^\top C^{-1},\ C = \overline{xx^\top}",
        parameters=r"r(m + n)",
        frozen="All of the base model and the start B₀, A₀; A and B train.",
        paper="Yang et al., CorDA: Context-Oriented Decomposition Adaptation of Large Language Models, 2024",
        url="https://arxiv.org/abs/2406.05223",
        notes="Beside PiSSA's its spectrum shows what the data add to the choice of directions: the same W, cut by "
        "what it does to these inputs rather than by its own values. It looks at a few training batches before the "
        "first step; the authors at 256 long texts of a task to be learned or kept. W is not rewritten.",
    ),
    learning_rate=8e-4,
    real_rate=2e-5,
    bits=(16,),
    memory=Memory(frozen=1),
    work=Work(frozen=4),
)
