"""FedIT: the server averages A and B separately, which is not exact: the mean of products is not the product of
means."""

from lora_playground.federated.strategies.base import Card, Strategy

STRATEGY = Strategy(
    name="fedit",
    label="FedIT",
    why_equal="factors of different shape or scaling have no mean",
    card=Card(
        sentence="Averages every client's A and every client's B, as federated averaging does with any weights.",
        equation=r"\bar B = \sum_k p_k B_k,\quad \bar A = \sum_k p_k A_k,\quad \Delta W = s\,\bar B\bar A",
        up="A and B: r(m+n)",
        down="A and B: r(m+n)",
        exact="No: the product of means differs from the mean of products once the clients' A and B both differ.",
        paper="Zhang et al., Towards Building the FederatedGPT: Federated Instruction Tuning, 2023",
        url="https://arxiv.org/abs/2305.05644",
    ),
)
