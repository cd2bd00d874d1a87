"""The whole forward pass of some tokens of a batch, compiled by Numba: W in 16 bit, sums in float32.

At a few million parameters calls cost more than arithmetic, and reading W as much. Here all layers are one call, W is
read once for all tokens, and processors share the outputs of a product. It knows arrays; nothing of torch, models or
whose a row is.

A matrix (out, in) is stored in blocks of sixteen outputs, see `models.blocks`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from lora_playground.models.blocks import (
    four_dotted,
    four_mixed,
    four_rows,
    one_dotted,
    one_mixed,
    one_row,
    three_rows,
    two_rows,
)
from lora_playground.models.turns import INDEX, PARTS, called, done, ended, met, waited

# Sums may be reordered, which vector units need; infinities and NaN stay what they are.
SUMS = {"contract", "reassoc", "nsz", "arcp"}
# And with error_model="numpy" no division is looked at whether it is one by zero, which vector units need as well.
Array = np.ndarray[Any, Any]


@njit(fastmath={"contract"}, inline="always")
def exponential(x: np.float32) -> np.float32:
    """e^x to 2e-7 of itself, without a call, so that loops over it use vectors; 0 below −87, e^88 above 88."""
    x = min(max(x, np.float32(-87.5)), np.float32(88.0))
    n = np.floor(x * np.float32(1.4426950408889634) + np.float32(0.5))
    f = (x - n * np.float32(0.693359375)) + n * np.float32(2.12194440e-4)
    p = np.float32(1 / 5040)
    p = p * f + np.float32(1 / 720)
    p = p * f + np.float32(1 / 120)
    p = p * f + np.float32(1 / 24)
    p = p * f + np.float32(1 / 6)
    p = p * f + np.float32(0.5)
    p = p * f + np.float32(1)
    p = p * f + np.float32(1)
    return p * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


@njit
def product(W: Array, x: Array, y: Array, begin: int, end: int) -> None:
    """y = x Wᵀ, columns 16·begin..16·end of it: W (out/16, in, 8) pairs, x (R, in), y (≥ R, ≥ out)."""
    rows = x.shape[0]
    for block in range(begin, end):
        row = 0
        while rows - row >= 4:
            four_rows(W, block, x, row, y)
            row += 4
        if rows - row == 3:
            three_rows(W, block, x, row, y)
        elif rows - row == 2:
            two_rows(W, block, x, row, y)
        elif rows - row == 1:
            one_row(W, block, x, row, y)


@njit(fastmath=SUMS, error_model="numpy")
def added(x: Array, y: Array, begin: int, end: int, slots: Array, numbers: Array, part: Array, scales: Array) -> None:
    """Adds to columns begin..end of y what one update says of x (R, in): to each row the s·B·A·x of its slot.

    part = (offset of A (K, in) in `numbers`, of Bᵀ (K, outs), K, first column of the strengths in `scales` (slots,
    all K), first column of y, last).
    """
    at, place, K, own, left, right = part
    outs, width = right - left, x.shape[1]
    low, high = max(left, begin), min(right, end)
    if low >= high:
        return
    for row in range(x.shape[0]):
        xr, yr, strengths = x[row], y[row, low:high], scales[slots[row], own : own + K]
        for k in range(K):
            if strengths[k] == 0.0:
                continue
            a = numbers[at + k * width : at + (k + 1) * width]
            b = numbers[place + k * outs + low - left : place + k * outs + high - left]
            t = np.float32(0)
            for i in range(width):
                t += a[i] * xr[i]
            t *= strengths[k]
            for o in range(high - low):
                yr[o] += t * b[o]


@njit(fastmath=SUMS, error_model="numpy")
def normed(x: Array, weight: Array, epsilon: np.float32, h: Array) -> None:
    """h = x / rms(x) · weight, of rows."""
    d = x.shape[1]
    for row in range(x.shape[0]):
        xr, hr = x[row], h[row]
        total = np.float32(0)
        for i in range(d):
            total += xr[i] * xr[i]
        factor = np.float32(1) / np.sqrt(total / np.float32(d) + epsilon)
        for i in range(d):
            hr[i] = xr[i] * factor * weight[i]


@njit(fastmath=SUMS, error_model="numpy")
def summed(x: Array, y: Array, begin: int, end: int) -> None:
    """x += y, columns begin..end."""
    for row in range(x.shape[0]):
        xr, yr = x[row, begin:end], y[row, begin:end]
        for i in range(end - begin):
            xr[i] += yr[i]


@njit(fastmath=SUMS, error_model="numpy")
def turned(heads: Array, cos: Array, sin: Array) -> None:
    """Rotates heads (n, size) in place: cos, sin (size/2,) of a position."""
    half = cos.shape[0]
    for head in range(heads.shape[0]):
        a, b = heads[head, :half], heads[head, half:]
        for i in range(half):
            p, q = a[i], b[i]
            a[i] = p * cos[i] - q * sin[i]
            b[i] = q * cos[i] + p * sin[i]


@njit(fastmath=SUMS, error_model="numpy")
def dotted(M: Array, begin: int, end: int, x: Array, y: Array) -> None:
    """y[c] = M[c]·x, c from begin to end: M (C, n), x (n,), y (≥ end,)."""
    at, n = 0, x.shape[0]
    for c in range(begin, end):
        y[c] = 0
    while n - at >= 32:
        four_dotted(M, begin, end, x, at, y)
        at += 32
    while n - at >= 8:
        one_dotted(M, begin, end, x, at, y)
        at += 8
    for i in range(at, n):
        for c in range(begin, end):
            y[c] += M[c, i] * x[i]


@njit(fastmath=SUMS, error_model="numpy")
def mixed(M: Array, begin: int, end: int, w: Array, y: Array) -> None:
    """y (n,) = sum of w[c]·M[c] over c from begin to end: M (C, n), w (≥ end,)."""
    at, n = 0, y.shape[0]
    while n - at >= 32:
        four_mixed(M, begin, end, w, at, y)
        at += 32
    while n - at >= 8:
        one_mixed(M, begin, end, w, at, y)
        at += 8
    for i in range(at, n):
        total = np.float32(0)
        for c in range(begin, end):
            total += w[c] * M[c, i]
        y[i] = total


@njit(fastmath=SUMS, error_model="numpy")
def attended(
    q: Array, keys: Array, values: Array, begin: int, end: int, scale: np.float32, scores: Array, out: Array
) -> None:
    """out (heads, size) = softmax(q Kᵀ · scale) V of columns begin..end: q (heads, size), which share keys and values
    (columns, size); scores (≥ columns,) is scratch."""
    size = q.shape[1]
    for head in range(q.shape[0]):
        qh, oh = q[head], out[head]
        dotted(keys, begin, end, qh, scores)
        seen = scores[begin:end]
        most = np.float32(-np.inf)
        for c in range(end - begin):
            most = max(most, seen[c])
        for c in range(end - begin):
            seen[c] = exponential((seen[c] - most) * scale)
        total = np.float32(0)
        for c in range(end - begin):
            total += seen[c]
        mixed(values, begin, end, scores, oh)
        for i in range(size):
            oh[i] /= total


@njit(fastmath=SUMS, error_model="numpy")
def gated(gate_up: Array, s: Array, begin: int, end: int) -> None:
    """s = silu(gate) · up, columns begin..end: gate_up (R, 2·n), s (R, n)."""
    n = s.shape[1]
    for row in range(s.shape[0]):
        gate, up, sr = gate_up[row, begin:end], gate_up[row, n + begin : n + end], s[row, begin:end]
        for i in range(end - begin):
            sr[i] = gate[i] / (np.float32(1) + exponential(-gate[i])) * up[i]


@njit(fastmath=SUMS, error_model="numpy")
def tokens(
    who: int, parts: int, states: Array,
    ids: Array, slots: Array, columns: Array, starts: Array, wanted: Array,
    table: Array, steps: Array, matrices: tuple[Array, Array, Array, Array, Array], bias: Array, norms: Array,
    epsilon: np.float32, cos: Array, sin: Array, whole: Array, scale: np.float32,
    numbers: Array, heads: Array, updates: Array, scales: Array,
    each_h: Array, each_final: Array, each_scores: Array, x: Array, qkv: Array, a: Array, gate_up: Array, s: Array,
    y: Array, logits: Array,
) -> None:  # fmt: skip
    """Reads tokens and writes the logits (W, V) of those that are wanted: part `who` of so many parts of that work.

    Of every product a part computes some of the outputs, so that W is read once, and waits for the others where it
    needs theirs. Sums are the same however many parts there are.

    Token t goes to column columns[t] of the row slots[t] of keys and values, which begins at starts[t]; those of one
    row stand in order. ids, slots, columns, starts (T,); wanted (W,): which tokens; table (V·d,), in which a token and
    a number are `steps` apart; matrices: qkv, o, gate-up, down, each with a dimension of layers before its own, and the
    head; bias (layers, outs of qkv); norms (2·layers + 1, d); cos, sin (positions, size/2); whole (layers, 2, slots,
    groups, columns, size); numbers, updates, scales and heads (layers, 4, 2): the updates heads[l, g] = first..last of
    `updates` add to product g, see `added`; the rest is scratch, that of `each` for each part its own.
    """
    Wqkv, Wo, Wgate_up, Wdown, Whead = matrices
    layers, count, d = Wqkv.shape[0], x.shape[0], x.shape[1]
    groups, size = whole.shape[3], whole.shape[5]
    queries = a.shape[1] // size
    shared = queries // groups
    h, scores = each_h[who], each_scores[who]
    n = s.shape[1]
    q0, q1 = Wqkv.shape[1] * who // parts, Wqkv.shape[1] * (who + 1) // parts
    d0, d1 = Wo.shape[1] * who // parts, Wo.shape[1] * (who + 1) // parts
    s0, s1 = n // 16 * who // parts, n // 16 * (who + 1) // parts
    units = slots[count - 1] - slots[0] + 1
    u0, u1 = units * groups * who // parts, units * groups * (who + 1) // parts
    meeting = 0
    for t in range(count):
        for i in range(16 * d0, 16 * d1):
            x[t, i] = table[ids[t] * steps[0] + i * steps[1]]
    for layer in range(layers):
        meeting = met(states, parts, meeting)
        normed(x, norms[2 * layer], epsilon, h)
        product(Wqkv[layer], h, qkv, q0, q1)
        for update in range(heads[layer, 0, 0], heads[layer, 0, 1]):
            added(h, qkv, 16 * q0, 16 * q1, slots, numbers, updates[update], scales)
        if bias.shape[1]:
            for t in range(count):
                for i in range(16 * q0, 16 * q1):
                    qkv[t, i] += bias[layer, i]
        meeting = met(states, parts, meeting)
        for t in range(count):
            slot, column, start = slots[t], columns[t], starts[t]
            by_head, out = qkv[t].reshape(queries + 2 * groups, size), a[t].reshape(queries, size)
            for group in range(groups):
                unit = (slot - slots[0]) * groups + group
                if unit < u0 or unit >= u1:
                    continue
                own = by_head[group * shared : (group + 1) * shared]
                key, value = by_head[queries + group : queries + group + 1], by_head[queries + groups + group]
                turned(own, cos[column - start], sin[column - start])
                turned(key, cos[column - start], sin[column - start])
                keys, values = whole[layer, 0, slot, group], whole[layer, 1, slot, group]
                key_to, value_to = keys[column], values[column]
                for i in range(size):
                    key_to[i], value_to[i] = key[0, i], value[i]
                attended(
                    own, keys, values, start, column + 1, scale, scores, out[group * shared : (group + 1) * shared]
                )
        meeting = met(states, parts, meeting)
        product(Wo[layer], a, y, d0, d1)
        for update in range(heads[layer, 1, 0], heads[layer, 1, 1]):
            added(a, y, 16 * d0, 16 * d1, slots, numbers, updates[update], scales)
        summed(x, y, 16 * d0, 16 * d1)
        meeting = met(states, parts, meeting)
        normed(x, norms[2 * layer + 1], epsilon, h)
        product(Wgate_up[layer], h, gate_up, s0, s1)
        product(Wgate_up[layer], h, gate_up, n // 16 + s0, n // 16 + s1)
        for update in range(heads[layer, 2, 0], heads[layer, 2, 1]):
            added(h, gate_up, 16 * s0, 16 * s1, slots, numbers, updates[update], scales)
            added(h, gate_up, n + 16 * s0, n + 16 * s1, slots, numbers, updates[update], scales)
        gated(gate_up, s, 16 * s0, 16 * s1)
        meeting = met(states, parts, meeting)
        product(Wdown[layer], s, y, d0, d1)
        for update in range(heads[layer, 3, 0], heads[layer, 3, 1]):
            added(s, y, 16 * d0, 16 * d1, slots, numbers, updates[update], scales)
        summed(x, y, 16 * d0, 16 * d1)
    meeting = met(states, parts, meeting)
    normed(x, norms[2 * layers], epsilon, h)
    final = each_final[who]
    for w in range(final.shape[0]):
        row, to = h[wanted[w]], final[w]
        for i in range(d):
            to[i] = row[i]
    product(Whead, final, logits, Whead.shape[0] * who // parts, Whead.shape[0] * (who + 1) // parts)


@njit(nogil=True, cache=True)
def lead(states: Array, hold: int, given: tuple[Any, ...]) -> int:
    """Does `tokens` (its arguments from the fourth on in `given`) together with those threads that are ready, or will
    be within so many looks; how many they were with this one."""
    parts = called(states, hold)
    tokens(0, parts, states, *given)
    ended(states)
    return parts


@njit(nogil=True, cache=True)
def follow(who: int, states: Array, patience: int, given: tuple[Any, ...]) -> None:
    """Does a part of `tokens` whenever a leader calls, until none did for `patience` looks."""
    while waited(states, who, patience):
        tokens(states[who, INDEX], states[who, PARTS], states, *given)
        done(states, who)
