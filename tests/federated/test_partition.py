"""Partitions: every row goes to one client, and bad input gets a sentence."""

import numpy as np
import pytest

from lora_playground.data.readers import read_bytes
from lora_playground.errors import ConfigError, DataError
from lora_playground.federated.partition import remarks, split

ROWS = [{"messages": [], "meta": {"label": "abcd"[i % 4]}} for i in range(400)]


@pytest.mark.parametrize("how", ["iid", "dirichlet", "topic"])
@pytest.mark.parametrize("clients", [1, 3, 4])
def test_every_row_goes_to_exactly_one_client(how: str, clients: int) -> None:
    partition = split(ROWS, clients, how, 0.3, seed=5)
    assert sorted(i for mine in partition.rows for i in mine) == list(range(400))
    assert [sum(counts) for counts in partition.counts] == [len(mine) for mine in partition.rows]
    assert np.sum(partition.counts, axis=0).tolist() == [100] * 4
    for mine, counts in zip(partition.rows, partition.counts):
        for group, count in zip(partition.groups, counts):
            assert sum(ROWS[i]["meta"]["label"] == group for i in mine) == count


def test_iid_is_even_and_the_seed_decides() -> None:
    one, same, other = (split(ROWS, 5, seed=s) for s in (1, 1, 2))
    assert [len(mine) for mine in one.rows] == [80] * 5
    assert one.rows == same.rows != other.rows


def test_a_small_dirichlet_alpha_is_more_uneven() -> None:
    def unevenness(alpha: float) -> float:
        found = []
        for seed in range(20):
            counts = np.array(split(ROWS, 5, "dirichlet", alpha, seed).counts, dtype=float)
            found.append(np.std(counts / counts.sum(axis=0), axis=0).mean())
        return float(np.mean(found))

    assert unevenness(0.1) > 1.5 * unevenness(1.0) > 4 * unevenness(100.0)


def test_by_topic_no_group_is_divided() -> None:
    partition = split(ROWS, 3, "topic")
    assert ((np.array(partition.counts) > 0).sum(axis=0) == 1).all()
    assert partition.key == "label"


def test_clients_without_data_are_named() -> None:
    partition = split(ROWS[:3], 5, "iid")
    assert partition.empty == [3, 4]
    assert "client 4, client 5" in remarks(partition)[0]
    assert "one client only" in remarks(split(ROWS, 1))[0]
    assert remarks(split(ROWS, 4)) == []


def test_bad_input_gets_a_sentence() -> None:
    with pytest.raises(ConfigError, match="at least one client"):
        split(ROWS, 0)
    with pytest.raises(ConfigError, match="iid, dirichlet or topic"):
        split(ROWS, 2, "random")
    with pytest.raises(ConfigError, match="greater than 0"):
        split(ROWS, 2, "dirichlet", 0.0)
    with pytest.raises(DataError, match="at most 4 clients"):
        split(ROWS, 5, "topic")
    with pytest.raises(DataError, match="no training rows"):
        split([], 2)
    with pytest.raises(DataError, match="even split"):
        split([{"messages": []}], 2, "dirichlet")
    with pytest.raises(DataError, match="'colour'"):
        split(ROWS, 2, "topic", key="colour")
    assert split([{"messages": []}] * 4, 2, "iid").groups == ["all"]


def test_groups_are_found_where_meta_names_none() -> None:
    def row(question: str, answer: str, /, **meta: str) -> dict:
        return {
            "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
            "meta": meta,
        }

    people = [row(f"Which pet lives with {n}?", f"{n} has a crow.", answer="crow") for n in ("Rosgar", "Ulima")] * 10
    assert split(people, 2, "topic").groups == ["Rosgar", "Ulima"]
    assert split(people, 2, "topic").key == "name"
    labels = [row(f"Which weather is it? {i}", word, answer=word) for i, word in enumerate(["sunny", "stormy"] * 20)]
    partition = split(labels, 2, "dirichlet", 0.3)
    assert partition.key == "answer" and partition.groups == ["stormy", "sunny"]
    free = [row("Tell me.", f"answer {i}", answer=f"answer {i}") for i in range(20)]
    with pytest.raises(DataError, match="even split"):
        split(free, 2, "topic")


def test_labels_of_a_persons_file_are_shared_out() -> None:
    table = "text,label\n" + "".join(f"Рейс {n},{('да', 'нет', 'так себе')[n % 3]}\n" for n in range(300))
    partition = split(read_bytes(table.encode(), "a.csv").rows, 4, "dirichlet", 0.2, seed=1)
    assert partition.key == "label" and sorted(partition.groups) == ["да", "нет", "так себе"]
    assert np.sum(partition.counts, axis=0).tolist() == [100] * 3
