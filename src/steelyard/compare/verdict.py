"""What the statistics over paired seeds allow one to say, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from steelyard import _units
from steelyard.compare.evidence import Comparison, Evidence, Interval, compare
from steelyard.compare.study import MINIMUM_SEEDS

DEAR = 0.03  # of accuracy: more than a few points are said, and decide among what is tied


@dataclass(frozen=True)
class Verdict:
    """What the study allows one to say.

    Attributes:
        sentences: the verdict in words.
        best: the candidate with the best mean.
        tied: candidates that cannot be told from the best, simplest first, the best included.
        recommended: the simplest of them that is not much dearer, or the preferred one.
        dearer: simpler ones that cost more than a few points of accuracy more, and so were not.
    """

    sentences: tuple[str, ...]
    best: str | None
    tied: tuple[str, ...]
    recommended: str | None
    dearer: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measure:
    """The score that a verdict is about.

    Attributes:
        name: in results.
        title: in a sentence.
    """

    name: str
    title: str

    @property
    def sign(self) -> int:
        """1 where more is better, −1 where less is."""
        return _units.sign(self.name)

    def leader(self, title: str, mean: float, others: Sequence[float] = ()) -> str:
        """The sentence that names the best mean; others are of what is no network."""
        word = "Highest" if self.sign > 0 else "Lowest"
        measure = self.title if self.title.startswith("mean ") else f"mean {self.title}"
        beaten = any(self.sign * (other - mean) > 0 for other in others)
        among = " among the networks" * beaten
        return f"{word} {measure}{among}: {title} ({_units.in_words(self.name, mean)})."

    def change(self, difference: Interval) -> str:
        """A difference with its interval."""
        if difference.mean is None or difference.low is None or difference.high is None:
            return "–"
        mean = f"{self._shown(difference.mean)} {_units.step(self.name)}".strip()
        return f"{mean}, {self.interval(difference)}"

    def interval(self, difference: Interval) -> str:
        """The interval of a difference that has one."""
        if not difference.std:  # no spread over seeds, and so no telling how far off it may be
            return "the same on every seed"
        assert difference.low is not None
        assert difference.high is not None
        return f"95 % interval {self._shown(difference.low)} to {self._shown(difference.high)}"

    def _shown(self, value: float) -> str:
        return _units.shown(self.name, value, change=True)


def judge(
    evidence: Evidence,
    titles: Mapping[str, str],
    baseline: str,
    measure: Measure,
    preferred: str | None = None,
    prices: Mapping[str, float] | None = None,
    others: Sequence[float] = (),
) -> Verdict:
    """Put a study into words.

    Args:
        evidence: the scores.
        titles: per candidate the name to show.
        baseline: the name of plain cross-entropy.
        measure: which score it is.
        preferred: the candidate that decides by given costs: the one to take wherever it cannot be
            told from the best.
        prices: accuracy that a candidate loses against the baseline; one without has none.
        others: means of what is no network.
    """
    scores = evidence.values
    means = {name: evidence.interval(name).mean for name in scores}
    finished = {name: mean for name, mean in means.items() if mean is not None}
    if not finished:
        return Verdict(("No candidate finished a single seed.",), None, (), None)
    best = max(finished, key=lambda name: measure.sign * finished[name])
    leader = measure.leader(titles[best], finished[best], others)
    comparisons = compare(evidence, baseline, measure.sign)
    seeds = max(len([v for v in values if v is not None]) for values in scores.values())
    if seeds < MINIMUM_SEEDS:
        plural = "" if seeds == 1 else "s"
        return Verdict(
            (
                f"No verdict: {seeds} seed{plural}, and it takes {MINIMUM_SEEDS} to tell a "
                f"difference from luck.",
                leader,
            ),
            best,
            (),
            None,
        )
    against_best = {c.candidate: c.judgement for c in compare(evidence, best, measure.sign)}
    # Holm's correction depends on the other pairs; the baseline and the best are judged once.
    if best != baseline:
        against_best[baseline] = {c.candidate: c.judgement for c in comparisons}[best]
    tied = tuple(
        name
        for name in finished
        if name == best or against_best[name] == "no detectable difference"
    )
    recommended, dearer = _recommend(tied, comparisons, baseline, prices or {}, preferred, measure)
    sentences = [*_against_baseline(comparisons, titles, baseline, measure), leader]
    if recommended == best:
        sentences.append(f"Use {titles[best]}.")
    else:
        reason = "the simplest that cannot be told from it"
        if recommended == preferred:
            reason = f"it decides by your costs, and cannot be told from {titles[best]}"
        elif dearer:
            reason += " and is not much dearer"
        # The best may be far ahead all the same, as of few seeds.
        lead = measure.change(evidence.against(best, recommended).difference)
        sentences += [
            f"Use {titles[recommended]}: {reason}.",
            f"The lead of {titles[best]} ({lead}) may be luck; more seeds can tell.",
        ]
    return Verdict(tuple(sentences), best, tied, recommended, dearer)


def _recommend(
    tied: Sequence[str],
    comparisons: Sequence[Comparison],
    baseline: str,
    prices: Mapping[str, float],
    preferred: str | None,
    measure: Measure,
) -> tuple[str, tuple[str, ...]]:
    """The simplest of the best, and simpler ones that were too dear.

    Never one that was shown to be worse than the baseline. Being tied with the best and beaten by
    nobody is not enough to displace a candidate that *was* shown to beat the baseline: if any of
    the tied was, the simplest of those is taken that costs no more than a few points of accuracy
    beyond the best of those. A preferred one needs no such proof: that it decides by the costs is
    known before any data.
    """
    worse = [c.candidate for c in comparisons if c.judgement == "worse"]
    if preferred is not None and preferred in tied and preferred not in worse:
        return preferred, ()
    ahead = {
        c.candidate: measure.sign * (c.difference.mean or 0.0)
        for c in comparisons
        if c.judgement == "better" and c.candidate in tied
    }
    if not ahead:
        return baseline if baseline in tied else tied[0], ()
    proven = [name for name in tied if name in ahead]
    dearest = prices.get(max(ahead, key=ahead.__getitem__), 0.0) + DEAR
    chosen = next(name for name in proven if prices.get(name, 0.0) <= dearest)
    return chosen, tuple(proven[: proven.index(chosen)])


def _against_baseline(
    comparisons: Sequence[Comparison], titles: Mapping[str, str], baseline: str, measure: Measure
) -> list[str]:
    lines = []
    for word in ("better", "worse"):
        named = [
            f"{titles[c.candidate]} ({measure.change(c.difference)})"
            for c in comparisons
            if c.judgement == word
        ]
        if named:
            lines.append(
                f"{word.capitalize()} than tuned {titles[baseline].lower()} in {measure.title}: "
                f"{join(named)}."
            )
    same = [titles[c.candidate] for c in comparisons if c.judgement == "no detectable difference"]
    if same and len(same) == len(comparisons):
        lines.append(
            f"No candidate can be told from tuned {titles[baseline].lower()} in {measure.title}."
        )
    elif same:
        lines.append(f"No detectable difference from {titles[baseline].lower()}: {join(same)}.")
    failed = [
        titles[c.candidate] for c in comparisons if c.judgement in ("failed", "too few seeds")
    ]
    if failed:
        lines.append(f"Too few finished seeds to judge: {join(failed)}.")
    return lines


def said_of_references(
    comparisons: Sequence[Comparison], titles: Mapping[str, str], against: str, measure: Measure
) -> list[str]:
    """What the owner of the data should know of models that are no network.

    Args:
        comparisons: of each with a candidate.
        titles: the names to show, by name.
        against: that candidate.
        measure: which score it is.
    """
    ahead = [c for c in comparisons if c.judgement == "better"]
    named = [
        f"{titles[c.candidate]} ({measure.change(c.difference)})" for c in ahead or comparisons
    ]
    of = f"clearly ahead of {titles[against]} in {measure.title}"
    if ahead:
        return [f"Not a network, and {of}: {join(named)}."]
    if len(named) == 1:
        return [f"{named[0]} is not {of}."]
    return [f"Neither {', '.join(named[:-1])} nor {named[-1]} is {of}."]


def join(names: Sequence[str]) -> str:
    """The names as a sentence lists them."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
