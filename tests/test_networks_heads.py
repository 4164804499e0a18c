"""Heads alone: a method of its own, on the features of cross-entropy's network."""

import numpy as np
import pytest
import torch
from network_cases import Keeping, blobs, line_of, network, problem_of, study

import steelyard as sy
from steelyard.compare.training import head_only
from steelyard.compare.training.head_only import Features, train_heads, unit_scale
from steelyard.compare.training.heads import features_of, with_cosine_head
from steelyard.compare.training.loading import Loader
from steelyard.compare.training.methods import METHODS
from steelyard.compare.training.plan import cosine
from steelyard.compare.training.streams import stream
from steelyard.compare.training.work import run_line

OPTIONS = {"learning_rate": 0.01, "weight_decay": 0.01, "label_smoothing": 0.0}


def test_features_are_what_the_head_reads():
    net = network()
    rows = np.array([5, 1, 8])
    found = features_of(net, "3", Loader(blobs(), 0, "train"), rows, 2, "cpu")
    x = blobs().tensors[0][rows]
    assert found.numpy() == pytest.approx(net[:3](x).detach().float().numpy())
    assert float((found * unit_scale(found)).square().mean()) == pytest.approx(1)


def test_heads_side_by_side_are_heads_one_by_one():
    data = blobs(300)
    features, labels = data.tensors[0].float(), data.tensors[1].numpy()
    counts = np.bincount(labels)
    wanted = [
        (METHODS["cross-entropy-head-only"], OPTIONS),
        (METHODS["balanced-softmax-head-only"], OPTIONS | {"learning_rate": 0.02}),
        (METHODS["ldam-head-only"], OPTIONS | {"max_margin": 0.5, "scale": 10.0}),
        (METHODS["balanced-sampling-head-only"], OPTIONS),
    ]
    together = train_heads(wanted, Features(features, labels), counts, 7)
    for (method, options), head in zip(wanted, together, strict=True):
        (alone,) = train_heads([(method, options)], Features(features, labels), counts, 7)
        assert np.array_equal(alone.logits(features), head.logits(features))
    torch.manual_seed(stream(7, "head only"))
    layer = torch.nn.Linear(4, 3)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.02, weight_decay=0.01)
    loss = sy.BalancedSoftmaxLoss(class_counts=counts)
    step = 0
    for epoch in range(30):
        order = np.random.default_rng(stream(7, "order", epoch)).permutation(300)
        for rows in np.array_split(order, 2):
            optimizer.zero_grad()
            loss(layer(features[rows]), torch.tensor(labels[rows])).backward()
            optimizer.param_groups[0]["lr"] = 0.02 * cosine(step, 60)
            optimizer.step()
            step += 1
    assert together[1].logits(features) == pytest.approx(layer(features).detach().numpy())
    assert (head_only.EPOCHS, head_only.BATCH_SIZE) == (30, 256)


def test_heads_leave_the_network_as_it_was():
    names = ["balanced-softmax-head-only", "ldam-head-only"]
    loop, plain = Keeping(), Keeping()
    problem, plan = problem_of(names, loop=loop)
    (outcome,) = run_line(problem, plan, line_of(problem, plan, "cross-entropy"), None)
    assert [one.run.key for one in outcome.heads] == [
        f"0-{draw}-{name}-on-0"
        for name in ("balanced-softmax-head-only", "ldam-head-only")
        for draw in range(2)
    ]
    problem, plan = problem_of(["focal"], loop=plain)
    (without,) = run_line(problem, plan, line_of(problem, plan, "cross-entropy"), None)
    assert without.heads == ()
    assert without.test == outcome.test


def test_heads_are_candidates_of_their_own(tmp_path):
    given = {
        "losses": ["balanced-softmax-head-only", "balanced-sampling-head-only"],
        "out": tmp_path,
        "seeds": 3,
    }
    found = study(**given).results
    by_name = {entry["name"]: entry for entry in found["candidates"]}
    entry = by_name["balanced-softmax-head-only"]
    assert entry["title"] == "Balanced softmax, head only"
    assert entry["rider"] == "head-only"
    first, *others = entry["seeds"]
    assert [trial["draw"] for trial in first["trials"]] == [0, 1]
    for cell in others:
        assert [trial["draw"] for trial in cell["trials"]] == [first["chosen"]]
    assert entry["scores"]["balanced_accuracy"]["mean"] is not None
    assert set(found["times"]["trainings"]) == {
        "cross-entropy",
        "weighted-cross-entropy",
        *given["losses"],
    }
    again = study(**given).results
    assert again["candidates"] == found["candidates"]


def test_a_cosine_head_is_drawn_from_its_own_stream():
    a, b = network(), network()
    torch.manual_seed(1)
    with_cosine_head(a, "3", 5)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    with_cosine_head(b, "3", 5)
    assert torch.equal(a[3].weight, b[3].weight)
    assert torch.equal(before, torch.get_rng_state())
    assert a[3].weight.dtype == torch.float64
