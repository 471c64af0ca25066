"""Which classes are in a photo, and which pixels are whose: absolute evidence beside the relative evidence of a model.

A few-shot model says where in the photo a class would be: relative evidence, scaled to the photo, which can be compared neither
between photos nor between classes. :func:`decide` asks of each such region whether it is the class at all:

1. The region and every example become descriptors: mean features of the object, mean features of the whole photo.
2. Descriptors are compared by the cosine of what sets them apart from photos in general: the mean of the examples' photos and,
   where the encoder ships one, of typical photos, is taken off first.
3. The similarity to the class's own examples, against the best that any other class has to say of its own region in the same
   photo, or against a floor where no other class says more, is the presence: a probability, by a logistic regression.
4. A class whose presence is below the threshold takes no part; the others compete for each pixel, the background at 0, with
   evidence in proportion to the square root of the odds of their presence.

Measured in docs/results.md, explained in docs/matching.md.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from shotseg.data.samples import Support
from shotseg.encoders.features import Encoder, Features, unit
from shotseg.errors import note
from shotseg.models.few_shot_model import NO_NUMBERS
from shotseg.models.matching import coarsest_three
from shotseg.models.nearest import Found

# Log odds of presence: OWN * similarity - RIVAL * max(best similarity of another class, FLOOR) + EVEN. A logistic regression on
# classes of pascal_coseg15, clothing_ccp and coco_panoptic100 with 1 to 5 shots, alone and 5 or 15 at once, rounded.
OWN, RIVAL, FLOOR, EVEN = 6.4, 4.2, 0.15, -0.4
TYPICAL = 4  # how many photos of examples the mean of typical photos counts as
CANDIDATES = 6  # classes whose regions are drawn; of more classes the likeliest are found by a coarse look
ALIKE = 0.5  # cosine of two whole photos from which they show one scene; frames of a sequence have 0.6 and more, cuts up to 0.4
ABSENT = -20.0  # log odds of every pixel of a class that takes no part
REGION, PHOTO = "region_", "photo_"  # how the descriptors of an example begin in its support

Descriptors = dict[str, Tensor]  # name of the space -> (N, D)


@dataclass(frozen=True, eq=False)
class Answer:
    """What a support says of one photo: log odds (h, w), and the presence () where the model has a head for it.

    marks: of the support.   told: what the model was told beside the photo.   left: what the model finds again with more shots.
    """

    marks: tuple[object, ...]
    told: Mapping[str, Any]
    evidence: Tensor
    presence: Tensor | None
    left: Found


Answers = dict[object, Answer]  # of one photo, by the first mark of a class


@dataclass(frozen=True, eq=False)
class Decision:
    """scores: (N + 1, h, w) log odds, the background's 0 first; a class that takes no part is below 0 everywhere.

    present: (N,) float in [0, 1], the probability that the class is in the photo; the same for every threshold that is a number.
    """

    scores: Tensor
    present: Tensor


def encode_shot(
    model: Any, image: Tensor, mask: Tensor | None, features: Features, class_names: tuple[str, ...]
) -> Support:
    """The model's support of one shot, and the descriptors of its object and of its photo.

    image: (1, 3, H, W) in [0, 1].   mask: (1, H, W) in {0, 1, 255}, or None: then there is no object to describe.
    """
    support = model.encode_support(image[None], None if mask is None else mask[None], features, class_names=class_names)
    if mask is None:
        return support
    spaces = Spaces(model.encoder, features)
    region, whole = spaces.pooled((mask == 1).float()), spaces.pooled(torch.ones_like(mask, dtype=torch.float32))
    described = {REGION + name: x[:, None] for name, x in region.items()}
    return Support(support.tensors | described | {PHOTO + name: x[:, None] for name, x in whole.items()})


def prepare(model: Any, query: Features) -> None:
    """Make what takes long of all that :func:`decide` asks of a photo whatever the classes are; ``query`` keeps it."""
    Spaces(model.encoder, query)
    model.prepare(query)


def decide(
    model: Any,
    query: Features,
    supports: Sequence[Support],
    image: Tensor,
    told: Sequence[Mapping[str, Any]] | None = None,
    threshold: float | None = 0.5,
    untrained: bool = False,
    earlier: Sequence[Sequence[Support]] = (),
    known: Collection[int] = (),
    judged: bool = True,
    answers: Answers | None = None,
) -> Decision:
    """All classes against one photo.

    query: ``model.encode(image)``.   image: (1, 3, H, W) in [0, 1].   supports: one a class, of batch 1.
    told: what the model asks beside photos, one mapping a class.
    threshold: presence from which a class takes part; None: every class is known to be in the photo.
    untrained: a model that makes a pseudo mask of the query on its way answers with it.
    earlier: of each class the shots of earlier frames (:mod:`shotseg.models.memory`). Those that look like this photo say where
             the class is, as much as its supports do, and never whether it is there.
    judged: False where presence is of no interest, as of classes known to be there: it is then 1.
    known: classes that a person marked in the photo: they take part, with their evidence as it is, whatever their presence.
    answers: of this photo until now; a support that is among them is not asked again, and a new one is put there.
    A model with a presence head of its own (``extra["presence"]``) is believed; one without photos of its classes has its surest
    pixel as presence.
    """
    told = told or [{}] * len(supports)
    wanted = (judged or earlier) and all(_described(s) for s in supports)
    judge = _Judge(model.encoder, query, supports) if wanted else None
    chosen = list(range(len(supports)))
    if threshold is not None and judge is not None and len(chosen) > CANDIDATES and model.at_once:
        chosen = sorted({*judge.coarse().topk(CANDIDATES).indices.tolist(), *known})
    of_chosen = [supports[i] for i in chosen]
    asked = [told[i] for i in chosen]
    if answers is None or untrained:  # which depends on what all say
        evidence, own_presence = evidence_of(model, query, of_chosen, image, asked, untrained)
    else:
        for gone in answers.keys() - {support.marks[0] for support in supports}:
            del answers[gone]
        evidence, own_presence = _answered(model, query, of_chosen, image, asked, answers)
    if evidence.isnan().any():
        note(NO_NUMBERS)
    if not judged:
        present = evidence.new_ones(len(supports))
    elif own_presence is not None:
        present = own_presence
    elif judge is None:
        present = torch.sigmoid(evidence).amax((1, 2))
    else:
        present = judge.present(torch.sigmoid(evidence), chosen)
    taking = {*taking_part(present, threshold), *known}
    shown = [row for row, i in enumerate(chosen) if i in taking]
    drawn = evidence[shown]
    alike = [judge.alike(earlier[chosen[row]]) if judge and earlier else [] for row in shown]
    if looking := [place for place, shots in enumerate(alike) if shots]:
        recalled, asked = [model.merge(alike[place]) for place in looking], [told[chosen[shown[i]]] for i in looking]
        drawn[looking] = (drawn[looking] + evidence_of(model, query, recalled, image, asked, untrained)[0]) / 2
    if shown:
        drawn = model.along_the_edges(drawn, image)
    scores = drawn.new_full((len(supports) + 1, *(drawn.shape[1:] if shown else evidence.shape[1:])), ABSENT)
    scores[0] = 0
    loudness = loudness_of(present, threshold)
    loudness[list(known)] = 1
    for row, odds in zip(shown, drawn):
        scores[chosen[row] + 1] = odds * loudness[chosen[row]]
    return Decision(scores, present)


def taking_part(present: Tensor, threshold: float | None) -> list[int]:
    """The classes, of (N,) probabilities of being in the photo, that take part; all where every class is known to be there."""
    return list(range(len(present))) if threshold is None else (present >= threshold).nonzero()[:, 0].tolist()


def loudness_of(present: Tensor, threshold: float | None) -> Tensor:
    """(N,) factors of the log odds: where two classes claim a pixel, the one that is surer to be here speaks louder."""
    odds = torch.ones_like(present) if threshold is None else present / (1 - present).clamp(min=1e-6)
    return (odds / odds.amax()).sqrt()


def evidence_of(
    model: Any,
    query: Features,
    supports: Sequence[Support],
    image: Tensor,
    told: Sequence[Mapping[str, Any]],
    untrained: bool,
    survey: Any = None,
    before: Sequence[Any] = (),
) -> tuple[Tensor, Tensor | None]:
    """(M, h, w) log odds of each class, and (M,) the presence that the model itself says, if it says any.

    survey: of the image that the photo is a window of, as ``model.survey`` gives it.   before: as for ``model.evidence``.
    """
    if model.at_once:
        return model.evidence(query, supports, survey, before), None
    answers = [model(query, support, image, **asked) for support, asked in zip(supports, told)]
    presences = [x.extra["presence"][0].float().softmax(0)[1] for x in answers if "presence" in x.extra]
    if untrained and all("pseudo_mask" in x.extra for x in answers):
        return torch.logit(torch.cat([x.extra["pseudo_mask"] for x in answers]).float(), eps=1e-3), None
    evidence = torch.cat([x.logits[:, 1] - x.logits[:, 0] for x in answers]).float()
    return evidence, torch.stack(presences) if len(presences) == len(answers) else None


def _answered(
    model: Any, query: Features, supports: Sequence[Support], image: Tensor, told: Sequence[Any], answers: Answers
) -> tuple[Tensor, Tensor | None]:
    """As :func:`evidence_of`, of which only those are asked whose answer is not known."""
    known = [answers.get(support.marks[0]) for support in supports]
    new = [i for i, (a, s, t) in enumerate(zip(known, supports, told)) if not a or (a.marks, a.told) != (s.marks, t)]
    if new:
        left = [{} if (answer := known[i]) is None else answer.left for i in new]
        asked = [supports[i] for i in new], image, [told[i] for i in new]
        evidence, presences = evidence_of(model, query, *asked, False, None, left)
        for row, i in enumerate(new):
            presence, marks = None if presences is None else presences[row], supports[i].marks
            known[i] = answers[marks[0]] = Answer(marks, told[i], evidence[row].clone(), presence, left[row])
    found = [answer for answer in known if answer]
    said = [answer.presence for answer in found if answer.presence is not None]
    return torch.stack([answer.evidence for answer in found]), torch.stack(said) if len(said) == len(found) else None


def bytes_of(answers: Answers) -> int:
    """Of the tensors that they hold."""
    best = (x for answer in answers.values() for nearest in answer.left.values() for x in nearest.best)
    return sum(x.nbytes for x in (*best, *(answer.evidence for answer in answers.values())))


class _Judge:
    """One photo's regions against the examples of N classes."""

    def __init__(self, encoder: Encoder, query: Features, supports: Sequence[Support]):
        self.spaces = Spaces(encoder, query)
        self.examples, self.centre = {}, {}
        typical = typical_of(encoder.name)
        for name in self.spaces.names:
            examples = torch.cat([s[REGION + name].mean(1) for s in supports])  # (N, D)
            photos = torch.cat([s[PHOTO + name][0] for s in supports])  # (all shots, D)
            centre, typical_mean = photos.mean(0), typical.get(name)
            if typical_mean is not None:
                typical_mean = typical_mean.to(photos)
                centre = (photos.sum(0) + TYPICAL * typical_mean) / (len(photos) + TYPICAL)
            if name == "labels":  # logits are differences already
                centre = torch.zeros_like(centre)
            self.examples[name], self.centre[name] = F.normalize(examples - centre, dim=1), centre

    def coarse(self) -> Tensor:
        """(N,): the highest similarity of any neighbourhood of 3 x 3 tokens of the deepest level to each class."""
        tokens = F.avg_pool2d(self.spaces.maps["deep"][0], 3, 1, 1, count_include_pad=False)[0].flatten(1).T
        return (F.normalize(tokens - self.centre["deep"], dim=1) @ self.examples["deep"].T).amax(0)

    def alike(self, shots: Sequence[Support]) -> list[Support]:
        """Those shots whose photos look like this one."""
        whole = self.spaces.maps["deep"][0].mean((2, 3)) - self.centre["deep"]
        return [s for s in shots if F.cosine_similarity(s[PHOTO + "deep"][0] - self.centre["deep"], whole) >= ALIKE]

    def present(self, regions: Tensor, chosen: Sequence[int]) -> Tensor:
        """(N,) probability of each class; regions (M, h, w) in [0, 1] are those of the ``chosen`` classes."""
        similarity = torch.zeros(len(chosen), device=regions.device)
        for name, x in self.spaces.pooled(regions).items():
            similarity += (F.normalize(x - self.centre[name], dim=1) * self.examples[name][list(chosen)]).sum(1)
        similarity /= len(self.examples)
        similar = similarity.new_zeros(len(next(iter(self.examples.values()))))
        if len(chosen) < len(similar):
            # A class without a region is at most as likely as the least likely one that has one.
            similar = torch.minimum(self.coarse(), similarity.min())
        similar[list(chosen)] = similarity
        best = similar.topk(min(2, len(similar))).values
        rival = torch.where(similar == best[0], best[-1], best[0]) if len(similar) > 1 else similar.new_tensor(FLOOR)
        return torch.sigmoid(OWN * similar - RIVAL * rival.clamp(min=FLOOR) + EVEN)


