"""Several labels per image, all of them rare, some of them missing: which loss finds them?

    python examples/multilabel.py

Made-up features of 3000 rows with eight labels. A label is there in 1 to 20 % of the rows, and for
three rows in ten nobody looked. A small network is trained with each loss; at the threshold of 0,
precision and recall say what each took for there, and the average precision how it ranks.
"""

import torch
from torch import Tensor, nn

import steelyard as sy
from steelyard import metrics

LABELS, FEATURES, MISSING = 8, 16, -1


def rows(number: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features (N, 16), and labels (N, 8) of 0 and 1."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(number, FEATURES, generator=g)
    directions = torch.randn(FEATURES, LABELS, generator=torch.Generator().manual_seed(7))
    score = x @ directions / FEATURES**0.5 + 0.5 * torch.randn(number, LABELS, generator=g)
    shares = torch.logspace(-2, -0.7, LABELS)
    thresholds = torch.stack(
        [score[:, c].kthvalue(round(number * (1 - float(s)))).values for c, s in enumerate(shares)]
    )
    return x, (score > thresholds).long()


def trained(loss: sy.SigmoidLoss, x: Tensor, target: Tensor) -> nn.Module:
    """A network of one hidden layer after 300 steps."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(FEATURES, 32), nn.ReLU(), nn.Linear(32, LABELS))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        loss(network(x), target).backward()
        optimizer.step()
    return network


def main() -> None:
    torch.set_num_threads(1)
    x, truth = rows(3000, seed=0)
    missing = torch.rand(truth.shape, generator=torch.Generator().manual_seed(1)) < 0.3
    target = truth.masked_fill(missing, MISSING)
    counts = sy.count_classes(target, multi_label=True)
    pos_weight = sy.pos_weight(counts, high=50)
    shares = [f"{share:.1%}" for share in counts.prior().tolist()]
    print(f"Labels that are there, of those that are known: {', '.join(shares)}")

    losses = {
        "BCE, missing as absent": (sy.BCEWithLogitsLoss(), target.clamp(min=0)),
        "BCE": (sy.BCEWithLogitsLoss(), target),
        "BCE, pos_weight": (sy.BCEWithLogitsLoss(pos_weight=pos_weight), target),
        "sigmoid focal": (sy.SigmoidFocalLoss(gamma=2), target),
        "asymmetric": (sy.AsymmetricLoss(), target),
        "logit-adjusted": (sy.SigmoidLogitAdjustedLoss(class_counts=counts), target),
    }
    x_test, truth_test = rows(3000, seed=2)
    print(f"{'':24}precision  recall  average precision")
    for name, (loss, labels) in losses.items():
        scores = trained(loss, x, labels)(x_test).detach()
        there = scores > 0
        hits = (there & (truth_test == 1)).sum()
        precision, recall = hits / there.sum(), hits / truth_test.sum()
        area = metrics.average_precision(scores.T, truth_test.T).mean()
        print(f"{name:24}{precision:9.3f}{recall:8.3f}{area:19.3f}")


if __name__ == "__main__":
    main()
