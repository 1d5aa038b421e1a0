"""Using the model in training for something else, so that training goes on as if nothing had happened."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from megatron.core.tensor_parallel import get_cuda_rng_tracker

from recipes.training.module import ParamGPT


@contextmanager
def undisturbed(model: ParamGPT) -> Iterator[None]:
    """While inside, the model is in evaluation mode; afterwards every random state and mode is as before.

    All ranks enter it. Parameters are up to date then, so that ranks may make different forward passes.
    """
    model.gather_parameters()
    modes = {module: module.training for module in model.gpt.modules()}
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    device, megatron = torch.cuda.get_rng_state(), get_cuda_rng_tracker().get_states()
    model.gpt.eval()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        torch.cuda.set_rng_state(device)
        get_cuda_rng_tracker().set_states(megatron)
        for module, mode in modes.items():
            module.training = mode
