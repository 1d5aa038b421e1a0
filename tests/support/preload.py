"""Imports, once, all that the processes of :mod:`tests.support.pool` need: they are forks of this one."""

import gc
import importlib

import torch

from recipes.parallel import cpu_stand_in

if not torch.cuda.is_available():
    cpu_stand_in.install()

for name in (
    "megatron.core.models.gpt.gpt_layer_specs",
    "recipes.checkpoint.convert",
    "recipes.inference.complete",
    "recipes.inference.text_model",
    "recipes.pretrain",
    "recipes.training.fit",
    "recipes.training.run",
):
    importlib.import_module(name)

torch.set_num_threads(1)
gc.collect()
gc.freeze()  # Collections, which megatron-core asks for at each save, leave these modules alone.
