"""Claims of papers that a visitor can try: what is compared, what was measured on the model that ships, the verdict.

`schema` says what a claim is (a file of `assets/claims`), `measured` reads what was measured, `verdicts` judges it, and
`trials` trains both sides of a claim for a visitor. No Gradio, no torch.
"""

from lora_playground.claims.schema import Claim, get_claim, list_claims
from lora_playground.claims.verdicts import Verdict, verdict

__all__ = ["Claim", "Verdict", "get_claim", "list_claims", "verdict"]
