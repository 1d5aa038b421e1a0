"""Asks llama.cpp about a GGUF file: run by a Python that has llama-cpp-python and may lack all else.

One JSON object comes in and one goes out, see recipes/release/llama_cpp.py, which hands this text to it.
"""

import json
import sys
from typing import Any

import llama_cpp
import numpy


def answers(asked: dict[str, Any]) -> dict[str, Any]:
    """Token ids of texts, logits and greedy continuations of token ids, a completion as users ask for one."""
    fp32 = llama_cpp.GGML_TYPE_F32  # Keys and values are kept in fp16 unless it is told otherwise.
    model = llama_cpp.Llama(
        asked["gguf"],
        n_ctx=asked["context"],
        logits_all=True,
        verbose=False,
        n_threads=asked["threads"],
        type_k=fp32,
        type_v=fp32,
    )
    ids = [model.tokenize(text.encode(), add_bos=False, special=False) for text in asked["texts"]]
    greedy = []
    for prompt in asked["prompts"]:
        model.reset()
        found = []
        for token in model.generate(prompt, temp=0.0, repeat_penalty=1.0):
            found.append(token)
            if len(found) == asked["length"]:
                break
        greedy.append(found)
    model.reset()
    model.eval(asked["prompts"][0])
    logits = numpy.array(model.scores[: len(asked["prompts"][0])]).tolist()
    model.reset()
    text = model(asked["texts"][0], max_tokens=asked["length"], temperature=0)["choices"][0]["text"]
    return {
        "ids": ids,
        "greedy": greedy,
        "logits": logits,
        "text": text,
        "version": llama_cpp.__version__,
    }


json.dump(answers(json.load(sys.stdin)), sys.stdout)
