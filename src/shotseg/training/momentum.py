"""The networks of contrastive learning: two branches, one the moving average of the other, and queues of keys.

MoCo v2 (He et al., CVPR 2020; Chen et al., arXiv 2003.04297) with the local terms of QGNet's first stage.
"""

from __future__ import annotations

import copy
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shotseg.encoders.features import Encoder
from shotseg.training.recipe import ContrastiveChoice


class Branch(nn.Module):
    """Encoder and projection heads; embeddings are unit vectors."""

    def __init__(self, encoder: Encoder, dim: int, mlp: bool = True, local_head: str = "shared", region: bool = False):
        super().__init__()
        self.encoder = encoder
        self.head = projection(encoder.channels[-1], dim, mlp)
        self.local = projection(encoder.channels[-1], dim, mlp) if local_head == "separate" else None
        self.region = projection(encoder.channels[encoder.before_last], dim) if region else None

    def forward(self, images: Tensor, local: bool = False) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) in [0, 1] -> embeddings (B, dim), and the map that regions are averaged on (B, C, h, w)."""
        maps = self.encoder.extract((images - self.encoder.mean) / self.encoder.std).maps
        head = self.local if local and self.local is not None else self.head
        return F.normalize(head(maps[-1].mean((2, 3))).float(), dim=1), maps[self.encoder.before_last]

    def regions(self, maps: Tensor, weights: Tensor) -> Tensor:
        """maps (B, C, h, w), weights (B, R, h, w) of each photo's regions -> embeddings (B, R, dim)."""
        assert self.region is not None
        means = torch.einsum("bchw,brhw->brc", maps.float(), weights)
        means = means / weights.sum((2, 3)).clamp(min=1e-6)[..., None]
        return F.normalize(self.region(means).float(), dim=-1)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        nn.Module.train(self.encoder, mode)  # an Encoder keeps its batch statistics still, here they move
        return self


def projection(channels: int, dim: int, mlp: bool = True) -> nn.Module:
    """(B, channels) -> (B, dim): linear, ReLU, linear as in MoCo v2, or one linear layer as in v1."""
    last = nn.Linear(channels, dim)
    return nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), last) if mlp else last


class Contrastive(nn.Module):
    """``online`` learns; ``target`` is its moving average, gives the keys, and is what is kept in the end.

    queue: how many keys of earlier batches each query is told apart from.
    """

    def __init__(self, encoder: Encoder, choice: ContrastiveChoice, queue: int):
        super().__init__()
        self.choice = choice
        region = choice.objective == "region"
        local_head = choice.local_head if choice.objective == "patches" else "shared"
        self.online = Branch(encoder.requires_grad_(True), choice.dim, choice.mlp, local_head, region)
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.encoder_learned = True  # a checkpoint keeps the encoders
        kinds = ("global",) if choice.queues == "shared" or not self.has_local else ("global", "local")
        for kind in kinds:
            self.register_buffer(f"queue_{kind}", F.normalize(torch.randn(choice.dim, queue), dim=0))
        self.register_buffer("pointer", torch.zeros(len(kinds), dtype=torch.long))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.queue_global: Tensor
        self.queue_local: Tensor
        self.pointer: Tensor
        self.steps: Tensor

    @property
    def has_local(self) -> bool:
        return self.choice.objective == "region" or self.choice.ll > 0 or self.choice.gl > 0

    @property
    def encoder(self) -> Encoder:
        """The encoder that is kept."""
        return self.target.encoder

    def queue(self, kind: str) -> Tensor:
        """(dim, K) of "global" or "local" keys, as they are now."""
        name = f"queue_{kind}"
        return (getattr(self, name) if hasattr(self, name) else self.queue_global).detach().clone()

    @torch.no_grad()
    def enqueue(self, keys: Tensor, kind: str) -> None:
        """Write (N, dim) keys of all processes over the oldest; the ring goes on at its beginning."""
        at = int(hasattr(self, "queue_local") and kind == "local")
        queue: Tensor = self.queue_local if at else self.queue_global
        keys = gathered(keys)[-queue.shape[1] :]
        places = (self.pointer[at] + torch.arange(len(keys), device=keys.device)) % queue.shape[1]
        queue[:, places] = keys.T.to(queue)
        self.pointer[at] = (self.pointer[at] + len(keys)) % queue.shape[1]

    @torch.no_grad()
    def follow(self) -> None:
        """target <- m target + (1 - m) online (MoCo, equation 2) of all parameters; its batch statistics are its own."""
        for target, online in zip(self.target.parameters(), self.online.parameters()):
            target.lerp_(online.detach(), 1 - self.choice.momentum)
        self.steps += 1

    def query(self, images: Tensor, local: bool = False) -> tuple[Tensor, Tensor]:
        return in_groups(self.online, images, self.groups, local)

    @torch.no_grad()
    def key(self, images: Tensor, local: bool = False) -> tuple[Tensor, Tensor]:
        """As ``query`` by the target, the images of all processes shuffled, so that no batch statistic tells a pair."""
        every = gathered(images)
        order = torch.randperm(len(every), generator=torch.Generator().manual_seed(int(self.steps)))
        order = order.to(images.device)
        of_process = slice(process() * len(images), (process() + 1) * len(images))
        mixed, back = every[order[of_process]], order.argsort()[of_process]
        z, maps = in_groups(self.target, mixed, self.groups, local)
        return gathered(z)[back], gathered(maps)[back]

    @property
    def groups(self) -> int:
        return self.choice.bn_groups if self.training else 1


