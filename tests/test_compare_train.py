"""A trial in the stack is the trial that a plain PyTorch loop would have run alone."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import steelyard as sy
from steelyard.compare.candidates import CANDIDATES, build_loss, candidate
from steelyard.compare.tables import drawn, groups
from steelyard.compare.tables.cells import Choice
from steelyard.compare.tables.data import load_digits
from steelyard.compare.tables.draws import draw_trials
from steelyard.compare.tables.groups import Group, plan_groups, run_group
from steelyard.compare.tables.objective import Objective, stack_order
from steelyard.compare.tables.prepare import Part, prepare
from steelyard.compare.tables.sampler import Sampler
from steelyard.compare.tables.shape import EMBEDDED, Shape
from steelyard.compare.tables.stack import Networks
from steelyard.compare.tables.study import Study
from steelyard.compare.tables.train import AdamW, Plan, Rows, rate_factor, train

NAMES = [item.name for item in CANDIDATES if not item.post_hoc and item.sampling == "plain"]
SAMPLING = [item.name for item in CANDIDATES if item.sampling != "plain"]
DIGITS = load_digits()
SEEDS, DRAWS, HIDDEN, SIZE = [0, 1], 2, 16, 32
PLAIN, EMBEDDING = Shape(50, 0, HIDDEN, 1, 10), Shape(50, 3, HIDDEN, 2, 10)
EPOCHS = 5  # eleven steps each
START = 4  # deferred weights count in the last epoch


def features_and_labels(seed):
    part = prepare(DIGITS, seed, 0.2, 0.2)
    return part.train.features[:, :50], part.train.labels, part.counts


def sampler_of(name, seed):
    x, y, _ = features_and_labels(seed)
    return Sampler(seed, Part(x, y), candidate(name), START)


def stack_of(names, seeds, dtype, shape=EMBEDDING):
    """Networks trained as one stack, and their trials in the order of the stack."""
    rows = []
    for seed in seeds:
        _, _, counts = features_and_labels(seed)
        trials = draw_trials(names, seed, DRAWS)
        built = [build_loss(candidate(t.candidate), t.options, counts, START) for t in trials]
        order = stack_order([candidate(t.candidate) for t in trials], built)
        rows.append([(trials[i], built[i]) for i in order])
    trials = [[trial for trial, _ in row] for row in rows]
    losses = [[loss for _, loss in row] for row in rows]
    linear = sum(candidate(trial.candidate).head == "linear" for trial in trials[0])
    networks = Networks.initial(seeds, len(trials[0]), linear, shape, "cpu", dtype)
    parts = [features_and_labels(seed) for seed in seeds]
    train(
        networks,
        Objective(losses, 10, "cpu", dtype),
        Rows.stacked([x for x, _, _ in parts], [y for _, y, _ in parts], "cpu", dtype),
        *(
            torch.tensor([[t.options[name] for t in row] for row in trials], dtype=dtype)
            for name in ("learning_rate", "weight_decay")
        ),
        Plan([sampler_of(names[0], seed) for seed in seeds], EPOCHS, SIZE),
        lambda epoch, losses: None,
    )
    return networks, trials


class Plain(nn.Module):
    """The same network as a user would write it, a layer at a time."""

    def __init__(self, shape, cosine):
        super().__init__()
        self.features = shape.features
        self.frequency = nn.Parameter(torch.empty(shape.numeric, 24))
        self.embeddings = nn.ModuleList(nn.Linear(48, EMBEDDED) for _ in range(shape.numeric))
        widths = [shape.features + shape.numeric * EMBEDDED, *[shape.hidden] * shape.layers]
        self.layers = nn.ModuleList(map(nn.Linear, widths, widths[1:]))
        self.head = (sy.CosineLinear if cosine else nn.Linear)(shape.hidden, shape.classes)

    def forward(self, x):
        parts = [x]
        for j, embedding in enumerate(self.embeddings):
            angle = 2 * math.pi * x[:, j : j + 1] * self.frequency[j]
            parts.append(embedding(torch.cat([angle.sin(), angle.cos()], 1)).relu())
        x = torch.cat(parts, 1)
        for layer in self.layers:
            x = layer(x).relu()
        return self.head(x)

    def by_name(self):
        """Its parameters, detached, by the names that the stack has for them."""
        layers = {f"layer{i}": layer for i, layer in enumerate(self.layers, 1)}
        found = {}
        for name, layer in (layers | {"head": self.head}).items():
            found[f"{name}.weight"] = layer.weight.detach()
            if isinstance(layer, nn.Linear):
                found[f"{name}.bias"] = layer.bias.detach().unsqueeze(1)
        if self.embeddings:
            read = found["layer1.weight"]
            found["layer1.weight"] = read[:, : self.features]
            found["layer1.embedded"] = read[:, self.features :]
            found["frequency"] = self.frequency.detach()
            for name in ("weight", "bias"):
                parts = [getattr(embedding, name).detach() for embedding in self.embeddings]
                found[f"embedding.{name}"] = torch.cat(parts).view(
                    len(self.embeddings) * EMBEDDED, -1
                )
        return found

    def start(self, shape, seed):
        """Begin where the stack begins."""
        drawn = shape.initial(seed)
        with torch.no_grad():
            if self.embeddings:
                self.frequency.copy_(drawn["frequency"])
                for j, embedding in enumerate(self.embeddings):
                    own = slice(j * EMBEDDED, (j + 1) * EMBEDDED)
                    embedding.weight.copy_(drawn["embedding.weight"][own])
                    embedding.bias.copy_(drawn["embedding.bias"][own, 0])
                both = [drawn["layer1.weight"], drawn["layer1.embedded"]]
                drawn["layer1.weight"] = torch.cat(both, 1)
            for i, layer in enumerate(self.layers, 1):
                layer.weight.copy_(drawn[f"layer{i}.weight"])
                layer.bias.copy_(drawn[f"layer{i}.bias"][:, 0])
            self.head.weight.copy_(drawn["head.weight"])
            if isinstance(self.head, nn.Linear):
                self.head.bias.copy_(drawn["head.bias"][:, 0])


def alone(trial, dtype, shape):
    """The same trial as a user would write it: modules, torch's optimiser, one loss."""
    x, y, counts = features_and_labels(trial.seed)
    x, y = torch.from_numpy(x).to(dtype), torch.from_numpy(y)
    item = candidate(trial.candidate)
    cosine = item.head == "cosine"
    model = Plain(shape, cosine).to(dtype)
    model.start(shape, trial.seed)
    loss = build_loss(item, trial.options, counts, START)
    rate, decay = trial.options["learning_rate"], trial.options["weight_decay"]
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
    per_epoch = math.ceil(len(y) / SIZE)
    step = 0
    for epoch in range(EPOCHS):
        if item.reweighted:
            loss.set_epoch(epoch)
        order, others, shares = sampler_of(trial.candidate, trial.seed)(epoch)
        if item.sampling == "plain":
            assert (
                order == np.random.default_rng([trial.seed, 2, epoch]).permutation(len(y))
            ).all()
        read = x[order]
        if others is not None:
            read = read + torch.from_numpy(shares)[:, None].to(dtype) * (x[others] - read)
        for rows in np.array_split(np.arange(len(order)), per_epoch):
            for group in optimiser.param_groups:
                group["lr"] = rate * rate_factor(step, EPOCHS * per_epoch)
            optimiser.zero_grad()
            loss(model(read[rows]), y[order[rows]]).backward()
            optimiser.step()
            step += 1
    assert step >= 50
    return model


