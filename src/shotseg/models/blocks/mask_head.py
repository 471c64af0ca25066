"""The two heads of CST (Kang et al., CVPR 2023): is the class there, and where."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


def common(width: int = 128, groups: int = 4) -> nn.Sequential:
    """What both heads share: twice a 1x1 conv, norm, ReLU; (B, width, ...) -> the same."""
    layers = [[nn.Conv2d(width, width, 1), nn.GroupNorm(groups, width), nn.ReLU()] for _ in range(2)]
    return nn.Sequential(*layers[0], *layers[1])


class PresenceHead(nn.Module):
    """(B, width, h, w), the class token's answer at each place -> evidence for "absent" and "present", (B, 2, h', w')."""

    def __init__(self, width: int = 128):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(width, width, 1), nn.ReLU(), nn.Conv2d(width, width // 2, 1), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(width // 2, width // 2, 1), nn.ReLU(), nn.Conv2d(width // 2, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.avg_pool2d(self.first(x), 3, 2, 1))


class MaskHead(nn.Module):
    """(B, width, h, w) -> logits (B, 2, 2h, 2w)."""

    def __init__(self, width: int = 128):
        super().__init__()
        half = width // 2
        self.first = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, half, 3, padding=1), nn.ReLU()
        )
        self.second = nn.Sequential(nn.Conv2d(half, half, 3, padding=1), nn.ReLU(), nn.Conv2d(half, 2, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.interpolate(self.first(x), scale_factor=2, mode="bilinear", align_corners=True))
