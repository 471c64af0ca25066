"""Effort: the strokes that a simulated person needs to correct photos of one class, and what each correction saves on the next.

The person looks at the most doubtful photo first, draws a stroke at the centre of the largest error until the mask is good
enough, and goes on to the next; what was corrected becomes an example for the rest. Three runs over the same photos: ``carried``
is that; ``alone`` learns from the first examples only; ``nothing`` starts each photo from an empty mask, without any example
(the control).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from shotseg.data.episodes import EpisodeIndex
from shotseg.data.samples import IGNORE, Support
from shotseg.device import one_thread_each
from shotseg.errors import UsageError
from shotseg.evaluation import confidence
from shotseg.evaluation.canvas import working_mask
from shotseg.evaluation.counts import resamples
from shotseg.evaluation.episode_loop import OnProgress, Tally
from shotseg.evaluation.evaluator import Evaluator
from shotseg.evaluation.pool import Pool
from shotseg.evaluation.results import environment
from shotseg.evaluation.summary import Summary, between
from shotseg.models import presence
from shotseg.models.strokes import Strokes, follow

FORMAT = "shotseg-effort-1"
RUNS = ("carried", "alone", "nothing")
PHOTOS = 12  # corrected of each class, where no other number is asked for
UNSEEN = -1.0  # log odds of an empty mask that nothing is known of


@dataclass(frozen=True)
class Person:
    """goal: IoU at which a mask is accepted.   most: strokes before a photo is given up.
    radius: of a stroke, as a fraction of the photo's longer side; never beyond the error that it marks."""

    goal: float = 0.85
    most: int = 20
    radius: float = 0.02


@dataclass(frozen=True, eq=False)
class Corrected:
    """ious: of the mask before each stroke and after the last.     mask: (H, W) bool, as it was left."""

    ious: list[float]
    mask: np.ndarray

    @property
    def strokes(self) -> int:
        return len(self.ious) - 1


class Tool(Protocol):
    """What the person works with; photos are numbers, what is learnt of the class is the tool's own."""

    def truth(self, photo: int) -> np.ndarray: ...  # (H, W) in {0, 1, 255}
    def first(self) -> Any: ...
    def learn(self, learnt: Any, photo: int, mask: np.ndarray) -> Any: ...
    def find(self, learnt: Any, photo: int) -> Any: ...  # what :meth:`draw` needs; learnt None = of an empty mask
    def present(self, finding: Any) -> float: ...  # the probability that the class is in the photo
    def draw(self, finding: Any, strokes: Strokes, photo: int) -> Tensor: ...  # (H, W) log odds


def next_stroke(mask: np.ndarray, truth: np.ndarray, strokes: Strokes, radius: float) -> Strokes:
    """One more stroke where a person would draw it: at the centre of the largest error.

    mask: (H, W) bool, wrong somewhere.     truth: (H, W) in {0, 1, 255}; 255 is never an error.     radius: in pixels.
    The largest connected region of missing or of excess pixels; in it the pixel farthest from its border and the photo's (Sofiiuk
    et al. 2022); a disc there that does not leave the region.
    """
    largest = (0, np.zeros_like(mask), False)
    for error, foreground in (((truth == 1) & ~mask, True), ((truth == 0) & mask, False)):
        regions, count = ndimage.label(error)
        if count:
            areas = np.bincount(regions.ravel())[1:]
            if areas.max() > largest[0]:
                largest = (int(areas.max()), regions == areas.argmax() + 1, foreground)
    _, region, foreground = largest
    depth = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    # a pixel at a distance below the depth is in the region
    return strokes.disc((int(row), int(column)), min(radius, np.nextafter(depth.max(), 0)), foreground)


def correct(draw: Callable[[Strokes], np.ndarray], truth: np.ndarray, person: Person) -> Corrected:
    """Strokes on one photo until the mask (H, W) bool that ``draw`` gives of them is good enough."""
    strokes, radius = Strokes.none((truth.shape[0], truth.shape[1])), person.radius * max(truth.shape)
    mask = draw(strokes)
    ious = [iou(mask, truth)]
    while ious[-1] < person.goal and len(ious) <= person.most:
        strokes = next_stroke(mask, truth, strokes, radius)
        mask = draw(strokes)
        ious.append(iou(mask, truth))
    return Corrected(ious, mask)


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    """Over the pixels that are not ignored; 1 where nothing is there and nothing was found."""
    labelled, true = truth != IGNORE, truth == 1
    union = ((mask | true) & labelled).sum()
    return float((mask & true).sum() / union) if union else 1.0


def work(tool: Tool, photos: Sequence[int], person: Person, run: str) -> dict[int, Corrected]:
    """All photos of a class in one run of ``RUNS``, in the order in which they were corrected."""
    learnt = None if run == "nothing" else tool.first()
    findings = {photo: tool.find(learnt, photo) for photo in photos}
    done: dict[int, Corrected] = {}
    while findings:
        photo = min(findings, key=lambda i: _confidence(tool, findings[i], i))
        finding = findings.pop(photo)
        done[photo] = correct(partial(_mask, tool, finding, photo), tool.truth(photo), person)
        if run == "carried" and done[photo].mask.any():
            learnt = tool.learn(learnt, photo, done[photo].mask)
            findings = {i: tool.find(learnt, i) for i in findings}
    return done


