"""The pictures of the site and of README.md, drawn by the code that they are about.

`make pictures` writes them to docs/pictures/, where they are committed: pages on GitHub show them
too. Each is one SVG of a few kilobytes with its own light and dark colours, and the same numbers
give the same file. All are as narrow as a phone lets text be read.
"""

import re
import sys
from collections.abc import Callable, Iterable
from io import StringIO
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import steelyard as sy
from steelyard.report.style import DARK, GRID, INK, LEAD, MUTED, PAPER, WORSE

HERE = Path(__file__).parent
# Okabe and Ito's colours, and lighter ones of the same hues for the dark.
COLOURS = {LEAD: DARK[LEAD], WORSE: DARK[WORSE], "#007a5a": "#3cc49c", "#a8518b": "#e09ac8"}
COLOURS |= {"#8a6d00": "#e0c64a", "#5c6873": "#a3aeb9"}
LINES = list(COLOURS)
SCHEME = {INK: DARK[INK], MUTED: DARK[MUTED], GRID: DARK[GRID], PAPER: DARK[PAPER], **COLOURS}
mpl.rcParams |= {
    "svg.fonttype": "none",  # text stays text: small, searchable, in the reader's font
    "svg.hashsalt": "steelyard",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.titlesize": 10,
    "legend.fontsize": 10,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.facecolor": PAPER,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": mpl.cycler(color=LINES),
    "grid.color": GRID,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "text.color": INK,
    "figure.facecolor": PAPER,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}


WIDTH = 4.8  # inches: on a screen of 390 pixels, a text of 10 points is 10 pixels high


