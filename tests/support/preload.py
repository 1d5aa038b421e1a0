"""Does, once, all that the processes of :mod:`tests.support.pool` begin with: they are forks of this one."""

import gc
import importlib
import pkgutil

import pytest  # noqa: F401 - Processes of `python -m pytest`, without xdist, begin by importing it.
import torch

from recipes.parallel import cpu_stand_in

if not torch.cuda.is_available():
    cpu_stand_in.install()

import recipes.model.families
from recipes.config.hydra_app import compose

for name in (
    "megatron.core.datasets.helpers",
    "megatron.core.models.gpt.gpt_layer_specs",
    "recipes.checkpoint.convert",
    "recipes.inference.complete",
    "recipes.inference.text_model",
    "recipes.pretrain",
    "recipes.training.fit",
    "recipes.training.run",
    "torch.utils.serialization.config",  # As torch saves.
    *(
        f"{recipes.model.families.__name__}.{each.name}"
        for each in pkgutil.iter_modules(recipes.model.families.__path__)
    ),
):
    importlib.import_module(name)

compose("pretrain", ["experiment=quickstart"])  # Reads the schema and its docstrings.
torch.set_num_threads(1)
gc.collect()
gc.freeze()  # Collections, which megatron-core asks for at each save, leave these modules alone.
