"""What the spectrum laboratory says of every variant's update, against torch's dense SVD of the same update."""

import numpy as np
import pytest
import torch
from trials import supports, trial

from lora_playground.analysis.low_rank import nonzero
from lora_playground.analysis.spectra import analyse, effective_rank, stable_rank
from lora_playground.analysis.subspaces import compare
from lora_playground.analysis.truncation import Decomposition, Truncation
from lora_playground.analysis.update import Update
from lora_playground.variants import VARIANTS

# Of the two layouts of a linear module, nn.Linear's and Conv1D's.
CASES = [(name, kind) for name in VARIANTS for kind in ("llama", "gpt2") if supports(name, kind)]
cases = pytest.mark.parametrize(("name", "kind"), CASES)


def matrices(name: str, kind: str) -> list[Update]:
    found = [update for update in trial(name, kind).updates if len(update.shape) == 2 and min(update.shape) > 1]
    assert found
    return found


def svd(update: Update) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Torch's own, dense, float64."""
    U, values, Vt = torch.linalg.svd(torch.from_numpy(update.matrix()), full_matrices=False)
    return U.numpy(), values.numpy(), Vt.numpy()


def as_dense(update: Update) -> Update:
    return Update(update.name, dense=update.matrix())


@cases
def test_factored_and_dense_agree(name, kind):
    updates = matrices(name, kind)
    ours, dense = analyse(updates), analyse([as_dense(update) for update in updates])
    assert list(ours) == list(dense) == [update.name for update in updates]
    for update in updates:
        truth = svd(update)[1]
        one, other = ours[update.name], dense[update.name]
        assert one.exact and one.method == ("gram" if update.factored else "dense")
        for found in (one.values, other.values):
            assert np.abs(found - truth[: found.size]).max() <= 1e-6 * truth[0]
        assert np.all(truth[one.values.size :] <= 1e-6 * truth[0]), "no direction is missing"
        assert one.frobenius == pytest.approx(np.linalg.norm(truth), rel=1e-6)
        assert stable_rank(one.values) == pytest.approx(stable_rank(other.values), rel=1e-5)
        # Rounding adds up over directions that are not there: the dense form has many of them.
        k = nonzero(truth)
        assert effective_rank(one.values[:k]) == pytest.approx(effective_rank(other.values[:k]), rel=1e-4)


@cases
def test_a_cut_and_its_directions_are_those_of_the_dense_update(name, kind):
    updates = matrices(name, kind)[:4]
    cut = {update.name: update for update in Decomposition(updates).truncate(Truncation("top", k=2))}
    for update in updates:
        U, values, Vt = svd(update)
        if nonzero(values) < 3 or values[1] - values[2] < 1e-3 * values[0]:
            continue  # equal singular values leave the cut undetermined
        np.testing.assert_allclose(cut[update.name].matrix(), (U[:, :2] * values[:2]) @ Vt[:2], atol=2e-5 * values[0])
        for side in ("left", "right"):
            found = compare(cut[update.name], as_dense(update), side, limit=2)
            assert found.similarity[1, 1] == pytest.approx(1.0, abs=1e-5)
