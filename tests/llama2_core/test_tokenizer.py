"""The tokenizer: Llama's own file as the oracle, the trainer's sample, a second language."""

import random
import zipfile
from pathlib import Path

import pytest
import sentencepiece
import torch

from llama2_core.config import ModelConfig
from llama2_core.errors import ConfigError, DataError
from llama2_core.interop import native
from llama2_core.interop.convert import load
from llama2_core.interop.pieces import Kind, Piece, pieces, proto, tokenizer_of
from llama2_core.model import Transformer
from llama2_core.tokenizer import SENTENCE_BYTES, Tokenizer, hashed_sample, train_tokenizer
from llama2_core.training import checkpoint
from llama2_core.vocabulary import characters_per_token, extend_model, extend_tokenizer

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
CHINESE = [
    "人人生而自由,在尊严和权利上一律平等。",
    "他们赋有理性和良心,并应以兄弟关系的精神互相对待。",
    "人人有权享有生命、自由和人身安全。",
    "任何人不得使为奴隶或奴役;一切形式的奴隶制度和奴隶买卖,均应予以禁止。",
    "人人在任何地方有权被承认在法律前的人格。",
] * 4


def declarations() -> list[str]:
    """The Universal Declaration of Human Rights in every language that is UTF-8 there."""
    if not SHARED.is_dir():
        pytest.skip("../shared/data is absent")
    texts = []
    for path in sorted((SHARED / "udhr").glob("*.zip")):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                try:
                    texts.append(archive.read(name).decode("utf-8"))
                except UnicodeDecodeError:
                    continue
    return [text for text in texts if text.strip()]


@pytest.fixture(scope="module")
def llama() -> Tokenizer:
    path = SHARED / "llama2_tokenizer" / "tokenizer.model"
    if not path.exists():
        pytest.skip("../shared/data is absent")
    return Tokenizer.load(path)


def test_ids_equal_the_official_models_own_in_every_language(llama: Tokenizer) -> None:
    """The reference wrapper is sentencepiece's encode, with BOS and EOS put around by hand."""
    reference = sentencepiece.SentencePieceProcessor(model_proto=llama.model)
    texts = declarations()
    assert len(texts) > 300
    assert llama.vocab_size == 32000
    for text in texts:
        ids = llama.encode(text, bos=True, eos=True)
        assert ids == [1, *reference.encode(text), 2]
        assert llama.decode(ids) == reference.decode(ids[1:-1])


def test_the_trainers_flags_are_those_of_the_official_file(llama: Tokenizer, tokenizer: Tokenizer) -> None:
    ours, theirs = (proto.ModelProto.FromString(each.model) for each in (tokenizer, llama))
    for flag in (
        "model_type",
        "split_digits",
        "byte_fallback",
        "allow_whitespace_only_pieces",
        "character_coverage",
        "split_by_unicode_script",
        "split_by_whitespace",
        "split_by_number",
        "treat_whitespace_as_suffix",
        "max_sentencepiece_length",
        "unk_id",
        "bos_id",
        "eos_id",
        "pad_id",
    ):
        assert getattr(ours.trainer_spec, flag) == getattr(theirs.trainer_spec, flag), flag
    for flag in (
        "name",
        "precompiled_charsmap",
        "add_dummy_prefix",
        "remove_extra_whitespaces",
        "escape_whitespaces",
    ):
        assert getattr(ours.normalizer_spec, flag) == getattr(theirs.normalizer_spec, flag), flag
    assert ours.trainer_spec.character_coverage == pytest.approx(0.99995)
    assert ours.normalizer_spec.name == "identity"


SPACES = [
    " ",
    "  the cat",
    "the   cat",
    "the cat    ",
    "def f():\n        return 1\n\n",
    "\t\t the",
    "1  2   3",
]


@pytest.mark.parametrize("text", SPACES)
def test_runs_of_spaces_survive(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text, bos=True, eos=True)) == text


def test_runs_of_spaces_survive_the_official_file(llama: Tokenizer) -> None:
    assert [llama.decode(llama.encode(text)) for text in SPACES] == SPACES


def test_text_is_never_read_as_control_tokens(tokenizer: Tokenizer) -> None:
    assert tokenizer.bos_id not in tokenizer.encode("<s> the cat </s>")
    assert tokenizer.encode("the cat", bos=True, eos=True) == [1, *tokenizer.encode("the cat"), 2]


