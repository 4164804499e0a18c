"""Accelerate: one step with accumulation is one step on the big batch, on one rank and on two."""

from types import SimpleNamespace

import pytest
import torch
import trainer_cases
from accelerate import DistributedType
from ranks import run_ranks

import steelyard as sy
from steelyard.integrations.accelerate import divide_grads_


def test_one_step_is_that_of_the_big_batch():
    trainer_cases.accelerate_world()


def test_one_step_over_two_ranks_is_that_of_the_big_batch():
    run_ranks(trainer_cases.accelerate_world, 2)


def test_deepspeed_is_refused():
    accelerator = SimpleNamespace(distributed_type=DistributedType.DEEPSPEED)
    with pytest.raises(ValueError, match="under DEEPSPEED gradients cannot be divided"):
        divide_grads_(sy.ExactMean(sy.FocalLoss()), accelerator, [torch.zeros(1)])