def _mask(tool: Tool, finding: Any, photo: int, strokes: Strokes) -> np.ndarray:
    return (tool.draw(finding, strokes, photo) > 0).cpu().numpy()


def _confidence(tool: Tool, finding: Any, photo: int) -> float:
    truth = tool.truth(photo)
    drawn = tool.draw(finding, Strokes.none((truth.shape[0], truth.shape[1])), photo).cpu()
    return confidence.of_class(drawn.sigmoid().numpy(), (drawn > 0).numpy(), tool.present(finding))


@dataclass(frozen=True, eq=False)
class Finding:
    """evidence: (h, w) log odds of a class that is known to be there.      present: the probability that it is."""

    evidence: Tensor
    present: float


class ModelTool:
    """A few-shot model as a person's tool, for one class of an evaluator's pool; its masks are those of ``shotseg segment``.

    examples:  positions of the first examples.      Photos are positions in the pool, encoded once.
    threshold: presence from which a mask is drawn at all, before the first stroke says that the class is there.
    """

    def __init__(self, evaluator: Evaluator, class_id: int, examples: Sequence[int], threshold: float):
        self.evaluator, self.class_id, self.examples, self.threshold = evaluator, class_id, examples, threshold

    def truth(self, photo: int) -> np.ndarray:
        return self.evaluator.sample(photo)[1]

    def first(self) -> list[Support]:
        return [self._shot(i, self.truth(i)) for i in self.examples]

    def learn(self, shots: list[Support], photo: int, mask: np.ndarray) -> list[Support]:
        return [*shots, self._shot(photo, mask.astype(np.uint8))]

    def _shot(self, photo: int, mask: np.ndarray) -> Support:
        evaluator, encoded, model = self.evaluator, self.evaluator.photo(photo), self.evaluator.model
        small = working_mask(mask, evaluator.geometry, evaluator.size, model.encoder.patch)
        names = (evaluator.pool.classes[self.class_id],)
        with torch.no_grad():
            return presence.encode_shot(
                model, encoded.image, small[None].to(encoded.image.device), encoded.features, names
            )

    def find(self, shots: list[Support] | None, photo: int) -> Finding:
        encoded, model = self.evaluator.photo(photo), self.evaluator.model
        if shots is None:
            return Finding(torch.full((1, 1), UNSEEN, device=encoded.image.device), 1.0)
        told = self.evaluator.told(EpisodeIndex(photo, (), self.class_id))
        with torch.no_grad():
            support = model.merge(shots)
            decision = presence.decide(model, encoded.features, [support], encoded.image, [told], threshold=None)
        return Finding(decision.scores[1].float(), float(decision.present[0]))

    def present(self, finding: Finding) -> float:
        return finding.present

    def draw(self, finding: Finding, strokes: Strokes, photo: int) -> Tensor:
        encoded = self.evaluator.photo(photo)
        drawn = follow(finding.evidence, strokes, encoded.features, encoded.image)
        return drawn if strokes or finding.present >= self.threshold else torch.full_like(drawn, presence.ABSENT)


def pick(pool: Pool, class_id: int, shots: int, photos: int, seed: int) -> tuple[list[int], list[int]]:
    """The first examples and at most ``photos`` others of a class, as positions in the pool; no photo twice by its content."""
    photo_of = {pool.items[i].content: i for i in reversed(pool.lists[class_id])}
    drawn = np.random.default_rng((seed, class_id)).permutation(sorted(photo_of.values())).tolist()
    return drawn[:shots], drawn[shots : shots + photos]


def measure(
    evaluator: Evaluator,
    shots: int,
    photos: int,
    seeds: Sequence[int],
    person: Person = Person(),
    threshold: float = 0.5,
    on_run: Callable[[], object] = lambda: None,
) -> list[dict[str, Any]]:
    """One row for each photo, seed and run: its class, the first examples, its place in the order, strokes and IoUs.

    threshold: as of :class:`ModelTool`.
    """
    if evaluator.model.needs != "masks":
        raise UsageError("--effort: this method does not learn from masks; choose one that does, as matching")
    rows, pool = [], evaluator.pool
    with one_thread_each():
        for seed in seeds:
            for class_id, name in enumerate(pool.classes):
                examples, rest = pick(pool, class_id, shots, photos, seed)
                tool = ModelTool(evaluator, class_id, examples, threshold)
                for run in RUNS:
                    for place, (photo, done) in enumerate(work(tool, rest, person, run).items()):
                        told = {"seed": seed, "class": name, "examples": [pool.items[i].id for i in examples]}
                        ious = [round(x, 4) for x in done.ious]
                        row = {"run": run, "photo": pool.items[photo].id, "place": place, "strokes": done.strokes}
                        rows.append({**told, **row, "ious": ious})
                    on_run()
    return rows


