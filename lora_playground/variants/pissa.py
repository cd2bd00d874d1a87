"""PiSSA: LoRA that starts from the largest singular directions of W."""

from dataclasses import dataclass
from typing import Any

from lora_playground.config import LowRankConfig
from lora_playground.variants.base import Card, Context, Memory, Work
from lora_playground.variants.start_family import StartFamily


class Config(LowRankConfig):
    """Options of PiSSA."""

    name: str = "pissa"


@dataclass(frozen=True)
class PrincipalStart(StartFamily):
    """LoRA that starts from the largest singular directions of W."""

    def lora_options(self, config: Any, context: Context) -> dict[str, Any]:
        return {"init_lora_weights": "pissa"}


VARIANT = PrincipalStart(
    name="pissa",
    label="PiSSA",
    family="Initialisation",
    config=Config,
    card=Card(
        sentence="Starts A and B from the largest singular vectors of W, so that training moves what matters "
        "most in W.",
        equation=r"y = Wx + s\,(BA - B_0A_0)\,x,\quad sB_0A_0 = U_r \Sigma_r V_r^\top",
        parameters=r"r(m + n)",
        frozen="All of the base model and the start B₀, A₀; A and B train.",
        paper="Meng et al., PiSSA: Principal Singular Values and Singular Vectors Adaptation, 2024",
        url="https://arxiv.org/abs/2404.02948",
        notes="Against the pristine W the update has rank up to 2r. W is not rewritten: the start is subtracted beside "
        "it. It wants a lower learning rate than LoRA, because B and A start large.",
    ),
    learning_rate=8e-4,
    real_rate=2e-5,  # as published, and as NLoRA's scripts give it
    bits=(16,),
    memory=Memory(frozen=1),
    work=Work(frozen=4),
)
