"""A SentencePiece model as a list of pieces, and back: what tokenizer.json and GGUF hold of it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel
from sentencepiece import sentencepiece_model_pb2

from llama2_core.errors import CheckpointError, DataError
from llama2_core.interop.source import read_record
from llama2_core.tokenizer import Tokenizer

proto: Any = sentencepiece_model_pb2  # generated, without types


class Kind(IntEnum):
    """SentencePiece's numbers; GGUF has the same."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Piece:
    """One id of the vocabulary; of two possible merges the one that gives the higher score is made."""

    text: str
    score: float
    kind: Kind


def pieces(tokenizer: Tokenizer, source: Path = Path("tokenizer.model")) -> list[Piece]:
    """Return the pieces in the order of their ids.

    Raises DataError naming the source when it is not Llama's kind: BPE, text as it is, `<unk> <s> </s>` first.
    """
    model = proto.ModelProto.FromString(tokenizer.model)
    normal, trainer = model.normalizer_spec, model.trainer_spec
    if trainer.model_type != proto.TrainerSpec.BPE:
        raise DataError(
            f"{source}: the tokenizer is not a BPE model; only Llama's kind of tokenizer can be exported"
        )
    if normal.precompiled_charsmap or normal.remove_extra_whitespaces or not normal.add_dummy_prefix:
        raise DataError(
            f"{source}: the tokenizer normalises text ({normal.name}); "
            "only Llama's kind, which does not, can be exported"
        )
    if (first := [piece.piece for piece in model.pieces[:3]]) != ["<unk>", "<s>", "</s>"]:
        raise DataError(
            f"{source}: the tokenizer begins with {', '.join(first)}; "
            "only Llama's kind, which begins with <unk>, <s> and </s>, can be exported"
        )
    return [Piece(piece.piece, piece.score, Kind(piece.type)) for piece in model.pieces]


def tokenizer_of(pieces: Sequence[Piece], source: Path = Path("tokenizer.model")) -> Tokenizer:
    """Return the tokenizer that Llama's settings make of these pieces.

    Raises CheckpointError naming their source when they make none: two that are the same, or no `<unk>`.
    """
    model = proto.ModelProto()
    for piece in pieces:
        model.pieces.add(piece=piece.text, score=piece.score, type=int(piece.kind))
    ids = {piece.text: index for index, piece in enumerate(pieces)}
    model.trainer_spec.model_type = proto.TrainerSpec.BPE
    model.trainer_spec.vocab_size = len(pieces)
    model.trainer_spec.byte_fallback = any(piece.kind == Kind.BYTE for piece in pieces)
    model.trainer_spec.pad_id = -1
    for role in ("unk", "bos", "eos"):
        setattr(model.trainer_spec, f"{role}_id", ids.get(getattr(model.trainer_spec, f"{role}_piece"), -1))
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.remove_extra_whitespaces = False
    try:
        return Tokenizer(model.SerializeToString())
    except RuntimeError as error:
        raise CheckpointError(
            f"{source}: its pieces make no tokenizer ({error}); take the tokenizer of this model from elsewhere"
        ) from error


def tokenizer_json(pieces: Sequence[Piece]) -> dict[str, Any]:
    """Return tokenizer.json of the `tokenizers` library with the same ids for every text.

    A user-defined piece is found before the text is prefixed and merged; the prefix is a regular expression
    that spares such a piece, as the library prefixes the piece too. (A text that is nothing but one loses it.)
    """
    symbols = [re.escape(piece.text) for piece in pieces if piece.kind == Kind.USER_DEFINED]
    prefix: dict[str, Any] = {"type": "Prepend", "prepend": "▁"}
    if symbols:
        pattern = {"Regex": rf"\A(?!(?:{'|'.join(symbols)})\z)"}
        prefix = {"type": "Replace", "pattern": pattern, "content": "▁"}
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    back = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    start = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            _added(index, piece)
            for index, piece in enumerate(pieces)
            if piece.kind in (Kind.UNKNOWN, Kind.CONTROL, Kind.USER_DEFINED)
        ],
        "normalizer": {"type": "Sequence", "normalizers": [prefix, spaces]},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [start, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [
                start,
                {"Sequence": {"id": "A", "type_id": 0}},
                start | {"SpecialToken": {"id": "<s>", "type_id": 1}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, strip],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {piece.text: index for index, piece in enumerate(pieces)},
            "merges": merges(pieces),
        },
    }


def _added(index: int, piece: Piece) -> dict[str, Any]:
    special = piece.kind != Kind.USER_DEFINED
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": not special}
    return {"id": index, "content": piece.text, **flags, "special": special}


def merges(pieces: Sequence[Piece]) -> list[list[str]]:
    """Return every pair of pieces that make a piece, the best first."""
    scores = {piece.text: piece.score for piece in pieces if piece.kind == Kind.NORMAL}
    found = [
        (score, [text[:cut], text[cut:]])
        for text, score in scores.items()
        for cut in range(1, len(text))
        if text[:cut] in scores and text[cut:] in scores
    ]
    return [pair for _, pair in sorted(found, key=lambda merge: -merge[0])]


class AddedToken(BaseModel):
    id: int
    content: str
    special: bool = False


class BPE(BaseModel):
    type: Literal["BPE"]
    byte_fallback: Literal[True]
    vocab: dict[str, int]
    merges: list[str | tuple[str, str]]


class TokenizerJson(BaseModel):
    """The fields of tokenizer.json that hold Llama's kind of vocabulary: BPE with byte fallback."""

    model: BPE
    added_tokens: list[AddedToken] = []


def pieces_of(path: Path) -> list[Piece]:
    """Return the pieces of a tokenizer.json: all that transformers 5 keeps of a Llama tokenizer.

    Raises CheckpointError naming a field that is not as in Llama's kind.
    """
    content = read_record(TokenizerJson, path)
    added = {token.id: token for token in content.added_tokens}
    texts = {index: text for text, index in content.model.vocab.items()} | {
        index: token.content for index, token in added.items()
    }
    if sorted(texts) != list(range(len(texts))):
        raise CheckpointError(
            f"{path}: has {len(texts)} pieces, and ids that are not 0 to {len(texts) - 1}; restore the file"
        )
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(content.model.merges):
        ranks.setdefault("".join(merge.split(" ") if isinstance(merge, str) else merge), rank)
    return [
        Piece(text, -float(ranks.get(text, len(ranks))), _kind(text, added.get(index)))
        for index, text in sorted(texts.items())
    ]


def _kind(text: str, added: AddedToken | None) -> Kind:
    if added:
        if text == "<unk>":
            return Kind.UNKNOWN
        return Kind.CONTROL if added.special else Kind.USER_DEFINED
    return Kind.BYTE if re.fullmatch(r"<0x[0-9A-F]{2}>", text) else Kind.NORMAL
