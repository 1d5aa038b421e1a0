"""The tokens that ``inference.logit_bias`` means."""

from __future__ import annotations

from typing import Any

from recipes.config.logit_bias import KEY, read_logit_bias
from recipes.console import shown
from recipes.data.tokenizer import TextTokenizer
from recipes.errors import UserError


def token_biases(setting: Any, tokenizer: TextTokenizer) -> dict[int, float]:
    """Id -> what is added to its logit.

    Text is looked up as a token's own spelling first ("▁the"), then as text of one token (" the").

    Raises:
        UserError: an id or text is no token.
    """
    biases = read_logit_bias(setting)
    spelled: dict[str, int] = {}
    if any(isinstance(token, str) for token in biases):
        spelled = {tokenizer.id_to_piece(number): number for number in range(tokenizer.vocab_size)}
    found: dict[int, float] = {}
    for token, bias in biases.items():
        number = token if isinstance(token, int) else _of_text(token, spelled, tokenizer)
        if number >= tokenizer.vocab_size:
            raise UserError(f"{KEY}: id {number:,} does not exist; ids run to {tokenizer.vocab_size - 1:,}")
        if number in found:
            raise UserError(f"{KEY}: {shown(token)} is token {number:,}, which is named twice")
        found[number] = bias
    return found


def _of_text(text: str, spelled: dict[str, int], tokenizer: TextTokenizer) -> int:
    if text in spelled:
        return spelled[text]
    ids = tokenizer.encode(text)
    if len(ids) != 1:
        pieces = ", ".join(f"{number} ({shown(tokenizer.id_to_piece(number))})" for number in ids)
        raise UserError(f"{KEY}: {shown(text)} is not one token but {len(ids)}: {pieces}; name single ones")
    return ids[0]
