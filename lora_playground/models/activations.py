"""How strongly updates act on the real inputs h of their modules: ‖ΔW·h‖ over the tokens of some texts.

It knows a decoder and updates; nothing of runs and datasets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from lora_playground.analysis.update import Update
from lora_playground.models.batched_lora import RowUpdate, batch_update
from lora_playground.models.decoding import Decoder
from lora_playground.models.placed_update import named_modules


def responses(
    decoder: Decoder, texts: Sequence[Sequence[int]], at_work: RowUpdate | None, adapters: Sequence[Sequence[Update]]
) -> list[float]:
    """√(Σ‖ΔW·h‖²) of each adapter over modules and tokens.

    Args:
        texts: token ids of each text. at_work: the update that is active while h is taken, None for the base.
        adapters: the updates of each; only those of matrices count.
    """
    modules = named_modules(decoder.model)
    by_name: dict[str, list[tuple[int, Update]]] = {}
    for index, updates in enumerate(adapters):
        for update in updates:
            if len(update.shape) == 2 and update.name in modules:
                by_name.setdefault(update.name, []).append((index, update))
    squares = np.zeros(len(adapters))

    def counting(changes: list[tuple[int, Update]]) -> Callable[[Any, Any], None]:
        def count(module: Any, given: Any) -> None:
            if not given[0].is_floating_point():  # an embedding reads token ids
                return
            X = given[0].detach().reshape(-1, given[0].shape[-1]).double().cpu().numpy()
            for index, update in changes:
                if update.B is not None and update.A is not None:
                    change = (X @ update.A.T) @ update.B.T
                else:
                    change = X @ update.matrix().T
                squares[index] += float(np.sum(change**2))

        return count

    hooks = [modules[name].register_forward_pre_hook(counting(changes)) for name, changes in by_name.items()]
    try:
        with decoder.evaluating():
            for ids in texts:
                with batch_update(decoder.model, [at_work]).applied(len(ids)):
                    decoder.model(input_ids=torch.tensor([list(ids)], device=decoder.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return [float(value) for value in np.sqrt(squares)]
