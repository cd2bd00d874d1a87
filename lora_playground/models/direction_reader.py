"""Reads one singular direction σᵢuᵢvᵢᵀ of an update: how strongly every token of a prompt activates it (vᵢᵀx), and
which tokens it makes more and less probable (W_U·uᵢ), always beside random directions, and with token frequency
removed.

It knows a decoder and updates placed on its model; nothing of runs. The controls follow arXiv 2506.11618 and
2511.06739.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import torch
from torch import nn

from lora_playground.analysis.directions import WRITERS, Triple, find, triple
from lora_playground.errors import ModelError
from lora_playground.models.batched_lora import RowUpdate, batch_update
from lora_playground.models.decoding import Decoder
from lora_playground.models.linear import is_conv1d, linear_shape
from lora_playground.models.placed_update import PlacedUpdate, named_modules, unwrapped

NEUTRAL = (
    "The", "In the year", "I think that", "How do you", "It is a", "Please tell me about", "When we went to", "- ",
)  # fmt: skip
"""Beginnings of texts; the mean of the base's next-token probabilities after them is taken as token frequency."""
RANDOM_READS, RANDOM_SAYS = 128, 16
"""How many random directions a direction is compared with, on its input and on its output side."""
SHOWN = 8
CHUNK = 16_384
"""Rows of W_U that are converted to float32 at a time."""
LONGEST = 512
"""The most tokens of a prompt; the last ones are used."""


