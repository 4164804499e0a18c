"""Regions over real ranks: region_mean_cases.py says what each of them does."""

import pytest
import region_mean_cases
from ranks import run_ranks


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_gradients_are_those_of_one_big_batch(world_size: int) -> None:
    run_ranks(region_mean_cases.whole_world, world_size)
