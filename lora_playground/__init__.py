"""LoRA Playground: fine-tune with low-rank adaptation, watch the spectrum of what is learned, chat side by side."""

import lora_playground.variants  # noqa: F401  (declares every variant's options, so that RunConfig knows them)

__version__ = "0.1.0"
