"""A frozen matrix in 16 bit beside the model's own in float32, packed for products with few rows.

A reply is decoded at the speed at which W is read, and MKL reads it more slowly for two rows than for one. FBGEMM's
product of float32 rows with a 16-bit matrix reads half the bytes, once for all rows, and sums in float32. Weights that
were stored in 16 bit lose nothing by it; any other matrix is declined. It knows matrices, not what they are for.
"""

from __future__ import annotations

import logging
import warnings

import torch

LARGEST = 150_000_000
"""Weights of a model of which all are packed; twice as many bytes."""
LOSS = 1e-7
"""Largest part of a matrix's norm that its 16-bit form may lose: what float32 itself loses in a product."""
ROWS = 32
"""With more rows than these the product is arithmetic, and MKL's own is no slower."""

log = logging.getLogger(__name__)


def pack(weight: torch.Tensor) -> torch.Tensor | None:
    """W (out, in) packed for `multiply`; None where it would change, or where this processor or torch cannot."""
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        return None
    half = weight.half()
    norm = float(weight.norm())
    if not float((half.float() - weight).norm()) <= LOSS * norm:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch means to drop these functions one day; then MKL's product is used
        try:
            packed: torch.Tensor = torch.fbgemm_pack_gemm_matrix_fp16(weight.contiguous())
            x = torch.linspace(-1, 1, weight.shape[1]).cos().expand(2, -1).contiguous()
            got = x.new_empty(2, weight.shape[0])
            multiply(x, packed, None, got)
        except (AttributeError, RuntimeError) as error:
            log.info("Weights are not packed in 16 bit: %s", error)
            return None
    if not float((got - x @ weight.t()).abs().max()) <= 1e-5 * norm:
        log.warning("The product with weights packed in 16 bit differs; not used.")
        return None
    return packed


def multiply(x: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor) -> None:
    """x Wᵀ + b of rows x (R, in), into `out` (R, out), which must be contiguous."""
    torch.ops.aten.fbgemm_linear_fp16_weight_fp32_activation.out(x, packed, bias, output=out)