def in_groups(branch: Branch, images: Tensor, groups: int, local: bool) -> tuple[Tensor, Tensor]:
    """A branch on parts of the batch, each with batch statistics of its own."""
    parts = [branch(part, local) for part in images.chunk(min(groups, len(images)))]
    embeddings, maps = zip(*parts)
    return torch.cat(embeddings), torch.cat(maps)


def logits(query: Tensor, key: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Unit vectors (B, dim), (B, dim), (dim, K) -> (B, 1 + K), the true pair first."""
    positive = (query * key).sum(1, keepdim=True)
    return torch.cat([positive, query @ negatives.to(query)], 1) / temperature


def nce(query: Tensor, key: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Mean of -log of the share that the true pair has among all (van den Oord et al. 2018; MoCo, equation 1)."""
    scores = logits(query, key, negatives, temperature)
    return F.cross_entropy(scores, scores.new_zeros(len(scores), dtype=torch.long))


def process() -> int:
    return torch.distributed.get_rank() if _many() else 0


def gathered(x: Tensor) -> Tensor:
    """The rows of all processes, without gradient."""
    if not _many():
        return x.detach()
    parts = [torch.empty_like(x) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, x.detach().contiguous())
    return torch.cat(parts)


def _many() -> bool:
    return (
        torch.distributed.is_available()
        and torch.distributed.is_initialized()
        and torch.distributed.get_world_size() > 1
    )


def figures(query: Tensor, key: Tensor, negatives: Tensor, online: Branch, target: Branch) -> dict[str, Tensor]:
    """What tells a healthy run: all but the last are of unit vectors (B, dim) and the queue (dim, K).

    ``top1``: how often the true key is the nearest; ``alignment`` and ``uniformity``: Wang and Isola, ICML 2020; ``spread``:
    mean standard deviation of a dimension times sqrt(dim), 0 where all images collapse to one point; ``agreement``: cosine
    of the two heads' weights.
    """
    with torch.no_grad():
        cosines = query.float() @ query.float().T
        apart = torch.ones_like(cosines, dtype=torch.bool).triu(1)
        pairs = (2 - 2 * cosines[apart]).clamp(min=0)  # squared distances; pdist has no kernel for MPS
        q_head, k_head = (torch.cat([p.flatten() for p in branch.head.parameters()]) for branch in (online, target))
        return {
            "top1": (logits(query, key, negatives, 1.0).argmax(1) == 0).float().mean(),
            "alignment": (query - key).square().sum(1).mean(),
            "uniformity": pairs.mul(-2).exp().mean().clamp(min=1e-12).log() if len(pairs) else query.new_zeros(()),
            "spread": query.std(0).mean() * query.shape[1] ** 0.5 if len(query) > 1 else query.new_zeros(()),
            "agreement": F.cosine_similarity(q_head, k_head, dim=0),
        }
