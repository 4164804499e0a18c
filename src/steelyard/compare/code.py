"""The lines of Python that do what a candidate did: before the training, and at prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from steelyard.compare.repairs import undo_line
from steelyard.compare.study import Candidate

_NAMED = 10  # classes that a comment names: more fit no line
_LONGEST = 30  # characters of such a name


@dataclass(frozen=True)
class Told:
    """What the lines need to know of a study.

    Attributes:
        recipe: a comment on the training.
        tuned_for: the score that a tuned decision is for.
        costs: (C, C) of each decision, row by true class.
        classes: their names; none leaves them out of the comments.
        positive: of two classes, the position of the one that is looked for.
        ignore_index: the class of pixels or tokens that count nowhere; None if every row has one.
    """

    recipe: str
    tuned_for: str = "balanced_accuracy"
    costs: Sequence[Sequence[float]] | None = None
    classes: Sequence[str] = ()
    positive: int = 1
    ignore_index: int | None = None

    def ignoring(self, default: int | None = -100) -> dict[str, str]:
        """The argument for what is ignored, where it is not a function's default."""
        if self.ignore_index in (None, default):
            return {}
        return {"ignore_index": str(self.ignore_index)}

    def name(self, position: int) -> str:
        """A class as a comment has it."""
        text = self.classes[position] if self.classes else str(position)
        return repr(text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…")

    def listed(self, form: str) -> str:
        """The classes in order, each as `form` puts its position and name."""
        names = [form.format(c, self.name(c)) for c in range(len(self.classes))]
        return ", ".join(names if len(names) <= _NAMED else [*names[:_NAMED], "…"])

    def score(self) -> str:
        """What a decision is tuned for, as an expression."""
        if self.tuned_for == "mean_cost":
            return "lambda confusion: -sy.metrics.mean_cost(confusion, costs)"
        if self.tuned_for == "f1" and not self.positive:
            return "lambda confusion: sy.metrics.f1(confusion, positive=0)"
        return f'"{self.tuned_for}"'


def python_lines(item: Candidate, options: Mapping[str, float], told: Told) -> str:
    """The lines that train with these options and then predict.

    They take `train_labels`, and of the trained network `validation_logits` (m, C),
    `validation_labels` (m,) and `logits` (n, C); they leave `probabilities` and `decision`.
    """
    return "\n".join([*_before(item, options, told), told.recipe, *_after(item, options, told)])


def _before(item: Candidate, options: Mapping[str, float], told: Told) -> list[str]:
    own = {} if item.post_hoc else {r.name: options[r.name] for r in item.space}
    power = own.pop("power", None)
    if options.get("label_smoothing"):
        own["label_smoothing"] = options["label_smoothing"]
    lines = ["import steelyard as sy"]
    even = item.sampling == "balanced" and not item.deferred
    if item.counts or item.weighted or item.reweighted or even or (item.post_hoc and item.space):
        counted = _call("count_classes", {}, "train_labels", **told.ignoring(default=None))
        if any(name != str(c) for c, name in enumerate(told.classes)):
            lines.append(f"# classes: {told.listed('{} {}')}")
        lines.append(f"class_counts = {counted}")
    if item.weighted:
        lines.append(f'weight = sy.class_weights(class_counts, "power", power={power:.12g})')
    given = {"weight": "weight"} if item.weighted else {}
    if item.counts:
        given["class_counts"] = "class_counts"
    lines.append(f"loss = {_call(item.loss, own, **given, **told.ignoring())}")
    if item.head == "cosine":
        lines.append("head = sy.CosineLinear(features, classes)  # in place of the last nn.Linear")
    if item.sampling != "plain":
        when = "from epoch 4 * epochs // 5 on, " if item.deferred else ""
        lines.append(f"# {when}batches in which every class is as frequent as any other")
    if item.sampling == "smote":
        lines.append("# and rows of rare classes are points between two of them: SMOTE")
    if item.reweighted:
        weight = 'sy.class_weights(class_counts, "effective")'
        lines.append(f"loss = sy.DeferredReweighting(loss, {weight}, start=4 * epochs // 5)")
        lines.append("# and loss.set_epoch(epoch) as each epoch begins")
    return lines


def _after(item: Candidate, options: Mapping[str, float], told: Told) -> list[str]:
    """Probabilities of the data's own class shares, and the decision."""
    validation, logits = (
        undo_line(item, options, name) for name in ("validation_logits", "logits")
    )
    lines = []
    paid = item.by_costs or (item.tuned and told.tuned_for == "mean_cost")
    if told.costs is not None and paid:
        rows = [f"[{', '.join(f'{cost:.12g}' for cost in row)}]" for row in told.costs]
        named = f"classes {told.listed('{1}')}: " if told.classes else ""
        lines.append(f"costs = [{', '.join(rows)}]  # {named}rows the truth, columns the decision")
    known = told.ignoring()
    fitted = _call("fit_temperature", {}, validation, "validation_labels", **known)
    lines += [
        f"temperature = {fitted}",
        f"probabilities = ({logits} / temperature).softmax(1)",
    ]
    if item.by_costs:
        decision = f"sy.decide(probabilities, costs){_threshold(told)}"
    elif item.tuned:
        labelled = ("validation_logits", "validation_labels")
        tuned = _call("tune_biases", {}, *labelled, told.score(), **known)
        of = f"  # F1 of {told.name(told.positive)}" if told.tuned_for == "f1" else ""
        lines.append(f"biases = {tuned}{of}")
        decision = "(logits + biases).argmax(1)"
    elif item.post_hoc:
        tau = f"tau={options['tau']:.12g}"
        decision = f"sy.adjust_logits(logits, class_counts, {tau}).argmax(1)"
    else:
        decision = "logits.argmax(1)"
    return [*lines, f"decision = {decision}"]


def _threshold(told: Told) -> str:
    """A comment on where two classes part: the costs of a false alarm ÷ those and of a miss."""
    if told.costs is None or len(told.costs) != 2:
        return ""
    p, n = told.positive, 1 - told.positive
    alarm = told.costs[n][p] - told.costs[n][n]
    miss = told.costs[p][n] - told.costs[p][p]
    value = f"{alarm:.12g}/({alarm:.12g} + {miss:.12g}) = {alarm / (alarm + miss):.2g}"
    return f"  # {told.name(p)} above the threshold {value}"


def _call(name: str, numbers: Mapping[str, float], *values: str, **expressions: str) -> str:
    arguments = [*values, *(f"{key}={value}" for key, value in expressions.items())]
    arguments += [f"{key}={value:.12g}" for key, value in numbers.items()]
    return f"sy.{name}({', '.join(arguments)})"
