"""A module with a linear map of every kind, and graft adapters on it."""

from __future__ import annotations

import torch
from peft import PeftModel
from torch import nn
from transformers.pytorch_utils import Conv1D

import graftwork as gw
from toys import grafted

ROUND = {"atol": 2e-5, "rtol": 1e-4}


class Net(nn.Module):
    """One module of every kind that can be a site, called one after the other."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(12, 8)
        self.linear = nn.Linear(8, 8)
        self.no_bias = nn.Linear(8, 8, bias=False)
        self.transposed = Conv1D(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.conv1d = nn.Conv1d(8, 8, 3, padding=1)
        self.conv2d = nn.Conv2d(8, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.no_bias(torch.tanh(self.linear(self.embedding(x))))
        x = self.transposed(torch.tanh(x))
        x = self.attention(x, x, x)[0]
        x = torch.tanh(self.conv1d(x.movedim(-1, 1)))
        return self.grouped(torch.tanh(self.conv2d(x.unflatten(2, (2, -1))))).flatten(1)


INPUTS = torch.arange(24).view(4, 6) % 12


SITES = ["embedding", "linear", "no_bias", "transposed", "attention", "conv1d", "conv2d"]


def linear_net(sites: list[str], position: str = "sequential", **settings) -> PeftModel:
    return grafted(Net(), target_modules=sites, activation="identity", position=position, **settings)


@torch.no_grad()
def outcome(model: nn.Module, task: str | None = None) -> torch.Tensor:
    if task is None:
        return model(INPUTS)
    with gw.route(model, task):
        return model(INPUTS)
