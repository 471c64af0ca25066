"""The loss of QGNet's first stage (Liu et al., arXiv 2108.05293): our reading of the paper's figure 3, its code is not published.

A photo is seen in two global views and in two local ones (patches around superpixels, or superpixels themselves). The online
network makes the query q of the one view, the target, its moving average, the key k of the other; all are unit vectors:

    g_q, g_k   of the global views        Q_g, Q_l   queues: global and local keys of earlier photos
    l_q, l_k   of the local views         t          temperature

    nce(q, k, Q) = -log exp(q k / t) / (exp(q k / t) + sum over n in Q of exp(q n / t))        MoCo, equation 1

    gg = nce(g_q, g_k, Q_g)                              a photo is told from other photos
    ll = nce(l_q, l_k, Q_l)                              a part of it is told from other parts
    gl = (nce(g_q, l_k, Q_l) + nce(l_q, g_k, Q_g)) / 2   a photo and a part of it belong together
    loss = w_gg gg + w_ll ll + w_gl gl                   weights of ContrastiveChoice; a term of weight 0 is left out

With ``objective: region`` there is an l_q and an l_k of each region i that both views show, its mean on a feature map, and the
other regions of the batch stand in for the queue:

    ll = mean over i of -log exp(l_q[i] l_k[i] / t_r) / sum over j in J_i of exp(l_q[i] l_k[j] / t_r)
    J_i  all regions of the batch, of all processes, but those of the same photo that overlap i
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from shotseg.training import momentum
from shotseg.training.contrastive_views import REGIONS, Views
from shotseg.training.momentum import Contrastive, figures, gathered, nce
from shotseg.training.progress import FIGURE


def loss(model: Contrastive, batch: Views) -> dict[str, Tensor]:
    """The weighted terms, and figures that are only shown; with ``symmetric`` the mean with the views exchanged."""
    if not model.choice.symmetric:
        return terms(model, batch)
    forth, back = terms(model, batch), terms(model, exchanged(batch))
    return {name: (value + back[name]) / 2 for name, value in forth.items()}


def terms(model: Contrastive, batch: Views) -> dict[str, Tensor]:
    """One step: the online network makes queries, the target moves and makes keys, and at last these enter the queues."""
    choice = model.choice
    g_q, q_map = model.query(batch.query)
    l_q = model.query(batch.local_query, local=True)[0] if batch.local_query is not None else None
    if model.training:
        model.follow()
    g_k, k_map = model.key(batch.key)
    g_k = g_k.to(g_q)
    weighted = {"gg": choice.gg * nce(g_q, g_k, model.queue("global"), choice.temperature)} if choice.gg else {}
    shown = figures(g_q.detach(), g_k, model.queue("global"), model.online, model.target)
    l_k: Tensor | None = None
    if batch.query_regions is not None:
        ll, gl, l_k = region_terms(model, batch, g_q, g_k, q_map, k_map)
        weighted |= {"ll": choice.ll * ll, "gl": choice.gl * gl}
    elif l_q is not None:
        assert batch.local_key is not None
        l_k = model.key(batch.local_key, local=True)[0].to(g_q)
        if choice.ll:
            weighted["ll"] = choice.ll * nce(l_q, l_k, model.queue("local"), choice.temperature)
        if choice.gl:
            queues = model.queue("global"), model.queue("local")
            weighted["gl"] = choice.gl * global_local(g_q, l_q, g_k, l_k, *queues, choice.temperature)
    if model.training:
        model.enqueue(g_k, "global")
        if l_k is not None:
            model.enqueue(l_k, "local")
    return weighted | {FIGURE + name: value for name, value in shown.items()}


def global_local(
    g_q: Tensor, l_q: Tensor, g_k: Tensor, l_k: Tensor, queue_g: Tensor, queue_l: Tensor, t: float
) -> Tensor:
    """gl of vectors (N, dim) and queues (dim, K): each query against the other kind's key, in that kind's queue."""
    return (nce(g_q, l_k, queue_l, t) + nce(l_q, g_k, queue_g, t)) / 2


def region_terms(
    model: Contrastive, batch: Views, g_q: Tensor, g_k: Tensor, q_map: Tensor, k_map: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """ll and gl of the regions, and one key a photo (B, dim) for the local queue: its first region's, or else its global one.

    g_q, g_k (B, dim); q_map, k_map (B, C, h, w): the maps that regions are averaged on.
    """
    assert batch.query_regions is not None and batch.key_regions is not None and batch.apart is not None
    q_shares, k_shares = coverage(batch.query_regions, q_map), coverage(batch.key_regions, k_map)
    shown = (q_shares.sum((2, 3)) > 0) & (k_shares.sum((2, 3)) > 0)  # (B, R): regions with a place on both maps
    l_q = model.online.regions(q_map, q_shares)  # (B, R, dim)
    with torch.no_grad():
        l_k = model.target.regions(k_map, k_shares)
        queue_key = torch.where(shown[:, :1], l_k[:, 0], g_k)
        every_key, every_shown = gathered(l_k).flatten(0, 1), gathered(shown).flatten()  # of all processes
    if not shown.any():
        return l_q.sum() * 0, g_q.sum() * 0, queue_key
    rows = shown.flatten()
    compared = every_shown & told_apart(batch.apart, len(every_shown))  # (B R, all): j in J_i
    scores = l_q.flatten(0, 1) @ every_key.T / model.choice.region_temperature
    own_key = torch.arange(len(rows), device=g_q.device) + momentum.process() * len(rows)
    ll = F.cross_entropy(scores.masked_fill(~compared, -torch.inf)[rows], own_key[rows])
    photo = torch.arange(len(g_q), device=g_q.device).repeat_interleave(REGIONS)[rows]  # of each region that is shown
    l_q, l_k = l_q.flatten(0, 1)[rows], l_k.flatten(0, 1)[rows]
    queues = model.queue("global"), model.queue("local")
    gl = global_local(g_q[photo], l_q, g_k[photo], l_k, *queues, model.choice.temperature)
    return ll, gl, queue_key


def told_apart(apart: Tensor, count: int) -> Tensor:
    """apart (B, R, R) bool of this process's photos -> (B R, count) bool over the regions of all processes: regions of two
    photos always are."""
    rows, start = apart.shape[0] * apart.shape[1], momentum.process() * apart.shape[0] * apart.shape[1]
    same_photo = torch.block_diag(*torch.ones_like(apart).float()).bool()
    result = torch.ones(rows, count, dtype=torch.bool, device=apart.device)
    result[:, start : start + rows] = torch.block_diag(*apart.float()).bool() | ~same_photo
    return result


def coverage(regions: Tensor, maps: Tensor) -> Tensor:
    """(B, L, L) numbers 1..R, 0 = none -> (B, R, h, w): the share of each cell of the map that each region has."""
    inside = F.one_hot(regions, REGIONS + 1)[..., 1:].permute(0, 3, 1, 2).float()
    return F.adaptive_avg_pool2d(inside, (maps.shape[-2], maps.shape[-1]))


def exchanged(batch: Views) -> Views:
    """Queries as keys and keys as queries."""
    return Views(
        batch.key,
        batch.query,
        batch.local_key,
        batch.local_query,
        batch.key_regions,
        batch.query_regions,
        batch.apart,
    )