def result(
    about: dict[str, Any], rows: list[dict[str, Any]], person: Person, photos: int, times: int = 1000
) -> dict[str, Any]:
    """The content of a result file: scores of each run, of each class and their mean, with 95 % intervals.

    ``strokes``: a photo. ``none_at_80``, ``none_at_85``: percent of the photos whose mask has that IoU before any stroke.
    ``given_up``: percent that never reached the goal. ``carried_to_alone``: strokes of the first over those of the second.
    """
    names = list(dict.fromkeys(row["class"] for row in rows))
    scores = {
        run: {n: _scores([r for r in rows if (r["run"], r["class"]) == (run, n)], person) for n in names}
        for run in RUNS
    }
    taken = {name: resamples(len(scores["alone"][name]["strokes"]), times, seed) for seed, name in enumerate(names)}

    def mean(run: str, score: str) -> np.ndarray:  # (times,) of the mean of classes, each class's photos resampled
        each = [taken[n] @ scores[run][n][score] / len(scores[run][n][score]) for n in names]
        return np.mean(each, axis=0)

    def interval(values: np.ndarray) -> list[float]:
        return [round(float(v), 3) for v in np.percentile(values, (2.5, 97.5))]

    runs: dict[str, Any] = {}
    for run in RUNS:
        of_class = {n: {s: round(float(v.mean()), 3) for s, v in scores[run][n].items()} for n in names}
        runs[run] = {"per_class": of_class, "interval": {}}
        for score in next(iter(of_class.values())):
            runs[run][score] = round(float(np.mean([x[score] for x in of_class.values()])), 3)
            runs[run]["interval"][score] = interval(mean(run, score))
    ratio = mean("carried", "strokes") / np.maximum(mean("alone", "strokes"), 1e-9)
    return {
        "format": FORMAT,
        **about,
        "classes": names,
        "person": {
            **asdict(person),
            "photos_of_a_class": photos,
            "order": "lowest confidence first, found anew each time",
        },
        "intervals": "bootstrap over the photos of each class, in the order that they had",
        "runs": runs,
        "carried_to_alone": round(runs["carried"]["strokes"] / max(runs["alone"]["strokes"], 1e-9), 3),
        "carried_to_alone_interval": interval(ratio),
        "photos": rows,
    }


def _scores(rows: list[dict[str, Any]], person: Person) -> dict[str, np.ndarray]:
    """(photos,) each, a class's photos in one order for every run."""
    rows = sorted(rows, key=lambda row: (row["seed"], row["photo"]))
    first, last = (np.array([row["ious"][i] for row in rows]) for i in (0, -1))
    return {
        "strokes": np.array([row["strokes"] for row in rows], float),
        "none_at_80": 100.0 * (first >= 0.8),
        "none_at_85": 100.0 * (first >= 0.85),
        "first_iou": 100 * first,
        "given_up": 100.0 * (last < person.goal),
    }


def whole(
    evaluator: Evaluator, about: dict[str, Any], photos: int, threshold: float, on_progress: OnProgress
) -> dict[str, Any]:
    """The content of the result file of all that is measured. about: with ``shot``; the other arguments are :func:`measure`'s."""
    person, seeds = Person(), evaluator.protocol.seeds
    tally = Tally(on_progress, len(RUNS) * len(seeds) * len(evaluator.pool.classes))
    rows = measure(evaluator, about["shot"], photos, seeds, person, threshold, tally)
    about = {**about, "size": evaluator.size, "seeds": seeds, "present": threshold}
    return {**result(about, rows, person, photos), "environment": environment(evaluator.device)}


def summary(content: dict[str, Any]) -> Summary:
    """What a result of the strokes says in one table."""
    columns = ("run", "strokes a photo", "95 % interval", "% none at 0.8", "% none at 0.85", "% given up")
    what = f"{content['dataset']}, {len(content['classes'])} classes, {content['shot']}-shot"
    runs, ratio = content["runs"], "carried_to_alone"
    low, high = content[f"{ratio}_interval"]
    named = [(run, name) for run in runs for name in runs[run]["interval"]]
    return Summary(
        title=f"{what}, {content['person']['photos_of_a_class']} photos a class and seed",
        columns=columns,
        rows=lines(content),
        scores={f"{run}_{name}": runs[run][name] for run, name in named} | {ratio: content[ratio]},
        intervals={f"{run}_{name}": runs[run]["interval"][name] for run, name in named} | {ratio: (low, high)},
        numbers=columns[1:],
        below=f"carried / alone: {content[ratio]:.2f} ({low:.2f} .. {high:.2f})",
    )


def lines(content: dict[str, Any]) -> list[tuple[str, ...]]:
    """The rows of the table: run, strokes a photo, their interval, percent without a stroke at 0.8 and 0.85, given up."""
    rows = []
    for run, scores in content["runs"].items():
        shares = [f"{scores[name]:.0f}" for name in ("none_at_80", "none_at_85", "given_up")]
        rows.append((run, f"{scores['strokes']:.2f}", between(scores["interval"]["strokes"], 2), *shares))
    return rows
