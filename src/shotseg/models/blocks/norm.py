"""The batch norm of models that learn."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class BatchNorm(nn.BatchNorm2d):
    """PyTorch's, but for one value a channel, as of one photo pooled to one bin: that has no variance.

    It is then normalised by the running statistics, as in use, and these stay as they are.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == self.num_features:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)
