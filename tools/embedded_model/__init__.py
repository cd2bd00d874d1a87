"""How the embedded base model, its tokenizer and the fine-tuning datasets are made. No part of the running app."""
