"""Products of a few rows with W in 16 bit, and sums over rows for attention, as vector code that Numba compiles; all
sums are float32.

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


def _place(context: Any, builder: Any, kind: Any, array: Any, *index: Any) -> Any:
    """Address of an array's number at an index."""
    return cgutils.get_item_pointer(context, builder, kind, context.make_array(kind)(context, builder, array), [*index])


def _eight(builder: Any, place: Any, part: int = 0) -> Any:
    """Address of the eight float32, as one vector, that begin 8·part numbers after an address."""
    return builder.bitcast(builder.gep(place, [size(part * LANES)]), FLOATS.as_pointer())


def _add_product(builder: Any, sums: Any, one: Any, other: Any) -> None:
    """Adds one·other to the vector at an address."""
    product = builder.fmul(one, other, flags=("contract",))
    builder.store(builder.fadd(builder.load(sums), product, flags=("contract",)), sums)


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
                return _place(context, builder, kinds[which], args[which], *index)

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
                            _add_product(builder, place, half, number)
            first = builder.mul(block, size(2 * LANES))
            for r in range(rows):
                for half in range(2):
                    place = at(4, builder.add(row, size(r)), builder.add(first, size(half * LANES)))
                    total = _sum(builder, sums[r][half])
                    builder.store(total, _eight(builder, place), align=4)
            return context.get_dummy_value()

        return types.void(W, block, x, row, y), code

    return block


def _mix(vectors: int) -> Any:
    """An intrinsic (M, begin, end, w, at, y) that sets y[at : at + 8·vectors] to the sum of w[c]·M[c], c from begin to
    end, of these columns: M (C, n) with rows of one piece, w (≥ end,), y (n,), float32."""

    @intrinsic
    def mix(typing: Any, M: Any, begin: Any, end: Any, w: Any, at: Any, y: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kinds = signature.args
            begin, end, at = (context.cast(builder, args[i], kinds[i], types.intp) for i in (1, 2, 4))
            sums = [cgutils.alloca_once_value(builder, FLOATS(None)) for _ in range(vectors)]
            with cgutils.for_range_slice(builder, begin, end, size(1), size) as (c, _):
                number = _same(builder, _place(context, builder, kinds[3], args[3], c))
                row = _place(context, builder, kinds[0], args[0], c, at)
                for part, place in enumerate(sums):
                    _add_product(builder, place, builder.load(_eight(builder, row, part), align=4), number)
            out = _place(context, builder, kinds[5], args[5], at)
            for part, place in enumerate(sums):
                builder.store(builder.load(place), _eight(builder, out, part), align=4)
            return context.get_dummy_value()

        return types.void(M, begin, end, w, at, y), code

    return mix


def _dot(vectors: int) -> Any:
    """An intrinsic (M, begin, end, x, at, y) that adds M[c, at : at + 8·vectors]·x[at : at + 8·vectors] to y[c], c from
    begin to end: M (C, n) with rows of one piece, x (n,), y (≥ end,), float32."""

    @intrinsic
    def dot(typing: Any, M: Any, begin: Any, end: Any, x: Any, at: Any, y: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kinds = signature.args
            begin, end, at = (context.cast(builder, args[i], kinds[i], types.intp) for i in (1, 2, 4))
            inputs = _place(context, builder, kinds[3], args[3], at)
            numbers = [builder.load(_eight(builder, inputs, part), align=4) for part in range(vectors)]
            with cgutils.for_range_slice(builder, begin, end, size(1), size) as (c, _):
                row = _place(context, builder, kinds[0], args[0], c, at)
                weights = [builder.load(_eight(builder, row, part), align=4) for part in range(vectors)]
                total = builder.fmul(weights[0], numbers[0])
                for part in range(1, vectors):
                    product = builder.fmul(weights[part], numbers[part], flags=("contract",))
                    total = builder.fadd(total, product, flags=("contract",))
                for half in (4, 2, 1):
                    other = WORDS([(lane + half) % LANES for lane in range(LANES)])
                    total = builder.fadd(total, builder.shuffle_vector(total, total, other))
                out = _place(context, builder, kinds[5], args[5], c)
                builder.store(builder.fadd(builder.load(out), builder.extract_element(total, size(0))), out)
            return context.get_dummy_value()

        return types.void(M, begin, end, x, at, y), code

    return dot


one_dotted, four_dotted = _dot(1), _dot(4)
one_mixed, four_mixed = _mix(1), _mix(4)
one_row, two_rows, three_rows, four_rows = _block(1, 4), _block(2, 2), _block(3, 1), _block(4, 1)
