"""PyTorch code of the methods that PEFT does not have, each registered with PEFT under a name of its own."""
