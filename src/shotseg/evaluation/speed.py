"""What an episode costs, in forward passes of the backbone: the unit in which the heads of few-shot models compare."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor

from shotseg.data.samples import Episode
from shotseg.models.pi_clip import PICLIP


def episode_times(model: Any, device: torch.device, repeats: int = 5) -> dict[str, float]:
    """Seconds (medians) that one random 1-shot episode takes at the model's working size, squared.

    ``two_passes``: the encoder on query and support, one after the other. ``head``: all that comes after the frozen
    features, from the support's mask to the logits. ``step``: one training step of the whole episode, frozen features
    included. ``priors``: of a model with CLIP beside its encoder, all that CLIP does for one photo and class name.
    """
    episode = _episode(model.size).to(device)
    masks = episode.support_mask
    assert masks is not None
    parts: dict[str, Callable[[], Any]] = {}
    model.eval()
    with torch.no_grad():
        parts["two_passes"] = lambda: [model.encoder(x) for x in (episode.query, episode.support[:, 0])]
        query = model.encode(episode.query)
        masked = model.masks_input
        support = model.encode_masked(episode.support, masks) if masked else model.encode(episode.support[:, 0])
        parts["head"] = lambda: model.predict(episode, query, support)
        if isinstance(model, PICLIP):
            known = model.encode_support(episode.support, masks, class_names=episode.class_name, masked=support)
            size = query.maps[0].shape[-2:]

            def priors() -> Tensor:
                seen = model.priors.see(episode.query)
                return model.priors.text_map(seen, known, episode.query, episode.class_name, None, None, size)

            parts["priors"] = priors
        found = {name: _seconds(part, repeats, device) for name, part in parts.items()}
    return found | {"step": _seconds(_step(model.train(), episode), repeats, device)}


def _step(model: Any, episode: Episode) -> Callable[[], None]:
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-9)

    def step() -> None:
        sum(model.loss(episode).values()).backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def _episode(size: int) -> Episode:
    """Noise with the middle as the object; the class is one that no base class has."""
    stream = torch.Generator().manual_seed(0)
    query, support = torch.rand(2, 1, 3, size, size, generator=stream)
    mask = torch.zeros(1, size, size, dtype=torch.long)
    mask[:, size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = 1
    return Episode(query, support[:, None], torch.tensor([254]), mask, mask[:, None], ("dog",))


def _seconds(work: Callable[[], Any], repeats: int, device: torch.device) -> float:
    taken = []
    for _ in range(repeats + 1):  # the first warms up
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - start)
    return median(taken[1:])
