"""One process: what the two forms remember, refuse and give; test_distributed_ranks.py has more."""

import copy

import mean_cases
import pytest
import torch
from mean_cases import Batch, Case, deferred, expected, flat_grad, look_ahead, network
from table import TABLE
from torch import nn

import steelyard as sy

WEIGHT = [1.0, 9.0]


def batches(*targets):
    return [torch.tensor(target) for target in targets]


@pytest.mark.parametrize("way", [look_ahead, deferred])
def test_plain_accumulation_without_a_process_group(way):
    for case in mean_cases.cases(1):
        model = network()
        wanted = expected(case, model)
        way(model, case)
        assert mean_cases.relative_error(flat_grad(model), wanted) < 1e-12, case.name


def test_micro_batches_of_one_would_train_without_the_weights():
    model, other = network(), network()
    x = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([0, 0, 0, 0, 1, 1, 2, 4])
    weight = mean_cases.WEIGHT
    torch_loss = nn.CrossEntropyLoss(weight=weight)
    for i in range(8):
        (torch_loss(model(x[i : i + 1]), target[i : i + 1]) / 8).backward()
    nn.CrossEntropyLoss()(other(x), target).backward()
    torch.testing.assert_close(flat_grad(model), flat_grad(other), rtol=1e-12, atol=0)
    model.zero_grad()
    other.zero_grad()
    steps = [[Batch(x[i : i + 1], target[i : i + 1]) for i in range(8)]]
    look_ahead(model, Case(TABLE[0], {"weight": weight}, steps))
    torch_loss(other(x), target).backward()
    torch.testing.assert_close(flat_grad(model), flat_grad(other), rtol=1e-12, atol=0)


def test_masks_of_pixels():
    torch.manual_seed(0)
    model = nn.Conv2d(3, 2, 1).double()
    x = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    target = torch.randint(2, (4, 5, 5))
    target[0] = -100
    nn.CrossEntropyLoss(torch.tensor(WEIGHT).double())(model(x), target).backward()
    wanted = flat_grad(model)
    model.zero_grad()
    mean = sy.ExactMean(sy.CrossEntropyLoss(WEIGHT))
    for image, mask in zip(x.split(1), target.split(1), strict=True):
        mean(model(image), mask).backward()
    assert mean.divide_grads_(model.parameters()) == sum(
        {0: 1, 1: 9, -100: 0}[int(y)] for y in target.flatten()
    )
    torch.testing.assert_close(flat_grad(model), wanted, rtol=1e-12, atol=1e-15)


def test_the_denominator_is_the_sum_over_micro_batches():
    loss = sy.CrossEntropyLoss(WEIGHT)
    found = sy.step_denominator(loss, iter(batches([0, 0, 1], [-100], [1])))
    assert found.dtype == torch.float64
    assert found == 1 + 1 + 9 + 9
    assert sy.step_denominator(loss, torch.tensor([[0, 1], [1, 1]])) == 28
    assert sy.step_denominator(sy.FocalLoss(), batches([0, 0, 1], [-100, 0])) == 4


def test_sample_weights_count_and_take_no_gradient():
    loss = sy.CrossEntropyLoss(WEIGHT)
    weights = [None, torch.tensor([0.5, 2.0], requires_grad=True)]
    found = sy.step_denominator(loss, batches([0], [1, 0]), weights)
    assert found == 1 + 4.5 + 2
    assert not found.requires_grad


def test_deferred_reweighting_counts_with_the_loss_in_force():
    loss = sy.DeferredReweighting(sy.CrossEntropyLoss(), weight=WEIGHT, start=1)
    targets = batches([0, 1], [1])
    assert sy.step_denominator(loss, targets) == 3
    mean, model = sy.ExactMean(loss), nn.Linear(1, 2)
    loss.set_epoch(1)
    assert sy.step_denominator(loss, targets) == 19
    mean(model(torch.ones(2, 1)), targets[0]).backward()
    assert mean.divide_grads_(model.parameters()) == 10


def test_what_a_trainer_multiplied_its_losses_by_is_made_good():
    model, mean = nn.Linear(1, 2), sy.ExactMean(sy.CrossEntropyLoss())
    target = torch.tensor([0, 1, 1])
    mean(model(torch.ones(3, 1)), target).mul(0.25).backward()
    assert mean.divide_grads_(model.parameters(), loss_scale=0.25) == 3
    scaled = flat_grad(model)
    model.zero_grad()
    sy.CrossEntropyLoss()(model(torch.ones(3, 1)), target).backward()
    torch.testing.assert_close(scaled, flat_grad(model))


def test_a_step_of_which_nothing_counts_leaves_no_gradient():
    """Its sum has one, for smoothing gives other classes a share; its mean is over nothing."""
    loss = sy.CrossEntropyLoss([0.0, 1.0], label_smoothing=0.5)
    model, mean = nn.Linear(1, 2), sy.ExactMean(loss)
    mean(model(torch.ones(3, 1)), torch.tensor([0, 0, 0])).backward()
    assert (flat_grad(model) != 0).any()
    assert mean.divide_grads_(model.parameters()) == 0
    assert (flat_grad(model) == 0).all()


def test_evaluation_in_the_middle_of_a_step_is_not_remembered():
    model, mean = nn.Linear(1, 2), sy.ExactMean(sy.CrossEntropyLoss())
    mean(model(torch.ones(2, 1)), torch.tensor([0, 1])).backward()
    with torch.no_grad():
        mean(model(torch.ones(5, 1)), torch.tensor([0, 1, 1, 1, 0]))
    assert mean.divide_grads_(model.parameters()) == 2


