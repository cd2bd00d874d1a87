"""Federated low-rank adaptation: clients, partition, aggregation, simulation."""
