"""The pieces of the standalone script as text, for `str.format`. None of it is executed here."""

PACKAGE = '''# %% [markdown]
# # {label}
# Trains run `{run}` again with the package `lora_playground`, because stock libraries alone cannot: {why}
# Run it in the folder of LoRA Playground. Made with {versions}. The same as a command: `{command}`

# %%
from lora_playground.config import RunConfig
from lora_playground.jobs.pipeline import execute
from lora_playground.runs import RunStore

CONFIG = r"""
{config}
"""

# %%
run = RunStore(None).create(RunConfig.parse_json(CONFIG))
result = execute(run, lambda: False, emit=lambda event: print(event["type"], event.get("step", "")))
print("adapter:", run.adapter)
'''

HEAD = """# %% [markdown]
# # {label}
# Rebuilds the adapter of run `{run}` with stock libraries alone: torch, transformers, peft and safetensors.
# Made with {versions}; other versions may round differently. {base}
#
# `batches.safetensors` has to lie beside this file. It holds the examples that the run learned from, as tokens, and
# which of them lay in which row of which batch, so neither dataset nor tokenizer is needed. With LoRA Playground the
# same run is: `{command}`
"""

SETTINGS = """# %%
import math
import os
from pathlib import Path

import numpy as np
import torch
{imports}

BASE = os.environ.get("BASE", {base!r})
OUT = os.environ.get("OUT", "adapter")
HERE = Path(__file__).parent if "__file__" in globals() else Path.cwd()

{constants}
DTYPE = torch.bfloat16 if BFLOAT16 else torch.float32
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
{settings}
"""

DATA = '''# %% [markdown]
# ## The batches
# Several short examples share a row. `positions` begin anew in each, and `targets` are the next token where it is to be
# learned, else -100.

# %%
DATA = load_file(HERE / "batches.safetensors")


def example(number):
    """(tokens, targets) of one example; the last token predicts nothing."""
    part = slice(DATA["starts"][number], DATA["starts"][number + 1])
    tokens, learned = DATA["tokens"][part].astype(np.int64), DATA["learned"][part].astype(bool)
    return tokens, np.append(np.where(learned[1:], tokens[1:], -100), -100)


def batch(number):
    """Micro-batch `number`: tokens, positions, targets, and which example each place belongs to (0: padding)."""
    tokens, targets, segments = np.zeros((3, HEIGHT, LENGTH), np.int64)
    tokens[:], targets[:] = PAD, -100
    positions = np.tile(np.arange(LENGTH), (HEIGHT, 1))
    for row in range(HEIGHT):
        first, last = DATA["rows"][number * HEIGHT + row], DATA["rows"][number * HEIGHT + row + 1]
        place = 0
        for segment, which in enumerate(DATA["order"][first:last], 1):
            ids, wanted = example(which)
            end = place + len(ids)
            tokens[row, place:end], targets[row, place:end] = ids, wanted
            positions[row, place:end], segments[row, place:end] = np.arange(len(ids)), segment
            place = end
        positions[row, place:] = np.arange(LENGTH - place)
    return [torch.from_numpy(array).to(DEVICE) for array in (tokens, positions, targets, segments)]


def inputs(tokens, positions, segments):
    """What the model is given. A mask keeps the examples of a row apart; a sliding window narrower than a row needs
    its own mask, which transformers makes from the positions."""
    if segments.max() <= 1:
        return {"input_ids": tokens}
    text = model.config.get_text_config()
    kinds = getattr(text, "layer_types", None)
    sliding = kinds is None or any("sliding" in kind or "chunked" in kind for kind in kinds)
    sizes = [getattr(text, name, None) for name in ("sliding_window", "attention_chunk_size")]
    if sliding and LENGTH > min((size for size in sizes if size), default=LENGTH):
        return {"input_ids": tokens, "position_ids": positions}
    causal = torch.ones(LENGTH, LENGTH, dtype=torch.bool, device=DEVICE).tril()
    seen = (segments[:, :, None] == segments[:, None, :]) & causal
    mask = torch.zeros(seen.shape, dtype=DTYPE, device=DEVICE).masked_fill_(~seen, float("-inf"))
    return {"input_ids": tokens, "position_ids": positions, "attention_mask": mask[:, None]}


def start_batches():
    """The first examples, eight a batch, one a row, for starts that look at the data."""
    for begin in range(0, len(DATA["first"]), 8):
        pairs = [example(number) for number in DATA["first"][begin : begin + 8]]
        shape = (len(pairs), max(len(ids) for ids, _ in pairs))
        tokens, mask, labels = np.zeros((3, *shape), np.int64)
        tokens[:], labels[:] = PAD, -100
        for row, number in enumerate(DATA["first"][begin : begin + 8]):
            ids, _ = pairs[row]
            learned = DATA["learned"][DATA["starts"][number] : DATA["starts"][number + 1]].astype(bool)
            tokens[row, : len(ids)], mask[row, : len(ids)] = ids, 1
            labels[row, : len(ids)] = np.where(learned, ids, -100)
        named = {"input_ids": tokens, "attention_mask": mask, "labels": labels}
        yield {name: torch.from_numpy(array).to(DEVICE) for name, array in named.items()}
'''

