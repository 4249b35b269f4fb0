"""Keys go where every Kafka client puts them."""

from __future__ import annotations

from random import Random

import pytest
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.partitioner import murmur2 as reference
from hypothesis import given
from hypothesis import strategies as st

from bridge.publish.partitioner import LANES_MIN, murmur2, partition_of, partitions_of


@pytest.mark.parametrize(
    ("key", "signed"),
    # The vectors of Kafka's own test of its Utils.murmur2.
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_hashes_as_kafka_does(key: bytes, signed: int) -> None:
    assert murmur2(key) == signed % 2**32


@given(st.binary(max_size=600))
def test_equals_the_clients_own_for_any_key(key: bytes) -> None:
    assert murmur2(key) == reference(key)


@given(st.binary(max_size=80), st.integers(1, 200))
def test_chooses_the_partition_the_client_would(key: bytes, partitions: int) -> None:
    numbers = list(range(partitions))
    assert partition_of(key, partitions) == DefaultPartitioner()(key, numbers, numbers)


@given(st.lists(st.binary(max_size=40), max_size=40), st.integers(1, 200))
def test_many_keys_at_once_go_where_each_alone_goes(keys: list[bytes], partitions: int) -> None:
    assert partitions_of(keys, partitions) == [partition_of(key, partitions) for key in keys]


@given(st.integers(0, 70), st.integers(LANES_MIN, 40), st.randoms(use_true_random=False))
def test_so_do_many_of_one_length(length: int, count: int, chance: Random) -> None:
    """With all bits set among them: what runs over into the next lane would show."""
    keys = [bytes(length), b"\xff" * length, *(chance.randbytes(length) for _ in range(count))]
    assert partitions_of(keys, 2**31 - 1) == [partition_of(key, 2**31 - 1) for key in keys]
