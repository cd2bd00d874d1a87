"""Federated fine-tuning as a Flower app: `flwr run` finds server and client here; all else is in the package."""

from lora_playground.federated.flower_app import apps

_apps = apps()
server = _apps[0]
client = _apps[1]
