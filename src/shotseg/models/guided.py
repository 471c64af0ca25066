"""A few-shot network that starts from matching: what needs no training is given, the rest is learnt.

Our own combination of PFENet or HDMNet with :mod:`shotseg.models.matching`, on the same frozen features. Few classes with
masks teach a network their own looks sooner than how to compare, so this one is held to comparing: its prior maps are
matching's cues, its answer is a correction of matching's evidence, and in training the query's features are often hidden
from it, the cues never.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotseg.data.samples import IGNORE, Prediction, Support
from shotseg.encoders.features import Encoder, Features
from shotseg.errors import UsageError
from shotseg.models import matching, nearest, ridge
from shotseg.models.blocks.prior_guided import Hosted
from shotseg.models.hdmnet import HDMNet
from shotseg.models.matching import Matching
from shotseg.models.pfenet import PFENet
from shotseg.priors.objectness import border_contrast

HOSTS: dict[str, type[PFENet] | type[HDMNet]] = {"pfenet": PFENet, "hdmnet": HDMNet}
OWN = "matching."  # how the tensors of matching begin in a support
MAPS = 19
AUX = 0.4  # weight of the host's own terms of the loss, as of PSPNet's auxiliary head


class Guided(Hosted):
    """A host that is given the cues of matching and corrects its answer, drawn with the encoder's finer maps.

    encoder: of both.       host: "pfenet" or "hdmnet"; further ``options`` are keywords of its class.
    width:   channels of the host and, halved at each finer map, of the drawing.
    hide:    share of training queries whose features the host does not see.
    """

    finest = 4  # stride of the finest map that is read

    def __init__(
        self,
        encoder: Encoder,
        *,
        host: Literal["pfenet", "hdmnet"] = "pfenet",
        size: int = 384,
        width: int = 96,
        hide: float = 0.3,
        **options: Any,
    ):
        super().__init__()
        self.host: Any = HOSTS[host](encoder, size=size, width=width, prior_maps=MAPS, **{"grid": "layer3"} | options)
        self.matching = Matching(encoder, size)
        if not 0 <= hide <= 1:
            raise UsageError(f"hide {hide}: a share of the queries, from 0 to 1")
        self.hide = hide
        stride = encoder.strides[self.matching.levels[1]]
        last = {s: i for i, s in enumerate(encoder.strides) if self.finest <= s < stride}
        self.finer = [last[s] for s in sorted(last, reverse=True)]  # encoder maps, coarse to fine
        self.draw = Drawing(self.host.fused_channels, MAPS, [encoder.channels[i] for i in self.finer])

    def encode(self, images: Tensor) -> Features:
        """(B, 3, H, W) in [0, 1] -> the encoder's features, once per image."""
        return self.host.encode(images)

    def encode_masked(self, images: Tensor, masks: Tensor) -> Features:
        """Features of the B K supports with all but the object hidden, then those of the whole photos."""
        hidden, whole = self.host.encode_masked(images, masks), self.encode(images.flatten(0, 1))
        return Features(hidden.maps + whole.maps, hidden.strides + whole.strides)

    def encode_support(
        self,
        images: Tensor,
        masks: Tensor,
        features: Features | None = None,
        class_names: Sequence[str] | None = None,
        masked: Features | None = None,
    ) -> Support:
        """The host's support and that of matching. features: of the whole photos; masked: from :meth:`encode_masked`."""
        encoded: dict[str, Any] = {}
        if self.masks_input:
            masked = self.encode_masked(images, masks) if masked is None else masked
            half = len(masked.maps) // 2
            encoded["masked"] = self._unit(Features(masked.maps[:half], masked.strides[:half]))
            features = Features(masked.maps[half:], masked.strides[half:])
        features = self.encode(images.flatten(0, 1)) if features is None else features
        encoded = encoded or {"features": self._unit(features)}
        with torch.no_grad():
            matching_support = self.matching.encode_support(images, masks, self._levels(features))
        host_support = self.host.encode_support(images, masks, class_names=class_names, **encoded)
        return Support(host_support.tensors | {OWN + name: tensor for name, tensor in matching_support.tensors.items()})

    def merge(self, supports: list[Support]) -> Support:
        """Several supports of one class as one, the classifiers of matching fitted on all shots."""
        if len(supports) == 1:
            return supports[0]
        matching_support = self.matching.merge([_split(support)[1] for support in supports])
        host_support = Support.join([_split(support)[0] for support in supports])
        return Support(host_support.tensors | {OWN + name: tensor for name, tensor in matching_support.tensors.items()})

    def forward(
        self, query: Features, support: Support, images: Tensor, class_id: Tensor | None = None, **context: Any
    ) -> Prediction:
        """Logits (B, 2, h, w) at stride 4 or the finest that the encoder has; extra: the host's, of which ``prior``
        (B, 19, h', w') are the cues, and ``evidence`` (B, h', w') of matching.
        """
        host_support, matching_support = _split(support)
        with torch.no_grad():
            cues, evidence = self.cues(self._levels(query), matching_support)
            shown = self._unit(query)
            if self.training:
                shown = self._hidden(shown)
        host_answer = self.host(shown, host_support, images, priors=cues, class_id=class_id)
        finer = [shown.maps[i] for i in self.finer]
        drawn = self.draw(host_answer.extra["fused"], cues, finer, images)
        drawn = drawn + 0.5 * matching.resize(evidence, drawn.shape[-2:])
        return Prediction(
            torch.stack([-drawn / 2, drawn / 2], 1),
            host_answer.extra | {"answer": host_answer.logits, "evidence": evidence},
        )

    def cues(self, query: Features, support: Support) -> tuple[Tensor, Tensor]:
        """Maps (B, 19, h, w), most of them in [-1, 1], and matching's evidence (B, h, w), on the grid of the middle level."""
        _, middle_map, deep_map = query.maps
        grid, coarse = middle_map.shape[-2:], deep_map.shape[-2:]
        tokens = matching.hypercolumn(query).flatten(2).mT
        middle = tokens[..., self.matching.middle]
        deep = F.normalize(deep_map, dim=1).flatten(2).mT
        like = [cosine.unflatten(1, grid) for cosine in nearest.best(middle, support, "all", self.matching.middle)]
        like_deep = [cosine.unflatten(1, coarse) for cosine in nearest.best(deep, support, "deep")]
        linear = ridge.classify(tokens, support["ridge_all"][:, 0]).unflatten(1, grid)
        linear_middle = ridge.classify(middle, support["ridge_middle"][:, 0]).unflatten(1, grid)
        border, border_deep = border_contrast(middle_map), border_contrast(deep_map)
        contrasts = [like[0] - like[1], like_deep[0] - like_deep[1]]

        scaled = [  # in the order of matching.WEIGHTS
            matching.unit_range(matching.resize(cue, grid))
            for cue in (*contrasts, linear, linear_middle, border, border_deep)
        ]
        first = torch.stack([w * cue for w, cue in zip(matching.WEIGHTS.values(), scaled)]).sum(0) - matching.LEVEL
        from_itself = matching.own_evidence(first[:, None], tokens)[:, 0]
        evidence = 0.3 * first + 0.7 * from_itself
        steps = [torch.tanh(x / 3) for x in (first, from_itself, evidence)]
        plain = [linear, linear_middle, *like, 4 * contrasts[0], *like_deep, 4 * contrasts[1], border, border_deep]
        maps = [2 * cue - 1 for cue in scaled] + steps + [matching.resize(cue, grid) for cue in plain]
        return torch.stack(maps, 1), evidence

    def losses(self, prediction: Prediction, target: Tensor, base_labels: Tensor | None = None) -> dict[str, Tensor]:
        """``drawn``: cross-entropy of the answer, ``dice``, and the host's own terms."""
        logits = prediction.logits[:, 1] - prediction.logits[:, 0]
        grid = (logits.shape[-2], logits.shape[-1])
        labelled = F.adaptive_avg_pool2d((target != IGNORE).float(), grid)
        share = F.adaptive_avg_pool2d((target == 1).float(), grid) / labelled.clamp(min=1e-6)
        p = torch.sigmoid(logits) * labelled
        overlap, both = (p * share).sum((1, 2)), (p + share * labelled).sum((1, 2))
        wrong = F.binary_cross_entropy_with_logits(logits, share, labelled, reduction="none").mean((1, 2))
        terms = {
            "drawn": (wrong / labelled.mean((1, 2)).clamp(min=1e-6)).mean(),
            "dice": 0.5 * (1 - (2 * overlap + 1) / (both + 1)).mean(),
        }
        host = Prediction(prediction.extra["answer"], prediction.extra)
        return terms | {name: AUX * term for name, term in self.host.losses(host, target, base_labels).items()}

    def _levels(self, features: Features) -> Features:
        """The three maps that matching reads."""
        at = self.matching.levels
        return Features(tuple(features.maps[i] for i in at), tuple(features.strides[i] for i in at))

    @staticmethod
    def _unit(features: Features) -> Features:
        """Every position of every map at the length that makes its channels about 1."""
        maps = tuple(F.normalize(m, dim=1) * m.shape[1] ** 0.5 for m in features.maps)
        return Features(maps, features.strides, features.classes)

    def _hidden(self, query: Features) -> Features:
        """The features with those of some of the photos at zero."""
        visible = (torch.rand(len(query.maps[0]), 1, 1, 1, device=query.maps[0].device) >= self.hide).float()
        return Features(tuple(m * visible for m in query.maps), query.strides, query.classes)


