"""Muon against torch's own and against what it promises: steps whose singular values are all alike."""

import torch

from lora_playground.training.muon import Muon, orthogonalised


def test_orthogonalised_keeps_the_singular_vectors_and_levels_the_values() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((8, 64), (64, 8), (1, 32)):
        given = torch.randn(2, *shape, generator=generator)
        for before, after in zip(given, orthogonalised(given), strict=True):
            u, _, v = torch.linalg.svd(before, full_matrices=False)
            levelled = u.T @ after @ v.T
            values = levelled.diagonal()
            assert values.min() > 0.6 and values.max() < 1.3, shape
            assert (levelled - torch.diag(values)).abs().max() < 1e-4, "the singular vectors are those of the input"


def test_steps_of_matrices_are_those_of_torch_and_others_those_of_adamw() -> None:
    torch.manual_seed(0)
    matrices, vectors = [torch.randn(16, 48), torch.randn(48, 16)], [torch.randn(16)]
    mine = [torch.nn.Parameter(start.clone()) for start in matrices + vectors]
    theirs = [torch.nn.Parameter(start.clone()) for start in matrices + vectors]
    options = {"lr": 0.02, "weight_decay": 0.1}
    ours = Muon(mine, **options)
    muon = torch.optim.Muon(theirs[:2], momentum=0.9, adjust_lr_fn="match_rms_adamw", **options)
    adamw = torch.optim.AdamW(theirs[2:], **options)
    for _ in range(5):
        for one, other in zip(mine, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        for stepper in (ours, muon, adamw):
            stepper.step()
    for one, other, start in zip(mine[:2], theirs[:2], matrices, strict=True):
        gap = (one - other).norm() / (other - start).norm()
        assert gap < 0.03, "torch iterates in bfloat16"
    torch.testing.assert_close(mine[2], theirs[2])
