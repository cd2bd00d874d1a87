"""Training: `train(model, plan, emit, should_stop, checkpoints)`. It knows no user interface and no run folder."""

from lora_playground.training.plan import TrainOutcome, TrainPlan

__all__ = ["TrainOutcome", "TrainPlan", "train"]


def __getattr__(name: str) -> object:
    # Torch is imported when the loop is asked for, not by everyone who only names the plan.
    if name == "train":
        from lora_playground.training.loop import train

        return train
    raise AttributeError(name)
