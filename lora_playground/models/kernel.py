"""The whole forward pass of some tokens of a batch, compiled by Numba: W in 16 bit, sums in float32.

At a few million parameters calls cost more than arithmetic, and reading W as much. Here all layers are one call, and W
is read once for up to four tokens. It knows arrays; nothing of torch, models or whose a row is.

A matrix (out, in) is stored as (out, in/2) of uint32: bfloat16 number i in the lower half, number i + in/2 in the
upper, so that a shift or a mask makes each a float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

# Sums may be reordered, which vector units need; infinities and NaN stay what they are.
SUMS = {"contract", "reassoc", "nsz", "arcp"}
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


@njit(fastmath=SUMS, inline="always")
def lower(pair: np.uint32) -> np.float32:
    """The number in a pair's lower half."""
    return np.uint32(pair << np.uint32(16)).view(np.float32)


@njit(fastmath=SUMS, inline="always")
def upper(pair: np.uint32) -> np.float32:
    """The number in a pair's upper half."""
    return np.uint32(pair & np.uint32(0xFFFF0000)).view(np.float32)


@njit(fastmath=SUMS)
def product(W: Array, x: Array, y: Array, first: int, last: int) -> None:
    """y[first:last] = x[first:last] Wᵀ: W (out, in/2) pairs, x (R, ≥ in), y (R, ≥ out)."""
    half = W.shape[1]
    row = first
    while row < last:
        a0, b0 = x[row, :half], x[row, half : 2 * half]
        if last - row >= 4:
            a1, b1 = x[row + 1, :half], x[row + 1, half : 2 * half]
            a2, b2 = x[row + 2, :half], x[row + 2, half : 2 * half]
            a3, b3 = x[row + 3, :half], x[row + 3, half : 2 * half]
            for o in range(W.shape[0]):
                w = W[o]
                s0 = s1 = s2 = s3 = np.float32(0)
                for i in range(half):
                    low, high = lower(w[i]), upper(w[i])
                    s0 += low * a0[i] + high * b0[i]
                    s1 += low * a1[i] + high * b1[i]
                    s2 += low * a2[i] + high * b2[i]
                    s3 += low * a3[i] + high * b3[i]
                y[row, o], y[row + 1, o], y[row + 2, o], y[row + 3, o] = s0, s1, s2, s3
            row += 4
        elif last - row >= 2:
            a1, b1 = x[row + 1, :half], x[row + 1, half : 2 * half]
            for o in range(W.shape[0]):
                w = W[o]
                s0 = s1 = np.float32(0)
                for i in range(half):
                    low, high = lower(w[i]), upper(w[i])
                    s0 += low * a0[i] + high * b0[i]
                    s1 += low * a1[i] + high * b1[i]
                y[row, o], y[row + 1, o] = s0, s1
            row += 2
        else:
            for o in range(W.shape[0]):
                w = W[o]
                s0 = np.float32(0)
                for i in range(half):
                    s0 += lower(w[i]) * a0[i] + upper(w[i]) * b0[i]
                y[row, o] = s0
            row += 1


@njit(fastmath=SUMS)
def added(
    x: Array, y: Array, first: int, last: int, width: int, slots: Array, numbers: Array, part: Array, scales: Array
) -> None:
    """Adds to y what one update says of x (R, ≥ width): to each row the s·B·A·x of its slot.

    part = (offset of A (K, width) in `numbers`, of Bᵀ (K, outs), K, first column of the strengths in `scales` (slots,
    all K), first column of y, last).
    """
    at, place, K, own, left, right = part
    outs = right - left
    for row in range(first, last):
        xr, yr, strengths = x[row, :width], y[row, left:right], scales[slots[row], own : own + K]
        for k in range(K):
            if strengths[k] == 0.0:
                continue
            a, b = numbers[at + k * width : at + (k + 1) * width], numbers[place + k * outs : place + (k + 1) * outs]
            t = np.float32(0)
            for i in range(width):
                t += a[i] * xr[i]
            t *= strengths[k]
            for o in range(outs):
                yr[o] += t * b[o]


@njit(fastmath=SUMS)
def normed(x: Array, weight: Array, epsilon: np.float32, h: Array, first: int, last: int) -> None:
    """h = x / rms(x) · weight, of rows."""
    d = x.shape[1]
    for row in range(first, last):
        xr, hr = x[row], h[row]
        total = np.float32(0)
        for i in range(d):
            total += xr[i] * xr[i]
        factor = np.float32(1) / np.sqrt(total / np.float32(d) + epsilon)
        for i in range(d):
            hr[i] = xr[i] * factor * weight[i]


@njit(fastmath=SUMS)
def summed(x: Array, y: Array, first: int, last: int) -> None:
    """x += y, of rows."""
    for row in range(first, last):
        for i in range(x.shape[1]):
            x[row, i] += y[row, i]


@njit(fastmath=SUMS)
def turned(heads: Array, cos: Array, sin: Array) -> None:
    """Rotates heads (n, size) in place: cos, sin (size/2,) of a position."""
    half = cos.shape[0]
    for head in range(heads.shape[0]):
        a, b = heads[head, :half], heads[head, half:]
        for i in range(half):
            p, q = a[i], b[i]
            a[i] = p * cos[i] - q * sin[i]
            b[i] = q * cos[i] + p * sin[i]