LOAD = """# %% [markdown]
# ## The base model, frozen, and the update beside it

# %%
if DEVICE == "cuda":
    torch.set_float32_matmul_precision("high")
model = AutoModelForCausalLM.from_pretrained(BASE, attn_implementation="sdpa", {options})
model = model.eval().requires_grad_(False){to}
model.config.use_cache = False
"""

ATTACH = """torch.manual_seed(SEED)
{before}model = get_peft_model(model, PEFT)
{after}{start}model.print_trainable_parameters()"""

ATTACH_FULL = """{skip}PRISTINE = {{}}
for name, parameter in model.named_parameters():
    if {which}:
        parameter.requires_grad_(True)
        parameter.data = parameter.data.float()
        PRISTINE[name] = parameter.detach().to("cpu", copy=True)"""

SKIP_EMBEDDINGS = """ENDS = [model.get_input_embeddings(), model.get_output_embeddings()]
KEPT = {id(parameter) for module in ENDS for parameter in module.parameters()}
"""

BEFORE = {
    "loraga": """

def look():
    for given in start_batches():
        model(**given).loss.backward()


preprocess_loraga(model, PEFT, look)
""",
    "corda": """

def look():
    for given in start_batches():
        for row, length in enumerate(given["attention_mask"].sum(dim=1).tolist()):
            one = {name: tensor[row : row + 1, :length] for name, tensor in given.items() if name != "labels"}
            model(**one)


preprocess_corda(model, PEFT, look)
""",
}

AFTER = {
    "adalora": """for name, parameter in model.named_parameters():
    if "ranknum" in name:  # a count, which PEFT makes trainable where the base is in 16 bit
        parameter.requires_grad_(False)
""",
    "eva": """model.eval()
given = [{name: tensor for name, tensor in one.items() if name != "labels"} for one in start_batches()]
initialize_lora_eva_weights(
    model, dataloader=given, prepare_model_inputs_fn=None, prepare_layer_inputs_fn=None, show_progress_bar=False
)
""",
    "lorafa": """for name, parameter in model.named_parameters():
    if "lora_A" in name:
        parameter.requires_grad_(False)
""",
}

KEEP_START = """# This start is taken out of W, so what was learned is the difference to it: keep the start.
model.save_pretrained(f"{OUT}-start", save_embedding_layers=False)
"""

RATES = '''# %% [markdown]
# ## The learning rate: a linear rise, then {schedule}

# %%
def rate(step):
    """Learning rate of step `step`, counted from 0."""
    warmup = math.ceil({warmup!r} * STEPS)
    if step < warmup:
        return PEAK * (step + 1) / warmup
    progress = (step - warmup) / max(1, STEPS - warmup)
    return PEAK * ({formula})
'''

RATES_RECORDED = '''# %% [markdown]
# ## The learning rate
# The number of steps was found while training, so the learning rates are those that the run had.

# %%
def rate(step):
    """Learning rate of step `step`, counted from 0."""
    return float(DATA["rates"][step])
'''

OPTIMISERS = {
    "adamw": "torch.optim.AdamW(GROUPS, lr=PEAK, weight_decay=WEIGHT_DECAY, fused=True)",
    "muon": "Muon(GROUPS, lr=PEAK, weight_decay=WEIGHT_DECAY)",
}

GROUPS = {
    "": 'GROUPS = [{{"params": [p for p in model.parameters() if p.requires_grad], "scale": 1.0}}]',
    "loraplus": """
TRAINED = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
GROUPS = [
    {{"params": [p for name, p in TRAINED if ".lora_B." not in name], "scale": 1.0}},
    {{"params": [p for name, p in TRAINED if ".lora_B." in name], "scale": {ratio!r}}},  # B learns faster
]
""",
}

