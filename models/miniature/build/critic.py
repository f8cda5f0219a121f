"""The critic of the decoder: a small network that distinguishes restored from drawn patches."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call


class Critic(nn.Module):
    """A convolutional network with one value for each patch of 34 pixels (Isola et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 96)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, 2, 1), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 3, 1, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return values [batch, 1, height / 8, width / 8]: high for drawn patches."""
        judged: torch.Tensor = self.body(pixels)
        return judged

    def frozen(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the values for `pixels`, without a gradient for the critic itself."""
        weights = {name: weight.detach() for name, weight in self.named_parameters()}
        judged: torch.Tensor = functional_call(self, weights, (pixels,))
        return judged

    def loss(self, drawn: torch.Tensor, restored: torch.Tensor) -> torch.Tensor:
        """Return the hinge loss of the critic for drawn and restored pictures."""
        return (F.relu(1 - self(drawn)).mean() + F.relu(1 + self(restored)).mean()) / 2


def balance(error: torch.Tensor, judged: torch.Tensor, restored: torch.Tensor) -> torch.Tensor:
    """Return the weight that gives both losses gradients of one size at `restored`."""
    ours, theirs = (
        torch.autograd.grad(loss, restored, retain_graph=True)[0].norm() for loss in (error, judged)
    )
    return (ours / (theirs + 1e-8)).clamp(max=1e4).detach()