def test_a_step_begins_anew_after_division_and_after_reset():
    model, mean = nn.Linear(1, 2), sy.ExactMean(sy.CrossEntropyLoss())
    for _ in range(2):
        mean(model(torch.ones(2, 1)), torch.tensor([0, 1])).backward()
        assert mean.divide_grads_(model.parameters()) == 2
    mean(model(torch.ones(3, 1)), torch.tensor([0, 1, 1]))
    mean.reset()
    mean(model(torch.ones(2, 1)), torch.tensor([0, 1])).backward()
    assert mean.divide_grads_(model.parameters()) == 2


def test_what_is_returned_sums_to_the_mean():
    torch.manual_seed(0)
    model, mean = nn.Linear(2, 2), sy.ExactMean(sy.CrossEntropyLoss(WEIGHT))
    x, target = torch.randn(5, 2), torch.tensor([0, 0, 1, 0, 1])
    wanted = nn.CrossEntropyLoss(torch.tensor(WEIGHT))(model(x), target)
    total = mean(model(x[:2]), target[:2]) + mean(model(x[2:]), target[2:])
    total.backward()
    torch.testing.assert_close(total / mean.divide_grads_(model.parameters()).float(), wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gradients_are_rounded_once(dtype):
    parameter = nn.Parameter(torch.zeros(100, dtype=dtype))
    parameter.grad = torch.linspace(-3, 3, 100).to(dtype)
    wanted = (parameter.grad.double() / 1003).to(dtype)
    mean = sy.ExactMean(sy.CrossEntropyLoss())
    mean(torch.zeros(1003, 2, requires_grad=True), torch.zeros(1003, dtype=torch.long))
    mean.divide_grads_(parameter)
    torch.testing.assert_close(parameter.grad, wanted, rtol=0, atol=0)


def test_a_step_that_the_scaler_skips_is_over_too():
    model, mean = nn.Linear(1, 2), sy.ExactMean(sy.CrossEntropyLoss())
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    before = model.weight.detach().clone()
    for factor in 1e9, 1.0:  # the first overflows, and is skipped
        optimizer.zero_grad()
        scaler.scale(factor * mean(model(torch.ones(4, 1)), torch.tensor([0, 1, 1, 1]))).backward()
        scaler.unscale_(optimizer)
        assert mean.divide_grads_(model.parameters()) == 4
        scaler.step(optimizer)
        assert torch.equal(model.weight, before) == (factor > 1)
        scaler.update(2.0**10)


def test_parameters_without_a_gradient_are_passed_over():
    used, unused = nn.Linear(1, 2), nn.Linear(1, 2)
    mean = sy.ExactMean(sy.CrossEntropyLoss())
    mean(used(torch.ones(2, 1)), torch.tensor([0, 1])).backward()
    mean.divide_grads_([*used.parameters(), *unused.parameters()])
    assert unused.weight.grad is None


def test_it_moves_and_copies_like_any_module():
    mean = sy.ExactMean(sy.CrossEntropyLoss(WEIGHT), gradients="sum")
    assert mean.to("meta").loss.weight.device.type == "meta"
    assert mean.state_dict() == {}
    assert repr(copy.deepcopy(mean)) == (
        "ExactMean(\n  gradients='sum'\n  (loss): CrossEntropyLoss(weight=[1.0, 9.0])\n)"
    )


def refusal(kind, call):
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize(
    "call",
    [lambda loss: sy.step_denominator(loss, torch.tensor([0])), sy.ExactMean],
    ids=["step_denominator", "ExactMean"],
)
def test_a_loss_that_does_not_know_its_denominator_is_refused(call):
    assert refusal(TypeError, lambda: call(nn.CrossEntropyLoss())) == (
        "loss is a torch.nn.modules.loss.CrossEntropyLoss, which does not know what its mean "
        "divides by: expected a loss of steelyard, such as sy.CrossEntropyLoss"
    )


def test_errors_say_what_to_do():
    loss, one = sy.CrossEntropyLoss(), torch.tensor([0])
    assert refusal(ValueError, lambda: sy.step_denominator(loss, [])) == (
        "targets holds no micro-batch: a rank without data takes part in the step with an empty "
        "or an ignored target"
    )
    for given, kind in (([(one, one)], "a tuple"), ([0, 1], "an int")):
        assert refusal(TypeError, lambda given=given: sy.step_denominator(loss, given)) == (
            f"targets holds {kind}: give one tensor of targets per micro-batch, as in "
            "[target for _, target in micro_batches]"
        )
    assert refusal(ValueError, lambda: sy.step_denominator(loss, [one, one], [None])) == (
        "sample_weights holds 1 micro-batches and targets 2: give one per target, None for a "
        "micro-batch without"
    )
    assert refusal(ValueError, lambda: sy.ExactMean(loss, gradients="mean")) == (
        "gradients='mean' is not known: choose 'average' or 'sum', as the ranks' gradients are "
        "averaged (DDP, FSDP) or summed"
    )
    mean, model = sy.ExactMean(loss), nn.Linear(1, 2)
    parameters = model.parameters()
    assert refusal(RuntimeError, lambda: mean.divide_grads_(parameters)) == (
        "no loss was computed since the gradients were last divided: call divide_grads_ once per "
        "step, with all parameters, after backward; a rank without data takes part with an empty "
        "batch"
    )
    assert refusal(ValueError, lambda: mean.divide_grads_(parameters)) == (
        "there are no parameters: give all that the step trains, at once"
    )


def test_counts_without_a_process_group_are_the_whole():
    counts = sy.ClassCounts([3, 1])
    assert counts.all_reduce() is counts