def panels(rows: int, columns: int, height: float, **shared: bool) -> tuple:
    """A figure of the given height in inches, and its axes as one flat list."""
    figure = Figure((WIDTH, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **shared)
    return figure, list(axes.flat)


def svg(figure: Figure, label: str) -> str:
    """The figure as SVG: what it shows in words, and colours that follow the system."""
    file = StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Title": label})
    text = file.getvalue()
    for colour in SCHEME:
        text = text.replace(colour, f"var(--{colour[1:]}, {colour})")
    rules = [
        ":root{" + ";".join(f"--{colour[1:]}:{own[side]}" for colour, own in both().items()) + "}"
        for side in (0, 1)
    ]
    style = f"<style>{rules[0]}@media (prefers-color-scheme: dark){{{rules[1]}}}</style>"
    text = re.sub(r"(<svg [^>]*>)", rf"\1<desc>{label}</desc>{style}", text, count=1)
    text = re.sub(r"font-family: [^;\"]*", "font-family: system-ui, sans-serif", text)
    # A tenth of a point is enough for where things are; what is written stays as it is.
    return re.sub(r'"[^"]*"', lambda found: re.sub(r"(\d\.\d)\d+", r"\1", found[0]), text)


def both() -> dict[str, tuple[str, str]]:
    """Colour → it in the light, and in the dark."""
    return {colour: (colour, dark) for colour, dark in SCHEME.items()}


# What a loss says of one position, against the probability that the network gives to the class.

CHANCES = torch.cat([torch.linspace(0.002, 0.1, 15), torch.linspace(0.12, 0.998, 45)]).double()


def loss_and_slope(loss: Callable[..., Tensor], **options: object) -> tuple[Tensor, Tensor]:
    """The loss at each p, and how hard it pulls at the logit of the class, relative to 1 − p."""
    logits = torch.stack([CHANCES.log(), (1 - CHANCES).log()], 1).requires_grad_()
    values = loss(logits, torch.zeros(len(CHANCES), dtype=torch.long), reduction="none", **options)
    (gradient,) = torch.autograd.grad(values.sum(), logits)
    return values.detach(), -gradient[:, 0] / (1 - CHANCES)


def tails() -> tuple[Figure, str]:
    figure, (left, right) = panels(1, 2, 3.4)
    for name, loss, options in (
        ("cross-entropy", sy.cross_entropy_loss, {}),
        ("focal, γ = 2", sy.focal_loss, {"gamma": 2}),
        ("focal, γ = 0.5", sy.focal_loss, {"gamma": 0.5}),
        ("Poly-1, ε = 1", sy.poly_loss, {"epsilon": 1}),
        ("generalised, q = 0.7", sy.generalized_cross_entropy_loss, {"q": 0.7}),
    ):
        values, slope = loss_and_slope(loss, **options)
        left.plot(CHANCES, values, label=name)
        right.plot(CHANCES, slope)
    left.set(title="Loss", xlabel="probability of the class, p", ylim=(0, 4))
    right.set(title="Slope ÷ cross-entropy's", ylim=(0, 2.1))
    right.set_xlabel("probability of the class, p")
    figure.legend(loc="outside lower center", ncols=2)
    return figure, "Loss and slope of the softmax losses against the probability of the class"


def edits() -> tuple[Figure, str]:
    """How hard each loss pulls at the logit of the class: of 900 examples, and of 100."""
    counts = [900, 100]
    figure, axes = panels(1, 2, 3.4, sharey=True)
    for label, (axis, title) in enumerate(
        zip(axes, ("Common: 900 examples", "Rare: 100 examples"), strict=True)
    ):
        other = (1 - CHANCES).log()
        logits = torch.stack([CHANCES.log(), other] if label == 0 else [other, CHANCES.log()], 1)
        target = torch.full((len(CHANCES),), label)
        for name, loss, scale in (
            ("cross-entropy", sy.CrossEntropyLoss(), 1.0),
            ("weighted", sy.CrossEntropyLoss(sy.class_weights(counts, "inverse")), 1.0),
            ("logit-adjusted", sy.LogitAdjustedLoss(class_counts=counts), 1.0),
            ("vector scaling", sy.VSLoss(class_counts=counts), 1.0),
            ("LDAM", sy.LDAMLoss(class_counts=counts, scale=10), 10.0),
        ):
            here = (logits / scale).requires_grad_()
            loss.reduction = "sum"
            total = loss(here, target, denominator=1.0)
            (gradient,) = torch.autograd.grad(total, here)
            axis.plot(CHANCES, gradient[:, label].abs() / scale, label=name if label == 0 else None)
        axis.set(title=title, xlabel="probability of the class, p")
    axes[0].set_ylabel("size of the gradient")
    axes[0].set_ylim(0, 1.9)
    figure.legend(loc="outside lower center", ncols=2)
    return figure, "Gradient of the losses that know class counts, common class and rare class"


def cells() -> tuple[Figure, str]:
    """The sigmoid losses: what a label that is there costs, and one that is not."""
    figure, axes = panels(2, 2, 5.2, sharex=True)
    for column, there in enumerate((1.0, 0.0)):
        for name, loss, options in (
            ("binary cross-entropy", sy.bce_with_logits_loss, {}),
            ("focal, γ = 2", sy.sigmoid_focal_loss, {"gamma": 2}),
            ("asymmetric", sy.asymmetric_loss, {}),
            ("Poly-1, ε = 1", sy.sigmoid_poly_loss, {"epsilon": 1}),
            ("Hill", sy.hill_loss, {}),
        ):
            logits = torch.logit(CHANCES).unsqueeze(1).requires_grad_()
            target = torch.full_like(logits, there)
            values = loss(logits, target, reduction="none", **options)
            (gradient,) = torch.autograd.grad(values.sum(), logits)
            axes[column].plot(CHANCES, values.detach(), label=None if column else name)
            axes[2 + column].plot(CHANCES, gradient.abs())
        axes[column].set(title="Label there: loss" if there else "Not there: loss")
        axes[column].set_ylim(0, 4)
        axes[2 + column].set(title="Size of the gradient", xlabel="probability of the label, p")
        axes[2 + column].set_ylim(0, 1.6)
    figure.legend(loc="outside lower center", ncols=2)
    return figure, "Loss and gradient of the sigmoid losses against the probability of the label"


def regions() -> tuple[Figure, str]:
    """The region losses: what misses and false alarms cost, and how hard a small object pulls."""
    figure, (missed, added, pull, key) = panels(2, 2, 5.2)
    shares, pixels, big = torch.linspace(0, 1, 41).double(), 2000, 400
    sizes = torch.logspace(1, 3, 21).long()
    wrong = (shares * big).long()[:, None]
    at = torch.arange(pixels)
    mask = (at < big).double().expand(len(shares), 1, pixels)  # (N, C = 1, pixels), one image each
    objects = (at < sizes[:, None]).double().unsqueeze(1)
    for name, loss in (
        ("cross-entropy", sy.BCEWithLogitsLoss()),
        ("Dice", sy.DiceLoss(activation="sigmoid")),
        ("Jaccard", sy.JaccardLoss(activation="sigmoid")),
        ("Tversky, α = 0.3, β = 0.7", sy.TverskyLoss(alpha=0.3, beta=0.7, activation="sigmoid")),
        ("Lovász", sy.LovaszLoss(activation="sigmoid")),
    ):
        if name != "cross-entropy":
            for axis, said in ((missed, (at >= wrong) & (at < big)), (added, at < big + wrong)):
                sure = torch.where(said, 20.0, -20.0).double().unsqueeze(1)
                each = [loss(z[None], t[None]) for z, t in zip(sure, mask, strict=True)]
                axis.plot(shares, torch.stack(each), color=LINES[len(pull.lines)])
        unsure = torch.where(objects == 1, 0.0, -2.0).double()
        found = []
        for z, t in zip(unsure, objects, strict=True):
            logits = z[None].clone().requires_grad_()
            (gradient,) = torch.autograd.grad(loss(logits, t[None]), logits)
            found.append(gradient[0][t == 1].abs().mean() * pixels)
        pull.plot(sizes, torch.stack(found), label=name)
    missed.set(title="Loss: pixels missed", xlabel="missed ÷ object")
    added.set(title="Loss: pixels too many", xlabel="added ÷ object")
    missed.set_ylim(0, 1.02)
    added.set_ylim(0, 1.02)
    pull.set(title="Gradient at a pixel", xlabel="pixels of the object", xscale="log", yscale="log")
    key.axis("off")
    key.legend(*pull.get_legend_handles_labels(), loc="center")
    return figure, (
        "Region losses against the share of an object that is missed, and that is added, and their "
        "gradient at a pixel of the object against the size of the object"
    )


# Two clouds of points, and where each loss draws the line.


def clouds() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    labels = torch.tensor([0] * 400 + [1] * 40)
    centres = torch.tensor([[-0.8, -0.3], [0.8, 0.5]])
    return centres[labels] + 0.75 * torch.randn(440, 2, generator=generator), labels


def trained(loss: nn.Module, points: Tensor, labels: Tensor, head: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), head)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02, weight_decay=1e-3)
    for _ in range(150):
        optimizer.zero_grad()
        loss(network(points), labels).backward()
        optimizer.step()
    return network.eval()


