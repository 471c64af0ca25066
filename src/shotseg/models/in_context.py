"""Three ideas of INSID3 (Cuttano et al. 2026, arXiv 2603.28480) for the tokens of a frozen ViT, in our words and our scale.

positions   a ViT's tokens say where they are as well as what they show; the directions that do are taken out
backward    a token of the query counts where it is like the object, and the support token most like it lies in the object
clusters    the query's tokens are grouped, and a group is decided as one, by its likeness to the surest group
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from shotseg.data.samples import Support
from shotseg.encoders.features import Encoder

SHARE = 0.5  # of the channels that positions may take: 500 of 1,024 as released
ALIKE = 0.6  # mean cosine from which on two groups of tokens are one
MOST = 40  # rows and columns of tokens that are grouped; of finer grids their means are
OUT = -1.0  # log odds that a token has at most which does not lead back into the object
EPS = 1e-3  # the least share of a group


@torch.no_grad()
def position_bases(encoder: Encoder, levels: tuple[int, ...], size: int) -> list[Tensor]:
    """(C, r) of each level: the directions in which tokens of a photo without content differ, the strongest first.

    What differs there can be position alone.    size: its side in pixels.
    """
    empty = torch.zeros(1, 3, size, size, device=encoder.mean.device)
    found = encoder(empty).maps
    return [_strongest(F.normalize(found[i], dim=1).flatten(2)[0]) for i in levels]


def _strongest(tokens: Tensor) -> Tensor:
    """(C, r) orthonormal directions of the spread of tokens (C, N)."""
    spread = tokens - tokens.mean(1, keepdim=True)
    directions, sizes, _ = torch.linalg.svd(spread.float(), full_matrices=False)
    real = int((sizes > 1e-5 * tokens.norm(dim=0).mean() * tokens.shape[1] ** 0.5).sum())  # the others are rounding
    return directions[:, : min(real, int(SHARE * len(tokens)))].contiguous()


def without(basis: Tensor, maps: Tensor) -> Tensor:
    """Maps (B, C, h, w) as unit tokens without their part along a basis (C, r)."""
    tokens = F.normalize(maps, dim=1).flatten(2)
    basis = basis.to(tokens)
    return F.normalize(tokens - basis @ (basis.mT @ tokens), dim=1).view_as(maps)


def leads_back(query: Tensor, support: Support) -> Tensor:
    """(B, N) bool: tokens of the query (B, N, C) that match the object forward and backward.

    Forward: a positive cosine to the object's mean token. Backward: of most shots, the nearest token lies in the object.
    support: of :class:`shotseg.models.matching.Matching`, "deep" (B or 1, K, M, C) unit tokens.
    """
    tokens, inside, outside = (support[k] for k in ("deep", "deep_foreground", "deep_background"))
    mean = F.normalize((tokens * inside[..., None]).sum((1, 2)), dim=-1)  # (B or 1, C)
    forward = (query @ mean[..., None])[..., 0] > 0
    votes, shots = torch.zeros_like(query[..., 0]), torch.zeros_like(query[..., :1, 0])
    for shot in range(tokens.shape[1]):
        there = (inside[:, shot] + outside[:, shot]) > 0  # a token of another size's filling is nobody's
        cosine = (query @ tokens[:, shot].mT).masked_fill(~there[:, None], -torch.inf)
        own = (inside[:, shot] > outside[:, shot]).to(query).expand(len(query), -1)
        votes += own.gather(1, cosine.argmax(2))
        shots = shots + there.any(1, keepdim=True).to(query)
    return forward & (2 * votes >= shots) & (votes > 0)


def by_group(evidence: Tensor, tokens: Tensor) -> Tensor:
    """Log odds (B, h, w), each half of its own and half of its group's; tokens (B, C, h', w') of unit length, of any grid.

    A group's odds are those of its mean probability times its cosine to the surest group.
    """
    if max(tokens.shape[-2:]) > MOST:
        tokens = F.adaptive_avg_pool2d(tokens, (min(MOST, tokens.shape[-2]), min(MOST, tokens.shape[-1])))
    grid = (tokens.shape[-2], tokens.shape[-1])
    share = torch.sigmoid(F.adaptive_avg_pool2d(evidence[:, None], grid)).flatten(1)
    rows = F.normalize(tokens, dim=1).flatten(2).mT
    scores = torch.stack([_scored(mine, own) for mine, own in zip(share, rows)]).clamp(EPS, 1 - EPS)
    grouped = torch.logit(scores).unflatten(1, grid)[:, None]
    return (evidence + F.interpolate(grouped, evidence.shape[-2:], mode="bilinear", align_corners=False)[:, 0]) / 2


def _scored(share: Tensor, tokens: Tensor) -> Tensor:
    """(N,): what each token's group scores, of shares (N,) and unit tokens (N, C)."""
    groups = grouped(tokens)
    member = F.one_hot(groups).to(tokens)  # (N, G)
    member = member / member.sum(0)
    mean, centre = member.mT @ share, F.normalize(member.mT @ tokens, dim=1)
    alike = (centre @ centre[mean.argmax()]).clamp(min=0)
    return (mean * alike)[groups]


def grouped(tokens: Tensor) -> Tensor:
    """(N,) int64 group of each unit token (N, C), from 0: joined as long as two groups' mean cosine is at least ``ALIKE``."""
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    if len(tokens) < 2:
        return torch.zeros(len(tokens), dtype=torch.long, device=tokens.device)
    exact = tokens.cpu().double()  # not every device knows doubles
    apart = (1 - exact @ exact.mT).clamp(min=0).numpy()
    tree = linkage(squareform(apart, checks=False), "average")
    return torch.from_numpy(fcluster(tree, 1 - ALIKE, "distance") - 1).long().to(tokens.device)
