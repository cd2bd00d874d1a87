"""Federated low-rank adaptation: several clients train low-rank updates of one base, and a server puts them together.

`partition` divides rows among clients, `strategies` say how to aggregate, `rounds` plays a round, `simulation` (on this
machine) and `flower` (over the network) carry the messages, `local` trains clients, `aggregation` is the server's part.
"""