def boundaries() -> tuple[Figure, str]:
    points, labels = clouds()
    counts = sy.count_classes(labels)
    losses = {
        "cross-entropy": sy.CrossEntropyLoss(),
        "moved afterwards": sy.CrossEntropyLoss(),
        "weighted": sy.CrossEntropyLoss(sy.class_weights(counts)),
        "focal, γ = 2": sy.FocalLoss(),
        "class-balanced": sy.ClassBalancedLoss(class_counts=counts, beta=0.999),
        "logit-adjusted": sy.LogitAdjustedLoss(class_counts=counts),
        "vector scaling": sy.VSLoss(class_counts=counts),
        "LDAM": sy.LDAMLoss(class_counts=counts, scale=10),
    }
    figure, (*axes, key) = panels(3, 3, 6.4, sharex=True, sharey=True)
    across, up = torch.meshgrid(
        torch.linspace(-3, 3, 61), torch.linspace(-2.5, 2.5, 51), indexing="xy"
    )
    grid = torch.stack([across, up], -1).reshape(-1, 2)
    for axis, (name, loss) in zip(axes, losses.items(), strict=True):
        torch.manual_seed(0)
        head = sy.CosineLinear(16, 2) if name == "LDAM" else nn.Linear(16, 2)
        network = trained(loss, points, labels, head)
        with torch.no_grad():
            logits, own = network(grid), network(points)
        if name == "moved afterwards":
            logits, own = (sy.adjust_logits(z, counts) for z in (logits, own))
        for label, (colour, marker, shown) in enumerate(
            ((LEAD, "o", "common:\nevery fourth"), (WORSE, "^", "rare:\nevery second"))
        ):
            cloud = points[labels == label][:: 4 - 2 * label]
            axis.scatter(*cloud.T, s=4, c=colour, marker=marker, linewidths=0, label=shown)
        lead = (logits[:, 1] - logits[:, 0]).reshape(across.shape)
        axis.contour(across, up, lead, levels=[0], colors=[INK], linewidths=1.4)
        right = own.argmax(1) == labels
        found = [f"{right[labels == label].float().mean():.0%}" for label in (0, 1)]
        axis.set_title(f"{name}\ncommon {found[0]}\nrare {found[1]}")
        axis.set(xticks=[], yticks=[], xlim=(-3, 3), ylim=(-2.5, 2.5))
    shown = axes[0].get_legend_handles_labels()
    key.axis("off")
    key.legend(*shown, loc="center", markerscale=3, handletextpad=0)
    return figure, "400 common and 40 rare points, and the decision boundary under eight losses"


# Weights, thresholds, and the table of docs/speed.md.


def weights() -> tuple[Figure, str]:
    counts = [int(5000 * 1000 ** (-c / 9)) for c in range(10)]
    figure, (axis,) = panels(1, 1, 3.2)
    for name, options in (
        ("balanced", {}),
        ("inverse", {}),
        ("sqrt", {}),
        ("effective", {"beta": 0.999}),
        ("enet", {}),
    ):
        written = name if not options else f"{name}, β = {options['beta']}"
        axis.loglog(
            counts, sy.class_weights(counts, name, **options), marker="o", ms=3, label=written
        )
    axis.set(xlabel="examples of the class", ylabel="its weight")
    axis.set_title("Ten classes from 5,000 examples down to 5")
    axis.minorticks_off()
    axis.legend()
    return figure, "Class weight by scheme against the number of examples of the class"


