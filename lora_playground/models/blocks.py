"""Products of a few rows with W in 16 bit, sums in float32, as vector code that Numba compiles.

A matrix (out, in) is stored as (out/16, in, 8) of uint32: in pair p of block b, output 16·b + p is the lower half as
bfloat16, output 16·b + p + 8 the upper. So a shift or a mask makes eight numbers float32, W is read from end to end,
and the sums of sixteen outputs stay in registers. It is written in LLVM's vectors because its own choice of them
reached two thirds of the speed.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import extending, types
from numba.core import cgutils

intrinsic: Any = extending.intrinsic
LANES = 8
FLOATS, WORDS = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(ir.IntType(32), LANES)
size = cgutils.intp_t


def _floats(builder: Any, place: Any) -> tuple[Any, Any]:
    """Eight pairs (uint32) at an address: their lower and their upper halves, float32."""
    pairs = builder.load(builder.bitcast(place, WORDS.as_pointer()), align=4)
    lower = builder.shl(pairs, WORDS([16] * LANES))
    upper = builder.and_(pairs, WORDS([0xFFFF0000] * LANES))
    return builder.bitcast(lower, FLOATS), builder.bitcast(upper, FLOATS)


def _same(builder: Any, place: Any) -> Any:
    """The float32 at an address, eight times."""
    one = builder.insert_element(FLOATS(ir.Undefined), builder.load(place), ir.IntType(32)(0))
    return builder.shuffle_vector(one, FLOATS(ir.Undefined), WORDS(None))


def _sum(builder: Any, sums: list[Any]) -> Any:
    """The sum of the vectors at these addresses."""
    total = builder.load(sums[0])
    for more in sums[1:]:
        total = builder.fadd(total, builder.load(more))
    return total


def _block(rows: int, apart: int) -> Any:
    """An intrinsic (W, block, x, row, y) that sets sixteen outputs y[row : row + rows, 16·block : 16·(block + 1)] of
    x Wᵀ: W as above, in a multiple of `apart`; x (R, in); y (R, ≥ out).

    Numbers of `in` are summed in `apart` parts, so that no addition has to wait for the one before.
    """

    @intrinsic
    def block(typing: Any, W: Any, block: Any, x: Any, row: Any, y: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kinds = signature.args
            block, row = (context.cast(builder, args[i], kinds[i], types.intp) for i in (1, 3))

            def at(which: int, *index: Any) -> Any:
                array = context.make_array(kinds[which])(context, builder, args[which])
                return cgutils.get_item_pointer(context, builder, kinds[which], array, list(index))

            weights = at(0, block, size(0), size(0))
            inputs = [at(2, builder.add(row, size(r)), size(0)) for r in range(rows)]
            held = context.make_array(kinds[0])(context, builder, args[0])
            count = cgutils.unpack_tuple(builder, held.shape)[1]
            # sums[r][half][part]
            sums = [
                [[cgutils.alloca_once_value(builder, FLOATS(None)) for _ in range(apart)] for _ in range(2)]
                for _ in range(rows)
            ]
            with cgutils.for_range_slice(builder, size(0), count, size(apart), size) as (i, _):
                for part in range(apart):
                    here = builder.add(i, size(part))
                    halves = _floats(builder, builder.gep(weights, [builder.mul(here, size(LANES))]))
                    for r in range(rows):
                        number = _same(builder, builder.gep(inputs[r], [here]))
                        for half, place in zip(halves, (sums[r][0][part], sums[r][1][part])):
                            product = builder.fmul(half, number, flags=("contract",))
                            builder.store(builder.fadd(builder.load(place), product, flags=("contract",)), place)
            first = builder.mul(block, size(2 * LANES))
            for r in range(rows):
                for half in range(2):
                    place = at(4, builder.add(row, size(r)), builder.add(first, size(half * LANES)))
                    total = _sum(builder, sums[r][half])
                    builder.store(total, builder.bitcast(place, FLOATS.as_pointer()), align=4)
            return context.get_dummy_value()

        return types.void(W, block, x, row, y), code

    return block


one_row, two_rows, three_rows, four_rows = _block(1, 4), _block(2, 2), _block(3, 1), _block(4, 1)
