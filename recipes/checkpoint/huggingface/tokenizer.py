"""Writes a SentencePiece model as a Hugging Face tokenizer: tokenizer.model, tokenizer.json and its settings.

tokenizer.json gives the ids that :class:`SentencePieceTokenizer` gives, NFC included. Known differences (each
is tested):

- Special tokens written out in a text (``<s>``) are those tokens for the tokenizers library. SentencePiece
  reads them as text, and so does transformers: tokenizer_config.json has ``split_special_tokens``, unless a
  chat template comes with the model, whose turns are written with such tokens.
- Bytes that are not UTF-8 decode to one U+FFFD for every byte of the run that they are in; SentencePiece
  keeps the run's whole characters.
- Unigram models whose best segmentations nearly tie: SentencePiece adds scores in 32 bits, tokenizers in 64.
  In the generated corpus there is no such case.
- Models without byte fallback: SentencePiece decodes the unknown token to " ⁇ ".

With byte fallback and no dummy prefix, as this project trains them, pieces are written with plain spaces
instead of SentencePiece's U+2581, which is then an ordinary character, as it is in SentencePiece. Other
models read that character as a space; where they remove extra spaces, tokenizer.json does not remove it.

Models with normalisation rules (nmt_nfkc and the like) get no tokenizer.json: the tokenizers library applies
the rules to whole groups of characters, so that marks (of Devanagari too) after certain characters are lost.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.data.samples.document_start import DocumentStart, document_start_id
from recipes.data.tokenizer import TextTokenizer
from recipes.data.tokenizer.sentencepiece_model import SentencePieceTokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPACE = "▁"  # U+2581
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
UNIGRAM, BPE = 1, 2
# What every exported tokenizer is compared on before it is written.
PROBES = (
    "The river rises in the hills, 1,200 km from the sea (3.14%).",
    "नदी पहाड़ों से निकलती है और १२०० किलोमीटर चलकर समुद्र में मिलती है।",
    "  leading and   several spaces ",
    "tabs\tand\nnewlines\r\n\n and\u00a0other\u2003spaces\u200b",
    "\x00\x01\x1f\x7f control",
    "क\u200dष क\u200cष 🙂 👩\u200d👩\u200d👧 \U0001f1ee\U0001f1f3 漢字 ﬁ x² e\u0301",
    "<0x0A> <0xE2> aaaaaaa ababababa        ........",
    "",
)


class CannotExpress(Exception):
    """The model does something that tokenizer.json cannot express."""


@dataclass(frozen=True)
class SpecialIds:
    """Ids for config.json and generation_config.json."""

    bos: int | None
    """What readers put before prompts. Not the tokenizer's own BOS where documents began with another token
    or with none."""
    eos: int
    pad: int | None


def special_ids(tokenizer: TextTokenizer, document_start: DocumentStart) -> SpecialIds:
    """The ids of a model whose training documents began with ``document_start``."""
    bos = document_start_id(document_start, tokenizer)
    return SpecialIds(bos=bos, eos=tokenizer.eos_id, pad=tokenizer.pad_id)


def write_tokenizer(
    directory: Path, model_file: Path, *, document_start: DocumentStart, max_length: int
) -> list[str]:
    """Writes tokenizer.model, tokenizer.json and tokenizer_config.json.

    Args:
        directory: where they go.
        model_file: a SentencePiece model.
        document_start: which token encoding puts before a text.
        max_length: the model's longest sequence.

    Returns:
        Warnings: why there is tokenizer.model alone, if so.

    Raises:
        UserError: it is no SentencePiece model.
    """
    tokenizer = SentencePieceTokenizer(model_file.read_bytes(), str(model_file))
    shutil.copyfile(model_file, directory / "tokenizer.model")
    try:
        fast = build_fast_tokenizer(model_file.read_bytes(), tokenizer, document_start)
        check_probes(fast, tokenizer)
    except CannotExpress as reason:
        return [
            f"{model_file.name}: {reason}; only tokenizer.model is written, which transformers reads with "
            "classes of its own (LlamaTokenizer) or not at all"
        ]
    fast.save(str(directory / "tokenizer.json"))
    prefix_space = adds_prefix_space(model_file.read_bytes())
    settings = _settings(tokenizer, document_start, max_length, prefix_space=prefix_space)
    text = json.dumps(settings, ensure_ascii=False, indent=2) + "\n"
    (directory / "tokenizer_config.json").write_text(text, encoding="utf-8")
    return []


def build_fast_tokenizer(
    model: bytes, tokenizer: SentencePieceTokenizer, document_start: DocumentStart
) -> Tokenizer:
    """The same tokenizer for the ``tokenizers`` library; ``model`` is the file that ``tokenizer`` came from.

    Raises:
        CannotExpress: the model does something that the library cannot do.
    """
    from tokenizers import AddedToken, Tokenizer, processors

    proto = _proto(model)
    _refuse_inexpressible(proto)
    plain_spaces = (
        proto.trainer_spec.byte_fallback
        and not proto.normalizer_spec.add_dummy_prefix
        and not proto.normalizer_spec.remove_extra_whitespaces
    )
    space = " " if plain_spaces else SPACE
    pieces = [piece.piece.replace(SPACE, space) for piece in proto.pieces]
    fast = Tokenizer(_bpe(proto, pieces) if proto.trainer_spec.model_type == BPE else _unigram(proto, pieces))
    fast.normalizer = _normalizer(proto.normalizer_spec, space)
    splitter = _name_splitter(proto)
    if splitter is not None:
        fast.pre_tokenizer = splitter
    fast.decoder = _decoder(proto.normalizer_spec, space)
    for piece, name in zip(proto.pieces, pieces, strict=True):
        if piece.type in (CONTROL, UNKNOWN):
            fast.add_special_tokens([AddedToken(name, special=True, normalized=False)])
        elif piece.type == USER_DEFINED:
            fast.add_tokens([AddedToken(name, special=False, normalized=True)])
    start = document_start_id(document_start, tokenizer)
    if start is not None:
        name = pieces[start]
        fast.post_processor = processors.TemplateProcessing(
            single=[name, "$A"], pair=[name, "$A", "$B"], special_tokens=[(name, start)]
        )
    return fast


def adds_prefix_space(model: bytes) -> bool:
    """Whether a SentencePiece model puts a space before every text; llama.cpp asks tokenizer_config.json."""
    return bool(_proto(model).normalizer_spec.add_dummy_prefix)


def is_unigram(model: bytes) -> bool:
    """Whether a SentencePiece model chooses the likeliest segmentation rather than merging pairs."""
    return bool(_proto(model).trainer_spec.model_type == UNIGRAM)


def _proto(model: bytes) -> Any:
    from sentencepiece import sentencepiece_model_pb2

    return sentencepiece_model_pb2.ModelProto.FromString(model)  # type: ignore[attr-defined]


def check_probes(fast: Tokenizer, tokenizer: SentencePieceTokenizer) -> None:
    """Compares ids and decoded texts on PROBES.

    Raises:
        CannotExpress: they differ.
    """
    for text in PROBES:
        expected = tokenizer.encode(text)
        ids = fast.encode(text, add_special_tokens=False).ids
        if ids != expected:
            raise CannotExpress(f"tokenizer.json would encode {text[:40]!r} as {ids[:8]}, not {expected[:8]}")
        if tokenizer.unk_id not in ids and fast.decode(ids) != tokenizer.decode(ids):
            raise CannotExpress(f"tokenizer.json would decode {text[:40]!r} differently")


def _refuse_inexpressible(proto: Any) -> None:
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    if trainer.model_type not in (UNIGRAM, BPE):
        raise CannotExpress("it is neither a unigram nor a BPE model")
    if trainer.treat_whitespace_as_suffix or not normalizer.escape_whitespaces:
        raise CannotExpress("it treats spaces in a way of its own")
    if normalizer.precompiled_charsmap:
        raise CannotExpress(
            f"its normalisation rules ({normalizer.name or 'unnamed'}) would treat some marks differently"
        )
    if any(" " in piece.piece for piece in proto.pieces):
        raise CannotExpress("it has pieces with plain spaces")
    kinds = {piece.type for piece in proto.pieces}
    if UNUSED in kinds:
        raise CannotExpress("some of its pieces are unused and segmented again")
    if USER_DEFINED in kinds and (trainer.model_type == UNIGRAM or normalizer.add_dummy_prefix):
        raise CannotExpress("it has user-defined symbols")
    normal = {piece.piece for piece in proto.pieces if piece.type in (NORMAL, USER_DEFINED)}
    for piece in proto.pieces:
        if piece.type == NORMAL and not all(character in normal for character in piece.piece):
            raise CannotExpress(f"its piece {piece.piece!r} has a character that is not a piece")


def _unigram(proto: Any, pieces: list[str]) -> Any:
    from tokenizers import models

    scores = [(name, float(piece.score)) for name, piece in zip(pieces, proto.pieces, strict=True)]
    unknown = next(number for number, piece in enumerate(proto.pieces) if piece.type == UNKNOWN)
    return models.Unigram(scores, unk_id=unknown, byte_fallback=proto.trainer_spec.byte_fallback)


def _bpe(proto: Any, pieces: list[str]) -> Any:
    from tokenizers import models

    scores = {
        name: piece.score for name, piece in zip(pieces, proto.pieces, strict=True) if piece.type == NORMAL
    }
    merges = [
        pair for name in sorted(scores, key=lambda name: -scores[name]) for pair in _pairs(name, scores)
    ]
    unknown = next(name for name, piece in zip(pieces, proto.pieces, strict=True) if piece.type == UNKNOWN)
    return models.BPE(
        vocab={name: number for number, name in enumerate(pieces)},
        merges=merges,
        unk_token=unknown,
        fuse_unk=True,
        byte_fallback=proto.trainer_spec.byte_fallback,
    )


def _pairs(name: str, known: dict[str, float]) -> Iterator[tuple[str, str]]:
    """Every two pieces that SentencePiece would merge into this one: it looks only at the result."""
    for place in range(1, len(name)):
        if name[:place] in known and name[place:] in known:
            yield name[:place], name[place:]


def _normalizer(spec: Any, space: str) -> Any:
    from tokenizers import Regex, normalizers

    steps: list[Any] = [normalizers.NFC()]  # As TextTokenizer normalises every text.
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(space))
    if space != " ":
        steps.append(normalizers.Replace(" ", space))
    return normalizers.Sequence(steps)


def _name_splitter(proto: Any) -> Any:
    """Keeps unigram models from reading the names of bytes and special tokens in a text as these pieces.

    Such a name is cut in two where no piece goes on, so that it cannot be found as a whole and nothing else
    is segmented otherwise.
    """
    from tokenizers import Regex, pre_tokenizers

    if proto.trainer_spec.model_type != UNIGRAM:
        return None
    pieces = [piece.piece for piece in proto.pieces if piece.type == NORMAL]
    names = [piece.piece for piece in proto.pieces if piece.type in (CONTROL, UNKNOWN)]
    cuts = [cut for name in names if (cut := _cut(name, pieces)) is not None]
    if proto.trainer_spec.byte_fallback:
        if any("<0" in piece for piece in pieces):
            raise CannotExpress("it has pieces that begin as the names of bytes do")
        cuts.append("<(?=0x[0-9A-F]{2}>)")
    return pre_tokenizers.Split(Regex("|".join(cuts)), behavior="merged_with_previous") if cuts else None


def _cut(name: str, pieces: list[str]) -> str | None:
    """A regular expression for a beginning of ``name`` after which no piece goes on; None: there is none."""
    for place in range(1, len(name)):
        begin, rest = name[:place], name[place:]
        if not any(begin[-1] in piece and _goes_over(piece, begin, rest) for piece in pieces):
            return f"{re.escape(begin)}(?={re.escape(rest)})"
    return None


def _goes_over(piece: str, begin: str, rest: str) -> bool:
    """Whether the piece fits over the seam of the two texts, as far as it reaches to both sides."""
    return any(
        begin.endswith(piece[:place][-len(begin) :]) and rest.startswith(piece[place:][: len(rest)])
        for place in range(1, len(piece))
    )


def _decoder(spec: Any, space: str) -> Any:
    from tokenizers import decoders

    steps: list[Any] = [] if space == " " else [decoders.Replace(space, " ")]
    steps += [decoders.ByteFallback(), decoders.Fuse()]
    if spec.add_dummy_prefix:
        # SentencePiece drops the first space, or, where it removes extra spaces, all leading ones.
        steps.append(decoders.Strip(" ", 2**16 if spec.remove_extra_whitespaces else 1, 0))
    return decoders.Sequence(steps)


def _settings(
    tokenizer: SentencePieceTokenizer, document_start: DocumentStart, max_length: int, *, prefix_space: bool
) -> dict[str, Any]:
    """tokenizer_config.json."""
    ids = special_ids(tokenizer, document_start)
    # The token has its name even if nothing puts it before texts.
    bos = tokenizer.bos_id if ids.bos is None else ids.bos
    named = {"bos_token": bos, "eos_token": ids.eos, "unk_token": tokenizer.unk_id, "pad_token": ids.pad}
    names = {key: tokenizer.id_to_piece(token) for key, token in named.items() if token is not None}
    added = {
        str(token): {
            "content": tokenizer.id_to_piece(token),
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for token in sorted({token for token in named.values() if token is not None})
    }
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **names,
        "add_bos_token": ids.bos is not None,
        "add_eos_token": False,
        "added_tokens_decoder": added,
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
        # llama.cpp's converter reads it here, not in tokenizer.model; missing, it means true.
        "add_prefix_space": prefix_space,
        "split_special_tokens": True,
    }