class DirectionReader:
    """Reads directions of updates placed on one model. Only the thread that runs the model may use it.

    Args:
        decoder: of the base.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder, self._model = decoder, decoder.model
        self._log_frequency: torch.Tensor | None = None
        self._token_sizes: torch.Tensor | None = None

    def read(self, update: PlacedUpdate, module: str, index: int, prompt: str, seed: int = 0) -> dict[str, Any]:
        """Reads direction `index` (from 1) of a module's update.

        Args:
            update: the whole adapter, which is active while the prompt is read. prompt: a user's message.

        Returns:
            `module`, `index`, `of` (number of directions), `sigma`; `tokens`: the prompt's tokens in its template.
            `reads`: vᵢᵀx at each token, and `reads_random`: the same of a random unit vector; `reads_ratio`: root mean
            square of `reads` relative to the mean of random directions, and `reads_chance`: 5% and 95% quantiles of
            these. `says`: None, with the reason in `says_not`, or {`raised`, `lowered`: [{token, z, shift}];
            `random_raised`, `random_lowered`: the same of a random direction; `strongest`: largest |z|; `chance`: the
            largest |z| of RANDOM_SAYS random directions; `frequency`: share of the shifts' variance that token
            frequency explains}, where z is the shift divided by its standard deviation over random directions.
            `nothing`: whether nothing stands out. `sentence`: all that in words. The sign is chosen so that the
            strongest token of `reads` is positive.

        Raises:
            AdapterError, ModelError: there is no such module or direction, or the module is not linear.
        """
        found = triple(find(update.updates, module), index)
        place, one = self._placed(module, found)
        ids = self._decoder.encode([{"role": "user", "content": prompt}])[-LONGEST:]
        X = self._inputs(place, ids, RowUpdate(update))
        seed = zlib.crc32(f"{module} {seed}".encode())
        values, about = _read(X, one.v, seed)
        sign = -1.0 if values[_strongest(values)] < 0 else 1.0
        shown = {
            "module": module, "index": index, "of": found.count, "sigma": found.sigma,
            "tokens": self._pieces(ids),
            "reads": [round(float(sign * value), 5) for value in values],
            **about,
        }  # fmt: skip
        why = self._silent(place, one)
        says = None if why else self._says(torch.from_numpy(sign * one.u), seed)
        shown |= {"says": says, "says_not": why}
        shown["nothing"] = not _stands_out(shown)
        return shown | {"sentence": _sentence(shown)}

    def _placed(self, module: str, found: Triple) -> tuple[str, Triple]:
        """(the module's name in the model, the direction in (out, in) layout)."""
        modules = named_modules(self._model)
        place = module if module in modules else module.removesuffix(".weight")
        if place not in modules or linear_shape(modules[place]) is None:
            raise ModelError(f"{module} is no linear module of this model, so its directions read no tokens.")
        if place != module and is_conv1d(modules[place]):  # a Conv1D's own layout is (in, out)
            found = Triple(found.sigma, found.v, found.u, found.count)
        return place, found

    def _pieces(self, ids: list[int]) -> list[str]:
        """The text of each token with its spaces; control tokens by their names."""
        texts = [
            self._decoder.tokenizer.decode(ids[:end], clean_up_tokenization_spaces=False) for end in range(len(ids) + 1)
        ]
        return [after.removeprefix(before) if after.startswith(before) else self._decoder.tokenizer.decode([id])
                for before, after, id in zip(texts, texts[1:], ids)]  # fmt: skip

    def _inputs(self, place: str, ids: list[int], row: RowUpdate) -> np.ndarray:
        """(T, in) float64: the module's input at each token, with the adapter active."""
        kept: list[torch.Tensor] = []
        module = named_modules(self._model)[place]
        hook = module.register_forward_pre_hook(lambda _, given: kept.append(given[0].detach()))
        try:
            with self._decoder.evaluating(), batch_update(self._model, [row]).applied(len(ids)):
                self._model(input_ids=torch.tensor([ids], device=self._decoder.device), use_cache=False)
        finally:
            hook.remove()
        if not kept:
            raise ModelError(f"{place} is not used when this model reads a text.")
        return kept[0].reshape(-1, kept[0].shape[-1]).double().cpu().numpy()

    # --- what it says -------------------------------------------------------------------------------------------------

    def _silent(self, place: str, one: Triple) -> str:
        """Why the module's output cannot be read as tokens; '' if it can."""
        head = self._model.get_output_embeddings()
        *_, leaf = place.split(".")
        if leaf not in WRITERS or head is None or head.weight.shape[1] != one.u.size:
            return (
                f"{leaf} does not write to the residual stream, so what it writes is no token yet; "
                "o_proj and down_proj can be read as tokens."
            )
        layers = [name for name, _ in named_modules(self._model).items() if name.endswith("post_feedforward_layernorm")]
        if layers:
            return "this model normalises what its modules write, so that a direction alone has no fixed tokens."
        return ""

    def _unembedding(self) -> tuple[torch.Tensor, torch.Tensor, bool]:
        """(W_U (V, d) as stored, the last norm's scale γ (d,) in float32, whether that norm subtracts the mean)."""
        weight = self._model.get_output_embeddings().weight.detach()
        norm = last_norm(self._model)
        centred = isinstance(norm, nn.LayerNorm)
        gamma = torch.ones(weight.shape[1], device=weight.device)
        if centred and norm.weight is not None:  # type: ignore[union-attr]
            gamma = norm.weight.detach()  # type: ignore[union-attr, assignment]
        elif norm is not None and not centred:
            with torch.no_grad():  # by calling the norm, since scales are stored differently (Gemma's is 1 + weight)
                gamma = norm(torch.ones(1, 1, weight.shape[1], device=weight.device, dtype=weight.dtype))[0, 0]
        return weight, gamma.float(), centred

    def shifts(self, U: torch.Tensor) -> torch.Tensor:
        """(V, k) float32: the logits' change W_U·(γ ⊙ u) for directions U (d, k) of the residual stream, up to the
        factor 1/rms that the last norm divides by."""
        W, gamma, centred = self._unembedding()
        U = U.to(gamma)
        U = (U - U.mean(0) if centred else U) * gamma[:, None]
        return torch.cat([part.float() @ U for part in W.split(CHUNK)])

    def _sizes(self) -> torch.Tensor:
        """(V,) ‖γ ⊙ W_U[t]‖ of every token."""
        if self._token_sizes is None:
            W, gamma, _ = self._unembedding()
            self._token_sizes = torch.cat([(part.float() * gamma).norm(dim=1) for part in W.split(CHUNK)])
        return self._token_sizes

    def _frequency(self) -> torch.Tensor:
        """(V,) float32: log of the base's mean next-token probability over NEUTRAL texts."""
        if self._log_frequency is None:
            texts = [list(self._decoder.tokenizer(text)["input_ids"]) or [0] for text in NEUTRAL]
            longest = max(map(len, texts))
            # Padded at their ends, which no earlier token sees: all in one pass over the weights.
            padded = torch.tensor([ids + [0] * (longest - len(ids)) for ids in texts], device=self._decoder.device)
            real = torch.tensor([[place < len(ids) for place in range(longest)] for ids in texts], device=padded.device)
            with self._decoder.evaluating():
                logits = self._model(input_ids=padded, use_cache=False).logits
            self._log_frequency = logits[real].float().softmax(-1).mean(0).clamp_min(1e-12).log()
        return self._log_frequency

    def _says(self, u: torch.Tensor, seed: int) -> dict[str, Any]:
        random = torch.randn(u.numel(), RANDOM_SAYS, generator=torch.Generator().manual_seed(seed))
        shifts = self.shifts(torch.cat([u.float()[:, None], random / random.norm(dim=0)], 1))
        shift, explained = without_frequency(shifts, self._frequency().to(shifts.device))
        scale = self._sizes()[:, None] / u.numel() ** 0.5
        z = torch.where(scale > 1e-3 * scale.mean(), shift / scale, 0)  # rows of unused tokens may be zero
        largest = z.abs().amax(0)
        words: dict[str, Any] = {
            "strongest": round(float(largest[0]), 3),
            "chance": round(float(largest[1:].max()), 3),
            "frequency": round(float(explained[0]), 4),
        }
        for column, name in ((0, ""), (1, "random_")):
            for sign, word in ((1, "raised"), (-1, "lowered")):
                best = (sign * z[:, column]).topk(min(SHOWN, len(z))).indices.tolist()
                words[name + word] = [
                    {
                        "token": self._decoder.tokenizer.decode([id]),
                        "z": round(float(z[id, column]), 3),
                        "shift": round(float(shift[id, column]), 4),
                    }
                    for id in best
                ]
        return words


def last_norm(model: Any) -> nn.Module | None:
    """The norm between the last layer and the LM head; None if there is none."""
    inner = getattr(unwrapped(model), "base_model", model)
    found = None
    for name, module in inner.named_modules():
        outside = not any(part.isdigit() for part in name.split("."))
        if outside and "norm" in type(module).__name__.lower() and "embed" not in name:
            found = module
    return found


def without_frequency(shift: torch.Tensor, log_frequency: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(shifts (V, k) minus their least-squares line over log frequency (V,), share of variance (k,) that the line
    explains)."""
    f = log_frequency - log_frequency.mean()
    centred = shift - shift.mean(0)
    line = f[:, None] * ((f @ centred) / (f @ f).clamp_min(1e-12))
    total = centred.square().sum(0).clamp_min(1e-30)
    return centred - line, line.square().sum(0) / total


def _strongest(values: np.ndarray) -> int:
    """Index of the strongest token, without the first one, at which many models have huge activations, unless it is the
    only one."""
    return int(np.argmax(np.abs(values[1:]))) + 1 if len(values) > 1 else 0


def _read(X: np.ndarray, v: np.ndarray, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
    """(vᵀx (T,) for X (T, n), its comparison with random unit vectors)."""
    random = np.random.default_rng(seed).standard_normal((v.size, RANDOM_READS))
    random /= np.linalg.norm(random, axis=0)
    values, others = X @ v, X @ random
    later = slice(1, None) if len(X) > 1 else slice(None)
    sizes = np.sqrt(np.mean(others[later] ** 2, axis=0))
    size, usual = float(np.sqrt(np.mean(values[later] ** 2))), max(float(sizes.mean()), 1e-30)
    low, high = (float(value) for value in np.quantile(sizes / usual, (0.05, 0.95)))
    return values, {
        "reads_random": [round(float(value), 5) for value in others[:, 0]],
        "reads_ratio": round(size / usual, 4),
        "reads_chance": [round(low, 4), round(high, 4)],
    }


def _stands_out(shown: dict[str, Any]) -> bool:
    says = shown["says"]
    return shown["reads_ratio"] > shown["reads_chance"][1] or bool(says and says["strongest"] > says["chance"])


def _named(token: str) -> str:
    """A token as a word in a sentence, without the space before it; a line break is shown by a sign."""
    return token.strip() or token.replace("\n", "↵")


def _sentence(shown: dict[str, Any]) -> str:
    """The result in words; says that nothing stands out if random directions do as much."""
    ratio, high = shown["reads_ratio"], shown["reads_chance"][1]
    best = _strongest(np.asarray(shown["reads"]))
    if ratio > high:
        token = _named(shown["tokens"][best])
        parts = [f"It reads this text {ratio:.1f} times as strongly as random directions do, “{token}” most of all"]
    else:
        parts = [
            f"It reads this text no more strongly than random directions do ({ratio:.2f} against up to {high:.2f})"
        ]
    says = shown["says"]
    if says is None:
        parts.append(shown["says_not"].removesuffix("."))
    elif says["strongest"] > says["chance"]:
        side = "raised" if says["raised"][0]["z"] >= -says["lowered"][0]["z"] else "lowered"
        tokens = dict.fromkeys(_named(one["token"]) for one in says[side])
        words = ", ".join(f"“{token}”" for token in list(tokens)[:3])
        verb = "raises" if side == "raised" else "lowers"
        parts.append(
            f"it {verb} {words} most ({says['strongest']:.1f} deviations; random directions reach {says['chance']:.1f})"
        )
    else:
        parts.append(
            f"the tokens it raises say nothing: random directions raise some as much ({says['strongest']:.1f} against "
            f"{says['chance']:.1f} deviations)"
        )
    return "; ".join(parts) + "."