@pytest.mark.parametrize("shape", [PLAIN, EMBEDDING], ids=["plain", "embedding"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-3)])
def test_every_candidate_in_the_stack_equals_itself_alone(dtype, tolerance, shape):
    networks, trials = stack_of(NAMES, SEEDS, dtype, shape)
    for s, row in enumerate(trials):
        for t, trial in enumerate(row):
            theirs = alone(trial, dtype, shape).by_name()
            unused = networks.parameters.keys() - theirs.keys()
            cosine = candidate(trial.candidate).head == "cosine"
            assert unused == ({"head.bias"} if cosine else set())
            for name, tensor in theirs.items():
                distance = (networks.parameters[name][s, t] - tensor).abs().max().item()
                assert distance < tolerance, (trial, name, distance)


@pytest.mark.parametrize("name", SAMPLING)
def test_what_samples_its_rows_equals_itself_alone(name):
    networks, trials = stack_of([name], SEEDS, torch.float64)
    for s, row in enumerate(trials):
        for t, trial in enumerate(row):
            for parameter, tensor in alone(trial, torch.float64, EMBEDDING).by_name().items():
                distance = (networks.parameters[parameter][s, t] - tensor).abs().max().item()
                assert distance < 1e-10, (trial, parameter, distance)


def test_a_trial_does_not_feel_its_neighbours():
    together, trials = stack_of(["cross-entropy", "focal", "ldam"], [0], torch.float64)
    one, _ = stack_of(["focal"], [0], torch.float64)
    places = [i for i, trial in enumerate(trials[0]) if trial.candidate == "focal"]
    for a, b in zip(together.tensors, one.tensors, strict=True):
        torch.testing.assert_close(a[0, places], b[0], rtol=0, atol=1e-10)


