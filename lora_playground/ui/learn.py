"""The tab Learn: the shelf of lessons, which the page's script fills, and the ideas in plain words beneath it."""

from __future__ import annotations

import gradio as gr

from lora_playground.ui.shell import filled, heading

_DELIMITERS: list[dict[str, str | bool]] = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "$", "right": "$", "display": False},
]

TEXT = r"""
## What happens when you press Train

A language model is a stack of layers, and each layer multiplies what it is given by matrices $W$. They hold all that
the model knows. Fine-tuning changes them a little, so that the model answers in a new way.

**Low-rank adaptation (LoRA)** leaves every $W$ alone and learns an **update** $\Delta W$ beside it:

$$ W_{\text{adapted}} = W + \Delta W, \qquad \Delta W = \frac{\alpha}{r}\, B A $$

$A$ is wide and $r$ rows tall, $B$ is tall and $r$ columns wide. So the update has $r\,(m+n)$ numbers instead of $m\,n$.
The **rank** $r$ says how many directions it may use.

## Three things to try

**1. How little is enough?** Train *pirate* with rank 1, then with rank 16. Compare the scores. Manners of speaking need
few directions.

**2. What needs more?** Train *facts* with rank 1 and with rank 16. Facts that have nothing to do with each other do not
fit into one direction, so the score follows the rank.

**3. What is really used?** Open *Spectrum* for a rank-16 run. The points are the **singular values** $\sigma_1 \ge
\sigma_2 \ge \dots$ of $\Delta W$: how strongly each direction is used. If only a few are high, the rest of the rank was
not needed, and you can cut it away and ask again.

## How to read the pictures

**Loss** is how surprised the model is by the right answer, in nats per token. Training loss is measured on what it
learns from, validation loss on rows that it does not learn from. If the second rises while the first falls, it is
learning by heart (overfitting).

**Singular values** are drawn from the strongest direction to the weakest. **Effective rank** counts how many directions
are used, weighted by how evenly: $\exp\left(-\sum_i p_i \ln p_i\right)$ with $p_i = \sigma_i / \sum_j \sigma_j$.
**Stable rank**, $\sum_i \sigma_i^2 / \sigma_1^2$, counts them against the strongest.

**Forgetting** is what the adapted model gets wrong of what the base model got right, on tasks that the dataset does not
teach.

**Score** is measured on test rows that were never trained on, for both models alike.

## Why the comparison can be trusted

Base and adapted model answer in lock step from one copy of $W$, and each word of both is drawn with the same random
numbers. With an update of zero, all panes would write the same letters. So whatever differs is the update's doing. The
mark *base verified* says that the base model still computes what it computed before any adapter was near it.

## Words

| Plain | Term |
|---|---|
| the model as it came | base model, frozen weights $W$ |
| a way to write the update | variant: LoRA, rsLoRA, DoRA, ... |
| how many directions it may use | rank $r$ |
| how loud the update is | scaling $s = \alpha / r$ |
| what was learned | update $\Delta W$; kept as an adapter |
| how strongly each direction is used | singular values, the spectrum |
| one fine-tuning | run |

Keys: **Ctrl+Enter** trains or sends, **Esc** stops.
"""


_CLASS = """<p class="lp-note lp-class-ways">Together: <a href="class" target="_blank">teach a class</a>, which people
<a href="join">join</a> with its code; you see how far each is, and what was predicted beside what came out.</p>"""


_WRONG = r"""
#### Where popular texts say it otherwise
- *LoRA trains fewer weights and biases.* It trains no weight of the model and no bias: $W$ and every bias stay as
  they are, and two new matrices beside each $W$ are trained.
- *NLoRA samples rows and columns of $W$.* The authors' code samples nothing: it takes the first $r$ columns, the
  first $r$ rows and the block where they meet, and does not invert that block, as Nyström's method would.
- *CE-LoRA computes fewer rows and columns of every product.* The forward pass is exact. In the backward pass only the
  gradient that goes on through a frozen $W$ is made from some of $W$'s rows; the gradients of $A$ and $B$ are exact
  given what comes in.
- *A server averages the clients' adapters.* A mean of factors is not the mean of their products:
  $\overline{B}\,\overline{A} \ne \overline{BA}$. The claim above on FedIT shows by how much.
"""


def build() -> None:
    """Puts shelf and text where it is called."""
    heading("Lessons", "predict, run, look: each is played in the real tabs")
    filled("lp-lessons")
    gr.HTML(_CLASS, apply_default_css=False)
    heading("Claims", "what papers say, what came out here, and try it")
    filled("lp-claims")
    gr.Markdown(_WRONG, latex_delimiters=_DELIMITERS, elem_classes="lp-claims-wrong")
    gr.Markdown(TEXT, latex_delimiters=_DELIMITERS, elem_id="lp-learn")
