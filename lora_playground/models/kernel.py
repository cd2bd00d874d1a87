"""A token's whole forward pass for some rows of a batch, compiled by Numba: W in 16 bit, sums in float32.

At a few million parameters calls cost more than arithmetic, and two thirds of a processor's time for one row is reading
W. Here a token is one call, and W is read once for up to four rows. It knows arrays; nothing of torch, models or rows'
owners.

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
    x: Array, y: Array, first: int, last: int, width: int, numbers: Array, head: Array, parts: Array, scales: Array
) -> None:
    """Adds every row's own s·B·A·x to y. x (R, ≥ width).

    head = (offset of A in `numbers`, offset in `scales`, first part, last part); scales (R, all K): a row's
    strengths; a part = (lower and upper row of A, first column of y, last, offset of Bᵀ in `numbers`).
    """
    at, own, begin, end = head
    for row in range(first, last):
        xr = x[row, :width]
        for part in range(begin, end):
            low, high, left, right, place = parts[part]
            yr = y[row, left:right]
            for k in range(low, high):
                scale = scales[row, own + k]
                if scale == 0.0:
                    continue
                a = numbers[at + k * width : at + (k + 1) * width]
                t = np.float32(0)
                for i in range(width):
                    t += a[i] * xr[i]
                t *= scale
                b = numbers[place + (k - low) * (right - left) : place + (k - low + 1) * (right - left)]
                for o in range(right - left):
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
def token(
    first: int, last: int, ids: Array, positions: Array, starts: Array, end: int,
    table: Array, matrices: tuple[Array, Array, Array, Array, Array], bias: Array, norms: Array, epsilon: np.float32,
    cos: Array, sin: Array, whole: Array, scale: np.float32,
    numbers: Array, heads: Array, parts: Array, scales: Array,
    x: Array, h: Array, qkv: Array, a: Array, gate_up: Array, s: Array, y: Array, scores: Array, logits: Array,
) -> None:  # fmt: skip
    """Rows first..last read a token each and write their logits (R, V).

    ids, positions, starts (R,); table (V, d); matrices: qkv, o, gate-up, down, each (layers, out, in/2), and the head
    (V, d/2); bias (layers, outs of qkv); norms (2·layers + 1, d); cos, sin (positions, size/2); whole: keys and values
    (layers, 2, R, groups, columns, size), column `end` of which is written; numbers, heads (layers, 4, 4), parts,
    scales: what is added, see `added`; the rest is scratch, a row each.
    """
    Wqkv, Wo, Wgate_up, Wdown, Whead = matrices
    layers, d = Wqkv.shape[0], x.shape[1]
    groups, size = whole.shape[3], whole.shape[5]
    queries = a.shape[1] // size
    for row in range(first, last):
        x[row] = table[ids[row]]
    for layer in range(layers):
        normed(x, norms[2 * layer], epsilon, h, first, last)
        product(Wqkv[layer], h, qkv, first, last)
        added(h, qkv, first, last, d, numbers, heads[layer, 0], parts, scales)
        for row in range(first, last):
            for i in range(bias.shape[1]):
                qkv[row, i] += bias[layer, i]
            by_head = qkv[row].reshape(queries + 2 * groups, size)
            at = positions[row]
            turned(by_head[: queries + groups], cos[at], sin[at])
            for group in range(groups):
                for i in range(size):
                    whole[layer, 0, row, group, end, i] = by_head[queries + group, i]
                    whole[layer, 1, row, group, end, i] = by_head[queries + groups + group, i]
            attended(
                by_head[:queries], whole[layer, 0, row], whole[layer, 1, row], starts[row], end + 1, scale,
                scores[row], a[row].reshape(queries, size),
            )  # fmt: skip
        product(Wo[layer], a, y, first, last)
        added(a, y, first, last, a.shape[1], numbers, heads[layer, 1], parts, scales)
        for row in range(first, last):
            for i in range(d):
                x[row, i] += y[row, i]
        normed(x, norms[2 * layer + 1], epsilon, h, first, last)
        product(Wgate_up[layer], h, gate_up, first, last)
        added(h, gate_up, first, last, d, numbers, heads[layer, 2], parts, scales)
        gated(gate_up, s, first, last)
        product(Wdown[layer], s, y, first, last)
        added(s, y, first, last, s.shape[1], numbers, heads[layer, 3], parts, scales)
        for row in range(first, last):
            for i in range(d):
                x[row, i] += y[row, i]
    normed(x, norms[2 * layers], epsilon, h, first, last)
    product(Whead, h, logits, first, last)