def plain_sampler(seed, rows):
    labels = np.zeros(rows, dtype=np.int64)
    return Sampler(seed, Part(np.zeros((rows, 1)), labels), candidate("cross-entropy"))


def test_a_trial_that_diverges_leaves_the_others_alone():
    x = torch.randn(1, 40, 3, dtype=torch.float64)
    rows = Rows(x, torch.randint(0, 2, (1, 40)))

    def trained(rates):
        losses = [[sy.CrossEntropyLoss() for _ in rates]]
        networks = Networks.initial(
            [0], len(rates), len(rates), Shape(3, 0, 4, 1, 2), "cpu", torch.float64
        )
        objective = Objective(losses, 2, "cpu", torch.float64)
        rate = torch.tensor([rates], dtype=torch.float64)
        train(
            networks,
            objective,
            rows,
            rate,
            0 * rate,
            Plan([plain_sampler(0, 40)], 3, 10),
            lambda epoch, losses: None,
        )
        return networks.parameters["layer1.weight"].detach()[0]

    both = trained([0.01, float("nan")])
    assert both[1].isnan().all()
    torch.testing.assert_close(both[0], trained([0.01])[0], rtol=0, atol=1e-12)


def test_adamw_skips_what_has_no_gradient_as_torch_does():
    ours = torch.ones(1, 1, 2, 1)
    AdamW([ours], torch.tensor([[0.1]]), torch.tensor([[0.5]])).step([None], 1.0)
    assert ours.eq(1).all()


def test_batches_hold_every_row_once_and_agree_for_one_seed():
    x = torch.arange(2 * 10, dtype=torch.float64).view(2, 10, 1)
    rows = Rows(x, torch.zeros(2, 10, dtype=torch.long))
    samplers = [plain_sampler(seed, 10) for seed in (4, 7)]
    seen = torch.cat([batch.features for batch in rows.batches(3, samplers, 4)], 1)
    assert seen.sort(1).values.eq(x).all()
    assert [b.labels.shape[1] for b in rows.batches(0, samplers, 4)] == [4, 3, 3]
    alone = Rows(x[1:], rows.labels[1:])
    again = torch.cat([batch.features for batch in alone.batches(3, samplers[1:], 4)], 1)
    assert again[0].eq(seen[1]).all()


def test_learning_rate_rises_then_falls_to_nothing():
    factors = [rate_factor(step, 100) for step in range(100)]
    assert factors[0] == pytest.approx(0.2)
    assert max(factors) == 1
    assert factors[-1] < 0.001


@pytest.mark.parametrize(
    ("rows", "epochs", "size"),
    [
        (10, 60, 32),
        (1000, 46, 32),
        (3282, 57, 128),
        (16_384, 46, 512),
        (100_000, 7, 512),
        (10_000_000, 5, 512),
    ],
)
def test_more_rows_mean_larger_batches_then_fewer_epochs(rows, epochs, size):
    assert Study(("focal",)).budget(rows) == (epochs, size)


def test_what_is_asked_for_is_not_changed_by_the_rows():
    assert Study(("focal",), epochs=9, batch_size=7).budget(10**6) == (9, 7)
    assert Study(("focal",), batch_size=1000).budget(50_000) == (30, 1000)
    assert Study(("focal",), epochs=9).budget(10).deferral_epoch == 7


def test_groups_keep_draws_and_post_hoc_with_their_baseline():
    names = ["cross-entropy", "post-hoc", "focal", "vs"]
    assert plan_groups(names, [0, 1, 2], 2, 20) == [
        Group((0, 1), ("cross-entropy", "post-hoc", "focal", "vs")),
        Group((2,), ("cross-entropy", "post-hoc", "focal", "vs")),
    ]
    assert plan_groups(names, [5], 8, 16) == [
        Group((5,), ("cross-entropy", "post-hoc")),
        Group((5,), ("focal", "vs")),
    ]
    assert plan_groups(names, [5], 8, 1) == [
        Group((5,), ("cross-entropy", "post-hoc")),
        Group((5,), ("focal",)),
        Group((5,), ("vs",)),
    ]


