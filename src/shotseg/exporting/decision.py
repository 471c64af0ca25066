"""The decision of :mod:`shotseg.models.presence` as one graph: photos and classes in tensors, no branch on a value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotseg.data.samples import Support
from shotseg.encoders.features import Features
from shotseg.models import matching, nearest, presence
from shotseg.models.matching import Matching
from shotseg.priors.guided_filter import STRIDE, filtered

NOWHERE = -4.0  # below every cosine


class Decide(nn.Module):
    """B photos and N classes -> scores (B, N + 1, h, w), the background's 0 first, and presence (B, N).

    model: at work.    strides: of the maps that it encodes.    names: of the tensors of a class, in the order of the inputs.
    """

    def __init__(self, model: Any, strides: Sequence[int], names: Sequence[str]):
        super().__init__()
        self.model, self.strides, self.names = model, tuple(strides), tuple(names)
        self.typical = presence.typical_of(model.encoder.name)  # read before anything is traced
        self.described = any(name.startswith(presence.REGION) for name in names)

    def forward(
        self, photo: Tensor, threshold: Tensor, features: Mapping[str, Tensor], support: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Scores and presence.

        photo: (B, 3, H, W) in [0, 1].   threshold: of presence; below 0 every class is known to be there.
        features: as the encoder's graph names them.   support: tensors (N, K, ...), zeros where a class has fewer shots or a shot
        fewer tokens.
        """
        query, known = features_of(features, self.strides), dict(zip(self.names, support))
        everyone = threshold < 0
        judge = Judge(self.model.encoder, features, query, known, self.typical) if self.described else None
        count = known[self.names[0]].shape[0]
        if judge is not None and self.model.at_once:
            most = torch.where(everyone, torch.scalar_tensor(count, dtype=torch.int64), presence.CANDIDATES)
            most = torch.minimum(most, torch.scalar_tensor(count, dtype=torch.int64))
            chosen = judge.coarse().topk(cast(int, most), dim=1, sorted=False).indices  # (B, M)
        else:
            chosen = torch.arange(count)[None].expand(len(photo), -1)
        evidence, said = evidence_of(self.model, query, known, chosen, photo)
        if said is not None:
            present = said
        elif judge is None:
            present = torch.sigmoid(evidence).amax((2, 3))
        else:
            present = judge.present(torch.sigmoid(evidence), chosen)
        mine = present.gather(1, chosen)
        odds = torch.where(everyone, torch.ones_like(present), present / (1 - present).clamp(min=1e-6))
        louder = (odds.gather(1, chosen) / odds.amax(1, keepdim=True)).sqrt()
        drawn = self._drawn(evidence, photo) * louder[..., None, None]
        drawn = torch.where((everyone | (mine >= threshold))[..., None, None], drawn, presence.ABSENT)
        scores = drawn.new_full((1,), presence.ABSENT).expand(len(photo), count, *drawn.shape[2:])
        places = chosen[..., None, None].expand(-1, -1, *drawn.shape[2:])
        scores = scores.scatter(1, places, drawn)
        return F.pad(scores, (0, 0, 0, 0, 1, 0)), present

    def _drawn(self, evidence: Tensor, photo: Tensor) -> Tensor:
        """:meth:`Matching.along_the_edges` of B photos with M classes each."""
        if not getattr(self.model, "edges", False):
            return evidence
        size = (photo.shape[-2] // STRIDE, photo.shape[-1] // STRIDE)
        grown = torch.sigmoid(F.interpolate(evidence, size, mode="bilinear"))
        whole = self.model.encoder.patch % STRIDE == 0  # then sides are multiples of it, and plain pooling does
        guide = F.avg_pool2d(photo, STRIDE) if whole else F.adaptive_avg_pool2d(photo, size)
        return torch.logit(filtered(grown, guide, step=2), eps=1e-3).to(evidence)


def features_of(given: Mapping[str, Tensor], strides: tuple[int, ...]) -> Features:
    """The encoder's answer, of its tensors by name."""
    maps, tokens = (tuple(x for name, x in given.items() if name.startswith(kind)) for kind in ("map_", "token_"))
    return Features(maps, strides, tokens)


@contextmanager
def encoded_as(encoder: Any, given: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, the encoder answers with the embedding that was computed beside the maps."""
    if "embedding" not in given:
        yield
        return
    with mock.patch.object(encoder, "embedding", lambda last: given["embedding"]):
        yield


def evidence_of(
    model: Any, query: Features, known: dict[str, Tensor], chosen: Tensor, photo: Tensor
) -> tuple[Tensor, Tensor | None]:
    """(B, M, h, w) log odds of the chosen classes, and (B, M) the presence that the model itself says, if it says any."""
    if isinstance(model, Matching):
        return matched(model, query, known, chosen), None
    return asked(model, query, known, chosen, photo)


def asked(
    model: Any, query: Features, known: dict[str, Tensor], chosen: Tensor, photo: Tensor
) -> tuple[Tensor, Tensor | None]:
    """The same of a model that is asked for one class at a time: each photo with each class is a row of its batch."""
    count = chosen.shape[1]

    def rows(x: Tensor) -> Tensor:
        return x[:, None].expand(-1, count, *x.shape[1:]).flatten(0, 1)

    own = {name: x[chosen].flatten(0, 1) for name, x in known.items()}
    seen = Features(tuple(map(rows, query.maps)), query.strides, tuple(map(rows, query.classes)))
    found = model.forward(seen, Support(own), rows(photo))
    evidence = (found.logits[:, 1] - found.logits[:, 0]).float()
    said = found.extra.get("presence")
    apart = (chosen.shape[0], count)
    return evidence.unflatten(0, apart), None if said is None else said.float().softmax(1)[:, 1].unflatten(0, apart)


def matched(model: Matching, query: Features, known: dict[str, Tensor], chosen: Tensor) -> Tensor:
    """:meth:`Matching.evidence` of B photos, each with its own M of the N classes."""
    look = model._look(query)
    middle = look.tokens[..., model.middle]
    mine = {name: x[chosen] for name, x in known.items() if not name.startswith((presence.REGION, presence.PHOTO))}
    cues = {
        "contrast_middle": lambda: contrast(middle, mine, "all", model.middle).unflatten(2, look.grid),
        "contrast_deep": lambda: contrast(look.deep, mine, "deep").unflatten(2, look.coarse),
        "ridge_all": lambda: classified(look.tokens, mine["ridge_all"][:, :, 0]).unflatten(2, look.grid),
        "ridge_middle": lambda: classified(middle, mine["ridge_middle"][:, :, 0]).unflatten(2, look.grid),
    }
    weights, level = weights_of(model, mine)
    found = -level
    for cue in model.cues:
        at = look.borders[cue][:, None] if cue in look.borders else _resize(cues[cue](), look.grid)
        found = found + weights[cue] * unit_range(at)
    return model._self_supported(found, look)


def weights_of(model: Matching, mine: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """:meth:`Matching.weights`, (B, M, 1, 1) each; a shot that is not there has no share of anything."""
    objects, rest = (mine[f"all_{side}"].sum(3) for side in ("foreground", "background"))  # (B, M, K)
    shots = ((objects + rest) > 0).to(objects).sum(2)
    many = ((shots - 1) / 2).clamp(max=1)[..., None, None]
    mixed = {cue: (1 - many) * matching.WEIGHTS[cue] + many * matching.MANY_WEIGHTS[cue] for cue in matching.WEIGHTS}
    used = {cue: mixed[cue] for cue in model.cues}
    level = (1 - many) * matching.LEVEL + many * matching.MANY_LEVEL
    level = level * (sum(used.values()) / sum(mixed.values()))
    objects, rest = objects.sum(2), rest.sum(2)
    share = (objects / (objects + rest).clamp(min=1e-6)).clamp(min=1e-3)[..., None, None]
    return used, level - many * matching.MANY_SIZE * (share / matching.TYPICAL_SHARE).log()


def contrast(query: Tensor, mine: dict[str, Tensor], name: str, channels: slice = slice(None)) -> Tensor:
    """:func:`nearest.contrast`: (B, M, T) of (B, T, C) tokens against those of M classes."""
    tokens = F.pad(
        mine[name].flatten(2, 3)[..., channels], (0, 0, 0, nearest.BEST)
    )  # (B, M, S, C): there are always so many
    cosine = query[:, None] @ tokens.mT
    shares = (F.pad(mine[f"{name}_{side}"].flatten(2), (0, nearest.BEST)) for side in ("foreground", "background"))
    foreground, background = (best(cosine, share) for share in shares)
    return foreground - background


def best(cosine: Tensor, share: Tensor) -> Tensor:
    """(B, M, T): mean of the best of those of (B, M, T, S) cosines whose share (B, M, S) is large enough."""
    usable = share >= share.amax(2, keepdim=True).clamp(1e-6, 0.5)
    values = torch.where(usable[:, :, None], cosine, NOWHERE).topk(nearest.BEST, dim=-1, sorted=False).values
    there = usable.to(cosine).sum(2).clamp(1, nearest.BEST)[..., None]
    return torch.where(values > NOWHERE, values, 0).sum(-1) / there


def classified(tokens: Tensor, classifiers: Tensor) -> Tensor:
    """(B, M, T): the value of classifiers (B, M, C + 1) at tokens (B, T, C)."""
    return classifiers[..., :-1] @ tokens.mT + classifiers[..., -1:]


def _resize(x: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def unit_range(x: Tensor) -> Tensor:
    """:func:`matching.unit_range` of (B, M, h, w)."""
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return (x - low) / (high - low).clamp(min=1e-6)


class Judge:
    """:class:`presence._Judge` of B photos."""

    def __init__(
        self, encoder: Any, features: Mapping[str, Tensor], query: Features, known: dict[str, Tensor], typical
    ):
        with encoded_as(encoder, features):
            self.spaces = presence.Spaces(encoder, query)
        self.encoder = encoder
        self.examples, self.centre = {}, {}
        for name in self.spaces.names:
            region, photos = known[presence.REGION + name], known[presence.PHOTO + name]
            there = (photos.abs().amax(2, keepdim=True) > 0).to(photos)  # (N, K, 1)
            examples = region.sum(1) / there.sum(1)
            total, count = photos.sum((0, 1)), there.sum()
            centre = total / count
            if name in typical:
                centre = (total + presence.TYPICAL * typical[name].to(photos)) / (count + presence.TYPICAL)
            if name == "labels":
                centre = torch.zeros_like(centre)
            self.examples[name], self.centre[name] = F.normalize(examples - centre, dim=1), centre

    def coarse(self) -> Tensor:
        """(B, N)."""
        deep = self.spaces.maps["deep"][0]
        tokens = F.avg_pool2d(deep, 3, 1, 1, count_include_pad=False).flatten(2).mT
        return (F.normalize(tokens - self.centre["deep"], dim=2) @ self.examples["deep"].T).amax(1)

    def present(self, regions: Tensor, chosen: Tensor) -> Tensor:
        """(B, N) of regions (B, M, h, w) in [0, 1]."""
        alike = [
            (F.normalize(x - self.centre[name], dim=2) * self.examples[name][chosen]).sum(2)
            for name, x in self.pooled(regions).items()
        ]
        own = torch.stack(alike).mean(0)
        similar = torch.minimum(self.coarse(), own.amin(1, keepdim=True)).scatter(1, chosen, own)
        first = similar.amax(1, keepdim=True)
        # Beside the best itself: the next one; of equals the same value again; of one class alone none.
        others = similar.scatter(1, similar.argmax(1, keepdim=True), -2.0).amax(1, keepdim=True)
        rival = torch.where(similar == first, others, first).clamp(min=presence.FLOOR)
        return torch.sigmoid(presence.OWN * similar - presence.RIVAL * rival + presence.EVEN)

    def pooled(self, regions: Tensor) -> dict[str, Tensor]:
        """:meth:`presence.Spaces.pooled`: (B, M, D) a space."""

        def mean(level: Tensor) -> Tensor:
            share = F.adaptive_avg_pool2d(regions, (level.shape[-2], level.shape[-1])).flatten(2)
            return (share / share.sum(2, keepdim=True).clamp(min=1e-6)) @ level.flatten(2).mT

        means = {name: torch.cat([mean(level) for level in levels], 2) for name, levels in self.spaces.maps.items()}
        if "labels" in means:
            means["labels"] = self.encoder.labels(means["labels"])
        return means