def _described(support: Support) -> bool:
    return any(name.startswith(REGION) for name in support.tensors)


class Spaces:
    """What regions of one photo are described by: the deepest map; all three levels; the classifier's logits, if it has one."""

    def __init__(self, encoder: Any, features: Features):
        levels = [unit(features.maps[i].float()) for i in coarsest_three(features.strides)]
        self.maps = {"deep": levels[-1:], "levels": levels}
        self._labels = getattr(encoder, "labels", None)
        if self._labels is not None:
            embedding = features.once("embedding", lambda: encoder.embedding(features.maps[-1]))
            self.maps["labels"] = [embedding.float()]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.maps)

    def pooled(self, regions: Tensor) -> Descriptors:
        """Means over soft regions (N, h, w): a descriptor (N, D) a space."""
        shares: dict[tuple[int, int], Tensor] = {}

        def mean(level: Tensor) -> Tensor:
            grid = (level.shape[-2], level.shape[-1])
            if grid not in shares:
                share = F.adaptive_avg_pool2d(regions[None], grid)[0].flatten(1)
                shares[grid] = share / share.sum(1, keepdim=True).clamp(min=1e-6)
            return shares[grid] @ level[0].flatten(1).T

        means = {name: torch.cat([mean(level) for level in levels], 1) for name, levels in self.maps.items()}
        if self._labels is not None:
            means["labels"] = self._labels(means["labels"])
        return means


@cache
def typical_of(encoder: str) -> Descriptors:
    """Mean descriptors of typical photos, for the encoders that ship them; of others none are known."""
    path = Path(__file__).with_name("typical_photos.safetensors")
    stored = load_file(path)
    return {key.split("/", 1)[1]: x for key, x in stored.items() if key.split("/", 1)[0] == encoder}
