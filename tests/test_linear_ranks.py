"""A head and its loss in one over real ranks; linear_ranks.py says what each of them does."""

import linear_ranks
import pytest
from ranks import run_ranks


def test_ddp_fsdp_and_a_sharded_head() -> None:
    run_ranks(linear_ranks.all_of_it, 2)


@pytest.mark.slow
@pytest.mark.parametrize("work", [linear_ranks.under_ddp, linear_ranks.under_fsdp])
def test_three_ranks(work: object) -> None:
    run_ranks(work, 3)  # type: ignore[arg-type]