def test_a_sample_by_hash_ignores_order_and_keeps_its_bound() -> None:
    sentences = [f"sentence number {i}" for i in range(1000)]
    shuffled = sentences.copy()
    random.Random(0).shuffle(shuffled)
    sample = hashed_sample(sentences, 50_000)
    assert sorted(sample) == sorted(hashed_sample(shuffled, 50_000))
    assert 49_700 < sum(len(s.encode()) + SENTENCE_BYTES for s in sample) <= 50_000
    assert hashed_sample(sentences, 10**6) == sentences
    assert hashed_sample(iter(["雪" * 10]), 29 + SENTENCE_BYTES) == []
    assert hashed_sample(iter(["雪" * 10]), 30 + SENTENCE_BYTES) == ["雪" * 10]


def test_neither_empty_nor_short_sentences_fill_the_memory() -> None:
    assert hashed_sample(["", "the cat", ""], 10**6) == ["the cat"]
    assert len(hashed_sample((str(i) for i in range(10_000)), 100_000)) < 500


def test_training_holds_no_more_text_than_its_bound() -> None:
    seen = [0]

    def sentences():
        for i in range(50_000):
            seen[0] += 1
            yield f"the cat sat on mat {i} and the dog ran {i % 97} times " * 4

    trained = train_tokenizer(sentences(), 300, most_bytes=100_000)
    assert seen[0] == 50_000
    assert trained.vocab_size == 300


def test_too_little_text_is_an_error() -> None:
    with pytest.raises(ConfigError, match="vocab_size 5000"):
        train_tokenizer(["the cat"], 5000)


@pytest.fixture(scope="module")
def extended(tokenizer: Tokenizer) -> Tokenizer:
    return extend_tokenizer(tokenizer, train_tokenizer(CHINESE, 360))


def test_an_extended_tokenizer_keeps_every_old_id(tokenizer: Tokenizer, extended: Tokenizer) -> None:
    old, new = pieces(tokenizer), pieces(extended)
    assert new[: len(old)] == old
    assert len({piece.text for piece in new}) == len(new) > len(old) + 30
    text = "the red dog ran to the house with 7 apples [INST] and nine pears today"
    assert extended.encode(text) == tokenizer.encode(text)


def test_an_extended_tokenizer_compresses_the_new_language(tokenizer: Tokenizer, extended: Tokenizer) -> None:
    assert characters_per_token(extended, CHINESE) > 3 * characters_per_token(tokenizer, CHINESE)
    for text in CHINESE:
        assert extended.decode(extended.encode(text)) == text


def test_an_extended_model_says_the_same_and_new_rows_are_means(
    model: Transformer, tokenizer: Tokenizer, extended: Tokenizer, tmp_path: Path
) -> None:
    checkpoint.save_model(tmp_path / "base", model, tokenizer)
    native.write(extend_model(native.read(tmp_path / "base"), extended), tmp_path / "more")
    grown, _ = load(tmp_path / "more")
    tokens = torch.tensor([tokenizer.encode("the cat sat on a mat", bos=True)])
    with torch.no_grad():
        old, new = model(tokens), grown(tokens)
        torch.testing.assert_close(new[..., : tokenizer.vocab_size], old)
        new_id = extended.encode("人人")[-1]
        assert new_id >= tokenizer.vocab_size
        before = tokenizer.encode(pieces(extended)[new_id].text.replace("▁", ""))  # with a prefix of its own
        if not pieces(extended)[new_id].text.startswith("▁"):
            before = before[1:]
        mean = model.tok_embeddings.weight[before].mean(0)
        torch.testing.assert_close(grown.tok_embeddings.weight[new_id], mean)


def test_a_new_piece_that_the_old_tokenizer_swallows_begins_as_the_mean_of_all(
    config: ModelConfig, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Where digits are not split, "012" is one piece, and nothing of it is "12" alone."""
    joined = [Piece(text, score, Kind.NORMAL) for score, text in enumerate(("▁012", "▁01", "▁0"), 1)]
    base = tokenizer_of([*pieces(tokenizer), *joined])
    assert len(base.encode("012")) == len(base.encode("0")) == 1
    model = Transformer(config.model_copy(update={"vocab_size": base.vocab_size}))
    checkpoint.save_model(tmp_path / "base", model, base)
    extended = tokenizer_of([*pieces(base), Piece("12", -1e4, Kind.NORMAL)])
    grown = extend_model(native.read(tmp_path / "base"), extended)
    rows = grown.tensors["tok_embeddings.weight"].load()
    torch.testing.assert_close(rows[-1], model.tok_embeddings.weight.detach().mean(0))


def test_nothing_new_is_an_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="no piece that the first one lacks"):
        extend_tokenizer(tokenizer, tokenizer)
