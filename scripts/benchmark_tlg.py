"""How long the head of TLG takes beside its two backbone passes, and how much memory: ours, and one written plainly.

    python scripts/benchmark_tlg.py --repeats 5 --out speed.json

The plain head does what the release does, step by step: both correlations, copies of 6-D tensors before every convolution,
a transport plan an image in numpy. Passes and heads take turns, and the shortest of each counts. Each peak of memory is
measured in a process of its own, above what it holds once all is loaded.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F

from shotseg import encoders
from shotseg.models import tlg
from shotseg.models.blocks.conv4d import Block4d
from shotseg.models.tlg.transport import LOWEST, REG, TransportAttention


def plain_correlate(query: list[Tensor], support: list[Tensor]) -> Tensor:
    found = [torch.bmm(q.flatten(2).mT, s.flatten(2)).clamp(min=0) for q, s in zip(query, support)]
    return torch.stack(found, 1).view(len(query[0]), len(query), *query[0].shape[2:], *support[0].shape[2:])


def plain_block(self: Block4d, x: Tensor) -> Tensor:
    b, c, h, w, hs, ws = x.shape
    s = self.stride
    pivots = x[..., ::s, ::s]
    small = pivots.shape[4:]
    query = self.query(pivots.permute(0, 4, 5, 1, 2, 3).reshape(-1, c, h, w).contiguous())
    query = query.view(b, *small, -1, h, w).permute(0, 3, 4, 5, 1, 2).contiguous()
    support = self.support(x.permute(0, 2, 3, 1, 4, 5).reshape(-1, c, hs, ws).contiguous())
    support = support.view(b, h, w, -1, *small).permute(0, 3, 1, 2, 4, 5).contiguous()
    return F.relu(F.group_norm(query + support, 4, self.norm.weight, self.norm.bias))


def plain_plan(self: TransportAttention, attention: Tensor) -> Tensor:
    import ot

    lifted = torch.where(attention == 0, LOWEST, attention)
    n, m = lifted.shape[1:]
    margins = torch.full((n,), 1 / n).numpy(), torch.full((m,), 1 / m).numpy()
    plans = [torch.from_numpy(ot.sinkhorn(*margins, (1 - one).detach().numpy(), REG)) for one in lifted]
    return torch.stack(plans).to(attention)


@contextmanager
def plainly():
    """Inside, the head is the plain one."""
    with (
        mock.patch.object(tlg, "correlate", plain_correlate),
        mock.patch.object(Block4d, "forward", plain_block),
        mock.patch.object(TransportAttention, "plan", plain_plan),
    ):
        yield


class Work:
    """Two photos of 400 x 400, a backbone and the head in the released setting; random weights take the same time."""

    def __init__(self, encoder: str, size: int):
        torch.manual_seed(0)
        self.images = torch.rand(2, 3, size, size)
        self.model = tlg.TLG(encoders.load(encoder, weights="random"), reference=True)
        self.optimiser = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], 4e-4)
        self.text, self.mask = torch.rand(1, 3, self.model.rows.width), torch.ones(1, 1, size, size)
        self.passes()

    def passes(self) -> None:
        with torch.no_grad():
            self.query, self.support = (self.model.encoder(image[None]).maps for image in self.images)

    def head(self) -> Tensor:
        with torch.no_grad():
            return self.model.eval().compare(self.query, self.support, self.text, self.mask, self.mask).query

    def step(self) -> None:
        """A whole training step: passes, head, loss, gradients and AdamW."""
        self.passes()
        model = self.model.train()
        sides = model.compare(self.query, self.support, self.text, self.mask, self.mask)
        target = torch.ones(1, *self.images.shape[2:], dtype=torch.long)
        losses = (1.4 * tlg.cross_entropy(sides.query, target), 0.6 * tlg.cross_entropy(sides.support, target))
        sum(losses).backward()  # type: ignore[union-attr]
        self.optimiser.step()
        self.optimiser.zero_grad()

    def plain_head(self) -> Tensor:
        with plainly():
            return self.head()

    def plain_step(self) -> None:
        with plainly():
            self.step()


KINDS = ("passes", "plain_head", "head", "plain_step", "step")


def peak(kind: str, encoder: str, size: int) -> float:
    """MiB above the loaded process."""
    command = [sys.executable, __file__, "--peak", kind, "--encoder", encoder, "--size", str(size)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="resnet50")
    parser.add_argument("--size", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--peak", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    # first, while this process is small: a process begins with the peak of the one that starts it
    memory = {} if options.peak else {kind: peak(kind, options.encoder, options.size) for kind in KINDS}
    work = Work(options.encoder, options.size)
    if options.peak:
        loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        getattr(work, options.peak)()
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - loaded) / 1024)
        return
    apart = float((work.head() - work.plain_head()).abs().max())
    best = dict.fromkeys(KINDS, float("inf"))
    for _ in range(options.repeats):
        for kind in KINDS:
            start = time.perf_counter()
            getattr(work, kind)()
            best[kind] = min(best[kind], time.perf_counter() - start)
    rows = {}
    for kind, seconds in best.items():
        rows[kind] = {"seconds": seconds, "of_passes": seconds / best["passes"], "peak_mib": memory[kind]}
    for kind, row in rows.items():
        print(f"{kind:12} {row['seconds']:7.3f} s  {row['of_passes']:5.2f} x the passes  {row['peak_mib']:6.0f} MiB")
    print(
        f"largest difference of the logits: {apart:.1e}; {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    if options.out:
        options.out.write_text(
            json.dumps({"rows": rows, "difference": apart, "threads": torch.get_num_threads()}, indent=1)
        )


if __name__ == "__main__":
    main()