FUNCTIONS = {
    "lorafa": '''

def after_backward(step):
    """LoRA-FA: the step in B whose update of W is nearest to full fine-tuning's, with A given."""
    with torch.no_grad():
        for module in model.modules():
            if hasattr(module, "lora_A") and "default" in module.lora_A:
                a, b = module.lora_A["default"].weight.float(), module.lora_B["default"].weight
                gram = a @ a.T + 1e-8 * torch.eye(a.shape[0], device=a.device)
                b.grad.copy_(torch.linalg.solve(gram, b.grad.float().T).T / module.scaling["default"] ** 2)
''',
    "adalora": '''
LAYERS = [module for module in model.modules() if hasattr(module, "lora_E") and "default" in module.lora_A]
ALLOCATOR, INNER = model.base_model.rankallocator, model.base_model.model
LAST = PEFT.total_step - PEFT.tfinal


def after_backward(step):
    """AdaLoRA: notes how important each direction is, then adds the gradient of orthogonality."""
    if step < LAST:
        ALLOCATOR.update_ipt(INNER)
    pairs = [p for layer in LAYERS for p in (layer.lora_A["default"], layer.lora_B["default"].T)]
    gaps = [torch.linalg.norm(p @ p.T - torch.eye(p.shape[0], device=p.device)) for p in pairs]
    trained = [p for layer in LAYERS for p in (layer.lora_A["default"], layer.lora_B["default"])]
    for p, gradient in zip(trained, torch.autograd.grad(ORTHOGONALITY * torch.stack(gaps).mean(), trained)):
        p.grad.add_(gradient)


def after_step(step):
    """AdaLoRA: sets the least important directions to zero, down to this step's budget."""
    if step < LAST:
        budget, due = ALLOCATOR.budget_schedule(step)
        if due and budget < ALLOCATOR.init_bgt:
            PEFT.rank_pattern = ALLOCATOR.mask_to_budget(INNER, budget)
    elif step == LAST and ALLOCATOR.exp_avg_ipt:
        PEFT.rank_pattern = ALLOCATOR.mask_to_budget(INNER, ALLOCATOR.target_bgt)
    elif PEFT.rank_pattern:
        ALLOCATOR.mask_using_rank_pattern(INNER, PEFT.rank_pattern)
''',
}

LOOP = """# %% [markdown]
# ## Training

# %%
{groups}
OPTIMISER = {optimiser}
TRAINED = [p for group in OPTIMISER.param_groups for p in group["params"]]
{functions}
torch.manual_seed(SEED)
model.train()
for step in range(STEPS):
    for group in OPTIMISER.param_groups:
        group["lr"] = rate(step) * group["scale"]
    given = [batch(step * ACCUMULATION + micro) for micro in range(ACCUMULATION)]
    learned = max(1, sum(int((targets != -100).sum()) for _, _, targets, _ in given))
    total = 0.0
    for tokens, positions, targets, segments in given:
        with torch.autocast(DEVICE, torch.bfloat16, enabled=BFLOAT16):
            logits = model(**inputs(tokens, positions, segments), use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="sum")
        (loss / learned).backward()
        total += loss.item() / learned
    torch.nn.utils.clip_grad_norm_(TRAINED, CLIP)
{after_backward}    OPTIMISER.step()
    OPTIMISER.zero_grad()
{after_step}    if step % 10 == 0 or step == STEPS - 1:
        print(f"step {{step + 1}} of {{STEPS}}: loss {{total:.4f}}")
"""

BEFORE_SAVE = {"adalora": 'model.peft_config["default"].rank_pattern = None  # keep every direction in the file\n'}

SAVE = """# %%
model.eval()
{before}model.save_pretrained(OUT, save_embedding_layers=False)
print("adapter:", OUT)
"""

SAVE_START = """# %%
model.eval()
model.save_pretrained(OUT, save_embedding_layers=False, path_initial_model_for_weight_conversion=f"{OUT}-start")
print("adapter:", OUT)
"""

SAVE_FULL = """# %%
# PEFT has no format for full fine-tuning: add every tensor to the base model's parameter of the same name.
os.makedirs(OUT, exist_ok=True)
DELTA = {name: p.detach().float().cpu() - PRISTINE[name] for name, p in model.named_parameters() if name in PRISTINE}
save_file(DELTA, f"{OUT}/delta.safetensors")
print("delta:", OUT)
"""
