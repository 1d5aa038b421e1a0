"""Completions during training: text that the model writes, under the layout that it is trained with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, Trainer
from megatron.core import parallel_state
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from recipes.config.schema import PretrainConfig
from recipes.console import say
from recipes.data.samples.document_start import DocumentStart, document_start_id
from recipes.inference.complete import complete
from recipes.inference.decode.choose_decoder import lean_decoder
from recipes.inference.decode.decoder import Decoder
from recipes.inference.text_generator import TextGenerator
from recipes.training.callbacks.metrics import Metrics
from recipes.training.module import ParamGPT


class TrainedText(TextGenerator):
    """The model in training as a text generator.

    Every rank makes the same calls and gets the same text, so any layout works except context parallelism.
    A model that is not split is completed as after training, by the lean forward pass on its weights where
    they are. Of others the whole text is processed again for every token: pipeline stages and sequence
    parallelism then work as they do in training.

    Args:
        model: in training; its layers may be compiled.
        document_start_id: the token that preceded every document.
    """

    def __init__(self, model: ParamGPT, document_start_id: int | None) -> None:
        run = model.run
        super().__init__(
            model.tokenizer,
            model.trainer.strategy.root_device,
            name=run.name,
            max_sequence_length=run.model.max_position_embeddings,
            document_start_id=document_start_id,
        )
        self.model = model

    @torch.no_grad()
    def logits(self, tokens: Tensor) -> Tensor:
        rows, places = torch.meshgrid(*map(torch.arange, tokens.shape), indexing="ij")
        logits = self.logits_at(tokens, *(index.flatten().to(tokens.device) for index in (rows, places)))
        return logits.view(*tokens.shape, -1)

    def decoder(self, slots: int, max_length: int) -> Decoder:
        """See :class:`TextGenerator`."""
        self.model.gather_parameters()
        lean = lean_decoder(self.model.gpt, self.vocab_size, slots, max_length)
        if lean is None:
            return super().decoder(slots, max_length)
        lean.is_static = False  # No CUDA graphs: for a few tokens they are not worth a capture amid training.
        return lean

    @torch.no_grad()
    def logits_at(self, tokens: Tensor, rows: Tensor, places: Tensor) -> Tensor:
        """Logits ``[n, V]`` that follow ``tokens[rows, places]``, on every rank."""
        # Sequence parallelism needs parts of equal size; a causal model cannot see padding on the right.
        parallel = self.model.run.parallel
        parts = parallel.tensor_model_parallel_size if parallel.sequence_parallel else 1
        padding = tokens.new_full((tokens.shape[0], -tokens.shape[1] % parts), self.eos_id)
        tokens = torch.cat((tokens, padding), dim=1)
        batch, length = tokens.shape
        position_ids = torch.arange(length, device=tokens.device).expand_as(tokens)

        def forward_step(_: Iterator[None], ddp: torch.nn.Module) -> tuple[Tensor, Callable[..., Tensor]]:
            logits = ddp(tokens, position_ids, None, runtime_gather_output=True)
            return logits, lambda output, non_loss_data: output[rows, places].float().contiguous()

        outputs = get_forward_backward_func()(
            forward_step_func=forward_step,
            data_iterator=iter([None]),
            model=[self.model.ddp],
            num_microbatches=1,
            seq_length=length,
            micro_batch_size=batch,
            forward_only=True,
            collect_non_loss_data=True,
        )
        if parallel_state.get_pipeline_model_parallel_world_size() == 1:
            return outputs[0][:, : self.vocab_size]
        padded = self.model.gpt.vocab_size
        shape = (len(rows), padded)
        logits = outputs[0] if outputs else torch.empty(shape, device=tokens.device)
        dist.broadcast(
            logits,
            src=parallel_state.get_pipeline_model_parallel_last_rank(),
            group=parallel_state.get_pipeline_model_parallel_group(),
        )
        return logits[:, : self.vocab_size]


class Samples(Callback):
    """Completes ``trainer.samples.prompts`` every n steps; prints and records the results on rank 0."""

    def __init__(self, config: PretrainConfig, metrics: Metrics, document_start: DocumentStart) -> None:
        self.config, self.metrics, self.document_start = config.trainer.samples, metrics, document_start
        self.seed = config.seed

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        model: ParamGPT = pl_module
        step, every = trainer.global_step, self.config.every_n_steps
        if every is None or step % every:
            return
        self.metrics.check_all()
        with self.metrics.pause("samples"):
            self._write_samples(trainer, model, step)

    def _write_samples(self, trainer: Trainer, model: ParamGPT, step: int) -> None:
        generator = TrainedText(model, document_start_id(self.document_start, model.tokenizer))
        prompts = list(self.config.prompts)
        model.gpt.eval()
        # The seed depends on the step: a resumed run writes what an uninterrupted one would have written.
        samples = list(
            complete(
                generator, prompts, self.config.inference, batch_size=len(prompts), seed=self.seed + step
            )
        )
        model.gpt.train()
        if trainer.is_global_zero:
            for sample in samples:
                say(f"sample {sample.prompt}|{' '.join(sample.completion.split())}")
                record = {"event": "sample", "step": step}
                self.metrics.directory.append_metrics(
                    record | {"prompt": sample.prompt, "completion": sample.completion}
                )
