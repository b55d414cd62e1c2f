"""SentencePiece BPE as Llama 2 uses it: byte fallback, every digit its own token. Llama 2 section 2.2."""

import hashlib
import heapq
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece

from llama2_core.errors import ConfigError, DataError

SAMPLE_BYTES = 200_000_000
"""Most text that a trainer is given, unless it is told otherwise."""
SENTENCE_BYTES = 200
"""What Python keeps around each sentence of a sample."""


class Tokenizer:
    """Text to ids and back. Ids: 0 unknown, 1 BOS, 2 EOS, 3 to 258 the bytes, then the pieces."""

    def __init__(self, model: bytes) -> None:
        self.model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.vocab_size: int = self._processor.vocab_size()
        self.bos_id: int = self._processor.bos_id()
        self.eos_id: int = self._processor.eos_id()

    @property
    def digest(self) -> str:
        """SHA-256 of the model file."""
        return hashlib.sha256(self.model).hexdigest()

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        if not path.is_file():
            raise DataError(f"{path}: no tokenizer model here")
        try:
            tokenizer = cls(path.read_bytes())
        except RuntimeError as error:
            raise DataError(f"{path}: not a SentencePiece model; copy it again") from error
        if not tokenizer.vocab_size:
            raise DataError(f"{path}: has no pieces, expected 1 at least; copy it again")
        return tokenizer

    def encode(self, text: str, *, bos: bool = False, eos: bool = False) -> list[int]:
        """Encode text, never reading `<s>` in it as a control token, and add BOS or EOS on request."""
        return [self.bos_id] * bos + self._processor.encode(text) + [self.eos_id] * eos

    def encode_many(self, texts: Sequence[str], threads: int = 1) -> list[list[int]]:
        """Encode texts in parallel, with neither BOS nor EOS."""
        return self._processor.encode(list(texts), num_threads=threads)

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids; BOS and EOS vanish."""
        return self._processor.decode([i for i in ids if i not in (self.bos_id, self.eos_id)])


def hashed_sample(sentences: Iterable[str], most_bytes: int) -> list[str]:
    """Return the sentences of lowest hash that fit in `most_bytes`, in their order; all, if they fit.

    A sentence counts as its UTF-8 and SENTENCE_BYTES; empty ones are left out. Which are kept depends on the set of
    sentences only, so neither order nor sharding matters.
    """
    kept: list[tuple[int, int, str]] = []  # a heap with the highest hash on top
    total = 0
    for place, sentence in enumerate(filter(None, sentences)):
        text = sentence.encode()
        rank = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())
        heapq.heappush(kept, (-rank, place, sentence))
        total += len(text) + SENTENCE_BYTES
        while total > most_bytes:
            total -= len(heapq.heappop(kept)[2].encode()) + SENTENCE_BYTES
    return [sentence for _, _, sentence in sorted(kept, key=lambda item: item[1])]


def train_tokenizer(
    sentences: Iterable[str],
    vocab_size: int,
    symbols: Sequence[str] = (),
    threads: int = 1,
    most_bytes: int = SAMPLE_BYTES,
) -> Tokenizer:
    """Train a BPE tokenizer of `vocab_size` pieces; `symbols` become pieces of their own.

    Flags follow Llama's model file: identity normalisation, whitespace kept, digits split, bytes as fallback. At most
    `most_bytes` of text are held in memory, see `hashed_sample`. Raises ConfigError when the text is too small for
    the vocabulary.
    """
    model = io.BytesIO()
    sample = hashed_sample(sentences, most_bytes)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sample),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            user_defined_symbols=list(symbols),
            byte_fallback=True,
            split_digits=True,
            allow_whitespace_only_pieces=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            character_coverage=0.99995,
            max_sentence_length=1 << 20,
            num_threads=threads,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ConfigError(
            f"the tokenizer could not be trained at vocab_size {vocab_size}: {error}"
        ) from error
    return Tokenizer(model.getvalue())