def test_those_that_read_other_rows_train_apart():
    names = ["cross-entropy", "balanced-sampling", "deferred-sampling", "smote", "ldam-drw"]
    assert plan_groups(names, [0, 1], 2, 9) == [
        Group((0, 1), ("cross-entropy", "ldam-drw")),
        Group((0, 1), ("balanced-sampling",)),
        Group((0, 1), ("deferred-sampling",)),
        Group((0, 1), ("smote",)),
    ]


@pytest.mark.parametrize("units", [[("cross-entropy", "post-hoc"), ("focal",)], [("smote",)]])
def test_grouping_changes_nothing_but_rounding(units):
    losses = tuple(name for unit in units for name in unit)
    study64 = Study(losses, seeds=2, draws=2, epochs=3, hidden=8, dtype="float64")
    whole = run_group(DIGITS, study64, Group((0, 1), losses))
    parts = [
        cell
        for seed in (0, 1)
        for names in units
        for cell in run_group(DIGITS, study64, Group((seed,), names))
    ]
    for a, b in zip(whole, parts, strict=True):
        assert (a["seed"], a["candidate"]) == (b["seed"], b["candidate"])
        assert a["chosen"] == b["chosen"]
        assert a["confusion"] == b["confusion"]
        assert a["curve"]["train_loss"] == pytest.approx(b["curve"]["train_loss"], abs=1e-9)


def test_post_hoc_is_the_baseline_with_its_logits_adjusted():
    study = Study(("cross-entropy", "post-hoc"), seeds=1, draws=1, epochs=20)
    plain, post_hoc = run_group(DIGITS, study, Group((0,), study.losses))
    assert post_hoc["trials"][0]["options"]["tau"] == 1.0
    assert post_hoc["curve"]["train_loss"] == plain["curve"]["train_loss"]
    # With the prior taken away, rare digits are named more often than before.
    named = [np.array(cell["confusion"])[:, 6:].sum() for cell in (plain, post_hoc)]
    assert named[1] > named[0]


def test_a_diverged_draw_is_never_chosen_however_well_it_validated():
    def best(scores, finite):
        scores, finite = np.array(scores), np.array(finite, dtype=bool)
        return Choice([], [], scores, scores, finite).best()

    scores = [0.5, 0.9, 0.7, 0.7]
    assert best(scores, [1, 0, 1, 1]) == 2
    assert best(scores, [1, 0, 0, 0]) == 0
    assert best([math.nan, math.inf, -1.0], [0, 0, 1]) == 2
    assert best(scores, [0, 0, 0, 0]) is None


@pytest.mark.parametrize("broken", ["loss", "score", "parameter"])
def test_a_draw_with_one_number_that_is_not_finite_is_not_chosen(monkeypatch, broken):
    """The draw that validates best by far is spoilt in one place only."""
    study = Study(("cross-entropy", "post-hoc"), seeds=1, draws=2, epochs=8)
    group = Group((0,), study.losses)
    sound = run_group(DIGITS, study, group)
    best = sound[0]["chosen"]
    before = groups.train_stack

    def spoilt(*arguments):
        trained = before(*arguments)
        place = trained.drawn.places(0, "cross-entropy")[best]
        if broken == "loss":
            trained.curves.losses[-1][0, place] = math.inf
        elif broken == "score":
            trained.curves.scores[-1][0, place] = math.nan
        else:
            trained.networks.parameters["head.bias"].data[0, place, 0] = -math.inf
        return trained

    monkeypatch.setattr(groups, "train_stack", spoilt)
    for cell in run_group(DIGITS, study, group):
        assert cell["chosen"] == 1 - best
        assert cell["trials"][best]["status"] == "failed"
        assert cell["trials"][1 - best]["status"] == "done"


def test_a_diverged_draw_is_kept_with_its_reason_and_never_chosen(monkeypatch):
    def wild(names, seed, draws):
        trials = draw_trials(names, seed, draws)
        trials[0].options["learning_rate"] = math.nan
        return trials

    monkeypatch.setattr(drawn, "draw_trials", wild)
    study = Study(("cross-entropy", "focal"), seeds=1, draws=2, epochs=1)
    cell, other = run_group(DIGITS, study, Group((0,), study.losses))
    assert cell["trials"][0]["status"] == "failed"
    assert cell["trials"][0]["reason"] == "the training diverged: its loss is not finite"
    assert cell["chosen"] == 1
    assert all(trial["status"] == "done" for trial in other["trials"])
