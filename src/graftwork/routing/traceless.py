"""A pass through a model that leaves no trace in it, nor in any random numbers drawn later."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from graftwork.routing.router import find_router

__all__ = ["traceless"]


@contextmanager
def traceless(model: nn.Module) -> Iterator[None]:
    """Put everything back when the context ends: random numbers, gradients, buffers, and the mode.

    Gates that are drawn inside do not warn that nobody drives their search.
    """
    modes = [(module, module.training) for module in model.modules()]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    router = find_router(model)
    driven = router is not None and router.driven
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        if router is not None:
            router.driven = True
        for parameter, _ in gradients:
            parameter.grad = None
        with _torch_numbers(model):
            yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
        if router is not None:
            router.driven = driven
        for parameter, gradient in gradients:
            parameter.grad = gradient
        with torch.no_grad():
            for buffer, before in buffers:
                # NaN is never equal to itself; then a copy costs nothing but time.
                if not torch.equal(buffer, before):
                    buffer.copy_(before)
        for module, training in modes:
            module.training = training


@contextmanager
def _torch_numbers(model: nn.Module) -> Iterator[None]:
    """The random numbers of torch, of the CPU and of the devices of the model."""
    devices = {parameter.device for parameter in model.parameters()} - {torch.device("cpu")}
    kinds = {device.type for device in devices if device.type != "meta"}
    if not kinds:
        with torch.random.fork_rng(devices=[]):
            yield
        return
    kind = kinds.pop()
    with torch.random.fork_rng(devices=[d for d in devices if d.type == kind], device_type=kind):
        yield
