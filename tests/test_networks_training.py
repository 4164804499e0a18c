"""One training: the four hooks against a bare loop, exact means, checkpoints and forks."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from network_cases import (
    Keeping,
    Noisy,
    blobs,
    dropping,
    line_of,
    network,
    problem_of,
    run_of,
    same_parameters,
    sgd,
)

import steelyard as sy
from steelyard.compare.study import StudyError
from steelyard.compare.training.plan import cosine
from steelyard.compare.training.problem import PlainLoop
from steelyard.compare.training.ranks import Ranks
from steelyard.compare.training.streams import seed_everything, stream
from steelyard.compare.training.work import new_trial, run_line


def train(problem, plan, name, **given):
    trial = new_trial(
        problem,
        plan,
        run_of(problem, plan, name),
        problem.split(plan, 0),
        Ranks(),
        **given,
    )
    trained = problem.train(trial)
    trial.finish()
    return trained, trial


def bare_loop(problem, plan, loss):
    """What the hooks are to be worth: a loop that knows nothing of them."""
    rows = problem.split(plan, 0).train
    data = problem.training.dataset
    torch.manual_seed(stream(0, "initial"))
    model = network()
    optimizer = sgd(model.parameters(), 0.1, 1e-3)
    steps = plan.epochs * -(-len(rows) // plan.batch_size)
    step = 0
    for epoch in range(plan.epochs):
        order = np.random.default_rng(stream(0, "order", epoch)).permutation(rows)
        for part in np.array_split(order, -(-len(rows) // plan.batch_size)):
            features, target = data[torch.from_numpy(part)]
            optimizer.zero_grad()
            loss(model(features), target).backward()
            optimizer.param_groups[0]["lr"] = 0.1 * cosine(step, steps)
            optimizer.step()
            step += 1
    return model


def test_streams_stay_what_they_are():
    assert stream(0, "order", 3) == 386106667988085106


def test_the_hooks_train_what_a_bare_loop_trains():
    problem, plan = problem_of(["focal"])
    trained, _ = train(problem, plan, "focal")
    assert same_parameters(trained, bare_loop(problem, plan, sy.FocalLoss()))


def test_a_loss_of_the_users_own_trains_what_a_bare_loop_trains():
    problem, plan = problem_of([("mine", F.cross_entropy)])
    trained, _ = train(problem, plan, "mine")
    assert same_parameters(trained, bare_loop(problem, plan, F.cross_entropy))


@pytest.mark.parametrize("loss", ["weighted-cross-entropy", "ldam", ("mine", F.cross_entropy)])
def test_micro_batches_leave_the_mean_exact(loss):
    name = loss if isinstance(loss, str) else loss[0]
    whole, _ = train(*problem_of([loss], batch_size=16), name)
    pieces, _ = train(*problem_of([loss], batch_size=16, micro_batch=3), name)
    for a, b in zip(whole.parameters(), pieces.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_candidates_share_body_order_and_augmentation():
    seen = {}

    class Watching(PlainLoop):
        def __call__(self, trial):
            model = trial.prepare(self.network())
            first = [p.detach().clone() for p in model.parameters()]
            optimizer = self.optimizer(model.parameters(), 0.1, 0.0)
            batches = []
            for epoch in trial.epochs(model, optimizer):
                for inputs, target in trial.batches(epoch):
                    batches.append((inputs.clone(), target.clone()))
                    torch.rand(3)  # what a loss might draw
                    trial.loss(model(inputs), target).backward()
                    trial.step(optimizer)
            seen[trial.candidate] = first, batches
            return model

    problem, plan = problem_of(
        ["ldam", "cross-entropy"], train=Noisy(blobs()), loop=Watching(dropping, sgd)
    )
    for name in ("cross-entropy", "ldam"):
        train(problem, plan, name)
    (plain, plain_batches), (cosine_head, cosine_batches) = seen.values()
    assert all(torch.equal(a, b) for a, b in zip(plain[:2], cosine_head[:2], strict=True))
    assert len(plain) == len(cosine_head) + 1  # the cosine head has no bias
    for (x, y), (u, v) in zip(plain_batches, cosine_batches, strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)


class KilledError(Exception):
    pass


class Stopping(PlainLoop):
    """Dies in the middle of an epoch."""

    def __init__(self, factory, epoch):
        super().__init__(factory, sgd)
        object.__setattr__(self, "epoch", epoch)

    def __call__(self, trial):
        step = trial.step

        def dying(optimizer):
            if trial._epoch == self.epoch and trial._step % trial.steps_per_epoch == 1:
                raise KilledError
            return step(optimizer)

        trial.step = dying
        return super().__call__(trial)


@pytest.mark.parametrize("epoch", [1, 3, 4])
def test_a_killed_training_goes_on_to_the_same_bits(tmp_path, monkeypatch, epoch):
    monkeypatch.setattr("steelyard.compare.training.checkpoints._SHARE", 1e9)  # one each epoch
    data = Noisy(blobs())
    whole, _ = train(*problem_of(["focal"], train=data, factory=dropping), "focal")
    broken, plan = problem_of(["focal"], train=data, loop=Stopping(dropping, epoch))
    path = tmp_path / "focal.pt"
    with pytest.raises(KilledError):
        train(broken, plan, "focal", checkpoint=path)
    assert torch.load(path)["epochs"] == epoch
    np.random.seed(0)  # another process begins elsewhere  # noqa: NPY002
    resumed, trial = train(
        *problem_of(["focal"], train=data, factory=dropping), "focal", checkpoint=path
    )
    assert same_parameters(whole, resumed)
    assert len(trial.curve) == plan.epochs
    assert not path.exists()


FORKED = [
    ("ldam", "ldam-drw"),
    ("cross-entropy", "deferred-weighted", "deferred-sampling"),
    ("deferred-sampling", "deferred-weighted"),
]


@pytest.mark.parametrize("names", FORKED)
def test_a_fork_is_the_separate_training(tmp_path, names):
    data = Noisy(blobs())
    loop = Keeping(dropping)
    problem, plan = problem_of(list(names), train=data, loop=loop)
    outcomes = list(run_line(problem, plan, line_of(problem, plan, *names), tmp_path))
    assert [outcome.status for outcome in outcomes] == ["done"] * len(names)
    assert list(tmp_path.iterdir()) == []
    for name in names:
        alone, _ = train(*problem_of(list(names), train=data, factory=dropping), name)
        assert same_parameters(loop.networks[name], alone)


def test_a_fork_trains_the_last_fifth_alone(tmp_path):
    counted = []

    class Counting(PlainLoop):
        def __call__(self, trial):
            batches = trial.batches
            trial.batches = lambda epoch: (
                counted.append((trial.candidate, epoch)),
                batches(epoch),
            )[1]
            return super().__call__(trial)

    problem, plan = problem_of(["ldam", "ldam-drw"], loop=Counting(network, sgd))
    list(run_line(problem, plan, line_of(problem, plan, "ldam", "ldam-drw"), tmp_path))
    assert counted == [("ldam", e) for e in range(5)] + [("ldam-drw", 4)]


def test_what_is_left_of_a_line_begins_where_it_parted(tmp_path):
    whole = Keeping(dropping)
    problem, plan = problem_of(["ldam", "ldam-drw"], loop=whole)
    both = line_of(problem, plan, "ldam", "ldam-drw")
    started = run_line(problem, plan, both, tmp_path)
    next(started)
    started.close()  # killed before the second run began
    rest = line_of(problem, plan, "ldam-drw")
    assert rest.key == both.key
    assert (tmp_path / f"{rest.key}.fork.pt").exists()
    epochs = []
    loop = Keeping(dropping)

    def counting(trial):
        batches = trial.batches
        trial.batches = lambda epoch: (epochs.append(epoch), batches(epoch))[1]
        return loop(trial)

    problem, plan = problem_of(["ldam", "ldam-drw"], loop=counting)
    list(run_line(problem, plan, rest, tmp_path))
    assert epochs == [4]
    alone, _ = train(*problem_of(["ldam", "ldam-drw"], factory=dropping), "ldam-drw")
    assert same_parameters(loop.networks["ldam-drw"], alone)
    assert list(tmp_path.iterdir()) == []


def test_a_deferred_loss_differs_from_its_trunk():
    problem, plan = problem_of(["ldam", "ldam-drw"])
    a, _ = train(problem, plan, "ldam")
    b, _ = train(problem, plan, "ldam-drw")
    assert not same_parameters(a, b)


def nan_loss(logits, target):
    return F.cross_entropy(logits, target) * float("nan")


def test_a_loss_that_is_not_finite_fails_its_trial_alone():
    problem, plan = problem_of([nan_loss])
    line = line_of(problem, plan, "nan_loss")
    (outcome,) = run_line(problem, plan, line, None)
    assert outcome.status == "failed"
    assert outcome.reason == "the training diverged: its loss was nan in epoch 1"


def refused(losses, name, **given):
    problem, plan = problem_of(losses, **given)
    with pytest.raises(StudyError) as caught:
        list(run_line(problem, plan, line_of(problem, plan, name), None))
    return str(caught.value)


def test_what_is_wrong_with_the_users_part_is_said_in_one_sentence():
    assert refused(["focal"], "focal", factory=lambda: network(classes=4)) == (
        "the network gives 4 logits for each position and there are 3 classes: give it 3 outputs, "
        "or say num_classes=4"
    )
    assert refused([("rows", lambda z, y: z.sum(1))], "rows") == (
        "the loss 'rows' returned a tensor of shape (16,); expected a mean: one number, with a "
        "gradient"
    )

    def broken(logits, target):
        raise RuntimeError("size\n mismatch")

    assert refused([broken], "broken") == (
        "the training of broken (seed 0, draw 0) failed: RuntimeError: size mismatch"
    )
    assert refused(["focal"], "focal", factory=lambda: 3).startswith("network() returned 3;")


def test_a_loop_that_forgets_a_hook_is_told():
    def no_loss(trial):
        return trial.prepare(network())

    assert "never called trial.loss" in refused(["focal"], "focal", loop=no_loss)

    def half(trial):
        model = trial.prepare(network())
        optimizer = sgd(model.parameters(), 0.1, 0)
        for epoch in trial.epochs(model, optimizer):
            for inputs, target in trial.batches(epoch):
                trial.loss(model(inputs), target).backward()
            trial.step(optimizer)
        return model

    assert "took 5 optimiser steps, and every candidate takes 15" in refused(
        ["focal"], "focal", loop=half
    )

    def nothing(trial):
        PlainLoop(network, sgd)(trial)

    assert "the loop returned None" in refused(["focal"], "focal", loop=nothing)


def test_the_callers_generators_are_left_alone():
    problem, plan = problem_of(["focal"])
    seed_everything(3)
    expected = torch.rand(1), np.random.rand()  # noqa: NPY002
    seed_everything(3)
    list(run_line(problem, plan, line_of(problem, plan, "focal"), None))
    assert (torch.rand(1), np.random.rand()) == expected  # noqa: NPY002


def test_state_of_the_users_loss_does_not_reach_the_next_training():
    class Moving(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, logits, target):
            self.calls += 1
            return F.cross_entropy(logits, target) / self.calls

    problem, plan = problem_of([("moving", Moving())])
    a, _ = train(problem, plan, "moving")
    b, _ = train(problem, plan, "moving")
    assert same_parameters(a, b)


class Watched(torch.nn.Module):
    """Says in which precision it was called."""

    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(4, 3)
        self.seen = set()

    def forward(self, x):
        z = self.fc(x)
        self.seen.add((self.training, z.dtype))
        return z


def test_mixed_precision_reaches_training_and_scoring():
    data = blobs(dtype=torch.float32)
    loop = Keeping(Watched)
    problem, plan = problem_of(
        ["focal"], train=data, test=data, loop=loop, precision="bf16", head=None
    )
    (outcome,) = run_line(problem, plan, line_of(problem, plan, "focal"), None)
    assert loop.networks["focal"].seen == {(True, torch.bfloat16), (False, torch.bfloat16)}
    assert loop.networks["focal"].fc.weight.dtype == torch.float32
    assert outcome.status == "done"


def test_gradients_are_clipped_after_they_are_those_of_the_mean():
    norms = []

    class Measuring(torch.optim.SGD):
        def step(self, closure=None):
            parts = [p.grad.norm() for group in self.param_groups for p in group["params"]]
            norms.append(float(torch.stack(parts).norm()))
            return super().step(closure)

    def optimizer(parameters, learning_rate, weight_decay):
        return Measuring(parameters, lr=learning_rate)

    for micro in (None, 4):
        loop = PlainLoop(network, optimizer)
        problem, plan = problem_of(["focal"], loop=loop, clip=0.05, micro_batch=micro)
        train(problem, plan, "focal")
    assert max(norms) <= 0.05 * 1.001
    half = len(norms) // 2
    assert norms[:half] == pytest.approx(norms[half:], rel=1e-6)
