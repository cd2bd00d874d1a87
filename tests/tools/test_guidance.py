"""Attention guidance: what the heads are told to look at, and that the attention it reads is the model's own."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tools.embedded_model.guidance import (
    INDUCTION_HEADS,
    PREVIOUS_HEADS,
    REPEAT_HEADS,
    Guidance,
    induction_targets,
    previous_targets,
    repeat_targets,
)

TOKENS = torch.tensor([[1, 5, 6, 7, 9, 5, 6, 7, 2, 1, 5, 6]])
CHATS = torch.tensor([[2, 2, 2, 2, 2, 2, 2, 2, 2, 4, 4, 4]])


def test_the_token_before_is_one_of_the_same_chat():
    assert previous_targets(CHATS).tolist() == [[-1, 0, 1, 2, 3, 4, 5, 6, 7, -1, 9, 10]]
    assert previous_targets(torch.zeros(1, 3, dtype=torch.long)).tolist() == [[-1, -1, -1]]


def test_induction_looks_at_what_followed_the_same_token_and_is_right():
    # 5 6 7 comes again at 5..7: from 5 look at 2 (a 6 after a 5), from 6 at 3; another chat's 5 6 does not count
    assert induction_targets(TOKENS, CHATS).tolist() == [[-1, -1, -1, -1, -1, 2, 3, -1, -1, -1, -1, -1]]
    wrong = torch.tensor([[3, 4, 8, 3, 5]])  # what followed 3 was 4, but now 5 comes
    assert induction_targets(wrong, torch.ones_like(wrong)).tolist() == [[-1] * 5]


def test_a_repeat_looks_at_the_same_token_or_at_the_chats_start():
    assert repeat_targets(TOKENS, CHATS).tolist() == [[0, 0, 0, 0, 0, 1, 2, 3, 0, 9, 9, 9]]
    assert repeat_targets(TOKENS, torch.zeros_like(CHATS)).tolist() == [[-1] * 12]


def test_it_reads_the_models_own_attention_and_teaches_it():
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=4, head_dim=16, attn_implementation="eager",
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    guidance = Guidance(model)
    torch.manual_seed(0)
    tokens = torch.randint(5, model.config.vocab_size, (2, 12)).repeat(1, 2)
    numbers = torch.full_like(tokens, 2)
    allowed = torch.tril(torch.ones(2, 24, 24, dtype=torch.bool))
    attentions = model.model(tokens, output_attentions=True).attentions
    for place, (layer, heads) in enumerate(((1, PREVIOUS_HEADS), (3, INDUCTION_HEADS), (2, REPEAT_HEADS))):
        for head in heads:
            own = guidance.attention(place, head, allowed).exp()
            torch.testing.assert_close(own, attentions[layer][:, head], atol=1e-6, rtol=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        model.model(tokens)
        loss = guidance.loss(tokens, numbers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