class Drawing(nn.Module):
    """From a host's map to a mask at the finest stride: each step joins one finer map of the encoder, the last the photo.

    channels: of the host's map.     maps: number of cues.     finer: channels of the encoder's maps, coarse to fine.
    """

    def __init__(self, channels: int, maps: int, finer: Sequence[int]):
        super().__init__()
        self.start = nn.Sequential(nn.Conv2d(channels + maps, channels, 1), Residual(channels), Residual(channels, 2))
        self.reduce, self.steps = nn.ModuleList(), nn.ModuleList()
        width = channels
        for side in finer:
            less = max(16, width // 2 // 8 * 8)
            self.reduce.append(nn.Sequential(nn.Conv2d(side, less // 2, 1), nn.Dropout2d(0.5)))
            self.steps.append(nn.Sequential(nn.Conv2d(width + less // 2, less, 1), nn.ReLU(), Residual(less)))
            width = less
        last = nn.Conv2d(24, 1, 3, padding=1)
        nn.init.zeros_(last.weight)  # at first nothing is corrected
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.answer = nn.Sequential(nn.Conv2d(width + 3, 24, 3, padding=1), nn.ReLU(), last)

    def forward(self, fused: Tensor, cues: Tensor, finer: Sequence[Tensor], images: Tensor) -> Tensor:
        """(B, h, w) of fused (B, C, h', w'), cues (B, P, h', w'), finer maps, and images (B, 3, H, W) in [0, 1]."""
        x = self.start(torch.cat([matching.resize(fused, cues.shape[-2:]), cues], 1))
        for reduce, step, side in zip(self.reduce, self.steps, finer):
            x = step(torch.cat([matching.resize(x, side.shape[-2:]), reduce(side)], 1))
        colour = F.adaptive_avg_pool2d(images, x.shape[-2:]) - 0.5
        return self.answer(torch.cat([x, colour], 1))[:, 0]


class Residual(nn.Module):
    """Two 3x3 convolutions with group norm, added to their input; the first one dilated."""

    def __init__(self, width: int, dilation: int = 1):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False),
            nn.GroupNorm(8, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.GroupNorm(8, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.body(x))


def _split(support: Support) -> tuple[Support, Support]:
    of_matching = {name.removeprefix(OWN): t for name, t in support.tensors.items() if name.startswith(OWN)}
    return Support({name: t for name, t in support.tensors.items() if not name.startswith(OWN)}), Support(of_matching)
