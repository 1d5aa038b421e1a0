"""Cases about models that are split over processes for completion."""

from __future__ import annotations

from typing import Any


def complete_case(path: str, layout: tuple[int, int], settings: dict[str, Any]) -> list[Any]:
    """Completions, streamed text and scores, as every rank gets them."""
    from dataclasses import asdict

    from recipes.config.schema import InferenceConfig, ParallelConfig
    from recipes.config.world import launched_world
    from recipes.inference.complete import complete, prompt_ids, score, stream
    from recipes.inference.text_model import load_text_model

    model = load_text_model(
        path, precision="fp32", num_threads=1, parallel=ParallelConfig(*layout), world=launched_world()
    )
    inference = InferenceConfig(**settings)
    prompts = ["The farmer walks to", "किसान नदी", "A"]
    results: list[Any] = [
        asdict(result) for result in complete(model, prompts, inference, batch_size=2, seed=5)
    ]
    row = prompt_ids(model, prompts[1], inference)
    results.append("".join(stream(model, row, inference, seed=5)))
    results += [asdict(result) for result in score(model, prompts[:2], inference)]
    return results
