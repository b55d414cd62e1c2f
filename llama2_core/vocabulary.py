"""A second language for a trained model: new pieces behind the old ones, as Llama-Chinese did it.

Every old id keeps its meaning, so the model still knows all it knew; new rows of the embeddings begin as the mean of
those of the pieces that the text was cut into before.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from sentencepiece import sentencepiece_model_pb2
from torch import Tensor

from llama2_core.errors import DataError
from llama2_core.interop.pieces import pieces
from llama2_core.interop.source import OpenModel
from llama2_core.tensors import LazyTensor
from llama2_core.tokenizer import Tokenizer


def characters_per_token(tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    return sum(map(len, texts)) / sum(map(len, tokenizer.encode_many(texts)))


def extend_tokenizer(base: Tokenizer, other: Tokenizer) -> Tokenizer:
    """Return the base with the other's pieces that it lacks, in their order, behind its own.

    They are merged after all of the base's: text of the first language is cut as before, unless a new piece joins
    what the base left apart.
    """
    model, added = (sentencepiece_model_pb2.ModelProto.FromString(t.model) for t in (base, other))  # type: ignore
    known = {piece.piece for piece in model.pieces}
    normal = type(added.pieces[0]).NORMAL
    new = [piece for piece in added.pieces if piece.type == normal and piece.piece not in known]
    if not new:
        raise DataError("the second tokenizer has no piece that the first one lacks: train it on other text")
    lowest = min(piece.score for piece in model.pieces)
    for rank, piece in enumerate(sorted(new, key=lambda piece: -piece.score), 1):
        model.pieces.add(piece=piece.piece, score=lowest - rank, type=normal)
    model.trainer_spec.vocab_size = len(model.pieces)
    return Tokenizer(model.SerializeToString())


def extend_model(model: OpenModel, tokenizer: Tokenizer) -> OpenModel:
    """Return the model with rows for the new pieces of `extend_tokenizer(model.tokenizer, ...)`.

    A piece that the old tokenizer does not cut off from what precedes it begins as the mean of all rows.
    """
    old = model.tokenizer
    texts = [piece.text.replace("▁", " ") for piece in pieces(tokenizer)[old.vocab_size :]]
    before = len(old.encode("0"))  # a digit joins nothing, so what follows it is cut as within a text
    parts = [old.encode(f"0{text}")[before:] for text in texts]
    tensors = {
        name: _grown(tensor, parts) if name in ("tok_embeddings.weight", "output.weight") else tensor
        for name, tensor in model.tensors.items()
    }
    config = model.config.model_copy(update={"vocab_size": tokenizer.vocab_size})
    return replace(model, config=config, tokenizer=tokenizer, tensors=tensors)


def _grown(tensor: LazyTensor, parts: Sequence[Sequence[int]]) -> LazyTensor:
    def load() -> Tensor:
        rows = tensor.load()
        means = [(rows[torch.tensor(ids)] if ids else rows).float().mean(0).to(rows.dtype) for ids in parts]
        return torch.cat([rows, torch.stack(means)])

    return replace(tensor, shape=(tensor.shape[0] + len(parts), *tensor.shape[1:]), load=load)
