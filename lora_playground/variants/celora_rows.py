"""Which modules CE-LoRA approximates, and how many rows of W it keeps in them, by name and shape. Needs no torch."""

from __future__ import annotations

import math
import re
from typing import Any

MIDDLE = ("v_proj", "o_proj", "out_proj", "attn.c_proj", "dense")
WIDE = ("up_proj", "down_proj", "fc1", "fc2", "c_fc", "mlp.c_proj", "gate_up_proj")


def kept_share(name: str, options: Any) -> float:
    """The share of W's rows that is kept in the gradient through a module; 1 is exact.

    Args:
        name: the module's.
        options: the variant's options or its tuner's config. If they have the model's `depth` in decoder layers, the
            tilt is added to the share in the last layer, subtracted in the first, and interpolated between them, within
            0.05 to 1: an error in one layer's gradient reaches all layers below it.
    """
    if not options.amm:
        return 1.0
    share = options.ratio_attention if name.endswith(MIDDLE) else options.ratio_other
    share = options.ratio_mlp if name.endswith(WIDE) else share
    layer, depth = re.search(r"\.(\d+)\.", f".{name}."), getattr(options, "depth", 0)
    if share == 1.0 or depth < 2 or layer is None:
        return float(share)
    height = 2 * int(layer[1]) / (depth - 1) - 1
    return min(1.0, max(0.05, share + options.tilt * height))


def frozen_directions(shape: tuple[int, int], options: Any, rank: int) -> int:
    """q: directions of W (m, n) that stay exact; 0 without Double-LoRA, 7/8 of the rank if no number is given."""
    if not options.double_lora:
        return 0
    q = max(1, 7 * rank // 8) if options.frozen_rank is None else options.frozen_rank
    return int(min(q, *shape))


def products(shape: tuple[int, int], rows: int, q: int) -> int:
    """Multiplications for one token's gradient through W (m, n): dY·B₀, then [dY·B₀, dY_I]·[A₀; Ws_I]; m·n if exact."""
    m, n = shape
    return m * n if rows >= m else m * q + (q + rows) * n


def rows_kept(name: str, shape: tuple[int, int], options: Any, rank: int) -> int:
    """k = |I|: how many of the m rows are kept. All m, which is exact, if the option `only_where_it_saves` is set and
    fewer would save no arithmetic."""
    rows = min(shape[0], math.ceil(kept_share(name, options) * shape[0]))
    cheaper = products(shape, rows, frozen_directions(shape, options, rank)) < math.prod(shape)
    return rows if cheaper or not options.only_where_it_saves else shape[0]