@njit(fastmath=SUMS)
def attended(
    q: Array, keys: Array, values: Array, begin: int, end: int, scale: np.float32, scores: Array, out: Array
) -> None:
    """out (heads, size) = softmax(q Kᵀ · scale) V of columns begin..end: q (heads, size); keys, values (groups,
    columns, size), each shared by as many heads; scores (≥ columns,) is scratch."""
    heads, size = q.shape
    share = heads // keys.shape[0]
    for head in range(heads):
        qh, oh, group = q[head], out[head], head // share
        most = np.float32(-np.inf)
        for c in range(begin, end):
            s, k = np.float32(0), keys[group, c]
            for i in range(size):
                s += qh[i] * k[i]
            scores[c] = s * scale
            most = max(most, scores[c])
        total = np.float32(0)
        for c in range(begin, end):
            p = exponential(scores[c] - most)
            scores[c] = p
            total += p
        for i in range(size):
            oh[i] = 0
        for c in range(begin, end):
            p, v = scores[c] / total, values[group, c]
            for i in range(size):
                oh[i] += p * v[i]


@njit(fastmath=SUMS)
def gated(gate_up: Array, s: Array, first: int, last: int) -> None:
    """s = silu(gate) · up: gate_up (R, 2·n), s (R, n)."""
    n = s.shape[1]
    for row in range(first, last):
        gate, up, sr = gate_up[row, :n], gate_up[row, n:], s[row]
        for i in range(n):
            sr[i] = gate[i] / (np.float32(1) + exponential(-gate[i])) * up[i]


@njit(fastmath=SUMS, nogil=True, cache=True)
def tokens(
    first: int, last: int, first_wanted: int, last_wanted: int,
    ids: Array, slots: Array, columns: Array, starts: Array, wanted: Array,
    table: Array, matrices: tuple[Array, Array, Array, Array, Array], bias: Array, norms: Array, epsilon: np.float32,
    cos: Array, sin: Array, whole: Array, scale: np.float32, numbers: Array, heads: Array, parts: Array, scales: Array,
    x: Array, h: Array, qkv: Array, a: Array, gate_up: Array, s: Array, y: Array, scores: Array, final: Array,
    logits: Array,
) -> None:  # fmt: skip
    """Tokens first..last are read, and of those that are wanted, first_wanted..last_wanted, the logits (W, V) written.

    Token t goes to column columns[t] of the row slots[t] of keys and values, which begins at starts[t]; those of one
    row stand in order. ids, slots, columns, starts (T,); wanted (W,): which tokens; table (V, d); matrices: qkv, o,
    gate-up, down, each (layers, out, in/2), and the head (V, d/2); bias (layers, outs of qkv); norms (2·layers + 1, d);
    cos, sin (positions, size/2); whole (layers, 2, slots, groups, columns, size); numbers, parts, scales and heads
    (layers, 4, 2): the updates heads[l, g] = first..last of `parts` add to product g, see `added`; the rest is scratch.
    """
    Wqkv, Wo, Wgate_up, Wdown, Whead = matrices
    layers, d = Wqkv.shape[0], x.shape[1]
    groups, size = whole.shape[3], whole.shape[5]
    queries = a.shape[1] // size
    for t in range(first, last):
        x[t] = table[ids[t]]
    for layer in range(layers):
        normed(x, norms[2 * layer], epsilon, h, first, last)
        product(Wqkv[layer], h, qkv, first, last)
        for part in range(heads[layer, 0, 0], heads[layer, 0, 1]):
            added(h, qkv, first, last, d, slots, numbers, parts[part], scales)
        for t in range(first, last):
            slot, column, start = slots[t], columns[t], starts[t]
            for i in range(bias.shape[1]):
                qkv[t, i] += bias[layer, i]
            by_head = qkv[t].reshape(queries + 2 * groups, size)
            turned(by_head[: queries + groups], cos[column - start], sin[column - start])
            for group in range(groups):
                for i in range(size):
                    whole[layer, 0, slot, group, column, i] = by_head[queries + group, i]
                    whole[layer, 1, slot, group, column, i] = by_head[queries + groups + group, i]
            attended(
                by_head[:queries], whole[layer, 0, slot], whole[layer, 1, slot], start, column + 1, scale,
                scores[t], a[t].reshape(queries, size),
            )  # fmt: skip
        product(Wo[layer], a, y, first, last)
        for part in range(heads[layer, 1, 0], heads[layer, 1, 1]):
            added(a, y, first, last, a.shape[1], slots, numbers, parts[part], scales)
        summed(x, y, first, last)
        normed(x, norms[2 * layer + 1], epsilon, h, first, last)
        product(Wgate_up[layer], h, gate_up, first, last)
        for part in range(heads[layer, 2, 0], heads[layer, 2, 1]):
            added(h, gate_up, first, last, d, slots, numbers, parts[part], scales)
        gated(gate_up, s, first, last)
        product(Wdown[layer], s, y, first, last)
        for part in range(heads[layer, 3, 0], heads[layer, 3, 1]):
            added(s, y, first, last, s.shape[1], slots, numbers, parts[part], scales)
        summed(x, y, first, last)
    normed(x, norms[2 * layers], epsilon, h, first, last)
    for w in range(first_wanted, last_wanted):
        final[w] = h[wanted[w]]
    product(Whead, final, logits, first_wanted, last_wanted)