def threshold() -> tuple[Figure, str]:
    """1,000 cats, 100 dogs, one score: what each threshold on the probability of "dog" finds."""
    normal = torch.distributions.Normal(0.0, 1.0)
    distance = 2.0  # between the two means, in standard deviations
    log_odds = torch.linspace(-6.5, 4.5, 120).double()  # log P(dog | x) / P(cat | x)
    cut = (log_odds + torch.log(torch.tensor(10.0))) / distance + distance / 2
    dogs, cats = 1 - normal.cdf(cut - distance), normal.cdf(cut)
    precision = 100 * dogs / (100 * dogs + 1000 * (1 - cats))
    figure, (axis,) = panels(1, 1, 3.8)
    chance = log_odds.sigmoid()
    for name, curve in (
        ("dogs found", dogs),
        ("cats left alone", cats),
        ("their mean: balanced accuracy", (dogs + cats) / 2),
        ("right among those called dogs", precision),
    ):
        axis.plot(chance, 100 * curve, label=name)
    axis.set(xscale="logit", xlabel='threshold on the probability of "dog"', ylabel="percent")
    ticks = [0.01, 1 / 11, 0.5, 0.9]
    axis.set_xticks(ticks, ["1 %", "9 %\nadjusted", "50 %\nargmax", "90 %"])
    axis.set_xticks([], minor=True)
    for tick in ticks[1:3]:
        axis.axvline(tick, color=INK, linewidth=0.8, linestyle="--")
    axis.set_title("A threshold chooses among mistakes")
    figure.legend(loc="outside lower center", ncols=2)
    return figure, "What is found at each threshold, for 1,000 cats and 100 dogs"


def measured() -> dict[str, dict[str, list[float]]]:
    """Shape → engine → [milliseconds, time ÷ F.cross_entropy, …, memory, …] of docs/speed.md."""
    tables: dict[str, dict[str, list[float]]] = {}
    for line in (HERE / "speed.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 6 and cells[0].startswith("**"):
            tables[cells[0].strip("*")] = shape = {}
        elif len(cells) == 6 and tables and all(re.fullmatch(r"[\d.e+]+", c) for c in cells[1:5]):
            shape[cells[0]] = [float(cell) for cell in cells[1:5]]
    return tables


def wrapped(name: str) -> str:
    """The name of a row on two lines, where it is long."""
    return name.replace(", ", ",\n").replace("steelyard ", "steelyard\n")


def speed() -> tuple[Figure, str]:
    tables = measured()
    shapes = [shape for shape in ("16384×1000", "4096×32000", "4×21×512×512") if shape in tables]
    peers = ("F.cross_entropy", "F.cross_entropy, torch.compile")
    peers += ("tutorial focal", "tutorial focal, torch.compile")
    peers += ("steelyard cross-entropy", "steelyard focal")
    figure, axes = panels(2, 1, 9.0)
    for axis, column, title in zip(
        axes, (1, 3), ("Time ÷ F.cross_entropy", "Memory ÷ logits"), strict=True
    ):
        for i, peer in enumerate(peers):
            for j, shape in enumerate(shapes):
                value = tables[shape][peer][column]
                height = i + (j - 1) * 0.26
                ours = peer.startswith("steelyard")
                axis.barh(height, value, 0.22, color=LEAD if ours else LINES[5])
                axis.annotate(
                    f"{value:g}",
                    (value, height),
                    (3, 0),
                    va="center",
                    fontsize=9.5,
                    textcoords="offset points",
                    color=INK,
                )
        axis.set_title(title)
        axis.set_xlim(right=axis.get_xlim()[1] * 1.1)
        axis.grid(visible=False, axis="y")
        axis.set_yticks(range(len(peers)), [wrapped(peer) for peer in peers])
        axis.invert_yaxis()
    figure.supxlabel("From top to bottom:\n" + ", ".join(shapes), fontsize=10)
    return figure, "Time and memory, forward and backward, from the table of docs/speed.md"


PICTURES: dict[str, Callable[[], tuple[Figure, str]]] = {
    picture.__name__: picture
    for picture in (tails, edits, cells, regions, boundaries, weights, threshold, speed)
}


def drawn(names: Iterable[str] = PICTURES) -> dict[str, str]:
    """File name → SVG."""
    torch.set_num_threads(1)
    return {f"{name}.svg": svg(*PICTURES[name]()) for name in names}


if __name__ == "__main__":
    (HERE / "pictures").mkdir(exist_ok=True)
    for name, text in drawn(sys.argv[1:] or PICTURES).items():
        (HERE / "pictures" / name).write_text(text, encoding="utf-8")
        print(f"docs/pictures/{name}: {len(text) / 1000:.0f} kB")
