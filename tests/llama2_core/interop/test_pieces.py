"""The tokenizer in other libraries' files: the same ids for every text."""

import json
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llama2_core.errors import CheckpointError, DataError
from llama2_core.interop import huggingface
from llama2_core.interop.convert import convert
from llama2_core.interop.pieces import Kind, pieces, pieces_of, tokenizer_json, tokenizer_of
from llama2_core.interop.sentences import SENTENCES
from llama2_core.tensors import write_json
from llama2_core.tokenizer import Tokenizer

SHARED_DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
HARD = [
    "",
    " ",
    "   ",
    " two  spaces ",
    "a\n\n\tb\r\n",
    "1234567890",
    "🦙👩‍👩‍👧",
    "e\u0301 ﬁ ① Å",
    "\x00\x7f",
    "<0x41>",
    "[INST]the[/INST]",
]


def transformers_of(tokenizer: Tokenizer, directory: Path) -> PreTrainedTokenizerFast:
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer_json(pieces(tokenizer))))
    return PreTrainedTokenizerFast(tokenizer_file=str(directory / "tokenizer.json"))


def test_the_table_has_twenty_scripts() -> None:
    assert len(SENTENCES) == 20
    for script, text in SENTENCES.items():
        letters = [character for character in text if character.isalpha()]
        named = [character for character in letters if unicodedata.name(character).startswith(script)]
        assert len(named) > len(letters) / 3, script


def test_transformers_gives_our_ids(any_tokenizer: Tokenizer, tmp_path: Path) -> None:
    theirs = transformers_of(any_tokenizer, tmp_path)
    for text in [*SENTENCES.values(), *HARD]:
        ids = any_tokenizer.encode(text)
        assert theirs.encode(text, add_special_tokens=False) == ids, text
        assert theirs.encode(text) == [any_tokenizer.bos_id, *ids]
        assert theirs.decode(ids) == text


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED_DATA / "udhr").exists(), reason="no ../shared/data/udhr")
def test_transformers_gives_our_ids_in_every_language(any_tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Every declaration, whole, by line."""
    theirs = transformers_of(any_tokenizer, tmp_path)
    texts = []
    for archive in sorted((SHARED_DATA / "udhr").glob("*.zip")):
        with zipfile.ZipFile(archive) as opened:
            texts += [opened.read(name).decode(errors="replace") for name in opened.namelist()]
    assert len(texts) > 300
    lines = list(dict.fromkeys(line for text in texts for line in text.splitlines()))
    found = theirs(lines, add_special_tokens=False, return_attention_mask=False).input_ids
    for line, ids, expected in zip(lines, found, any_tokenizer.encode_many(lines), strict=True):
        assert ids == expected, line


def test_pieces_make_the_tokenizer_again(any_tokenizer: Tokenizer, tmp_path: Path) -> None:
    """From the pieces themselves, as GGUF holds them, and from tokenizer.json."""
    listed, path = pieces(any_tokenizer), tmp_path / "tokenizer.json"
    write_json(path, tokenizer_json(listed))
    for made in (tokenizer_of(listed), tokenizer_of(pieces_of(path))):
        assert (made.vocab_size, made.bos_id, made.eos_id) == (any_tokenizer.vocab_size, 1, 2)
        assert [piece.kind for piece in pieces(made)] == [piece.kind for piece in listed]
        for text in [*SENTENCES.values(), *HARD]:
            assert made.encode(text) == any_tokenizer.encode(text)
            assert made.decode(any_tokenizer.encode(text)) == text


def test_the_kinds_of_the_first_pieces(tokenizer: Tokenizer) -> None:
    listed = pieces(tokenizer)
    assert [(piece.text, piece.kind) for piece in listed[:3]] == [
        ("<unk>", Kind.UNKNOWN),
        ("<s>", Kind.CONTROL),
        ("</s>", Kind.CONTROL),
    ]
    assert {piece.text for piece in listed if piece.kind == Kind.USER_DEFINED} == {"[INST]", "[/INST]"}
    assert sum(piece.kind == Kind.BYTE for piece in listed) == 256


def test_what_transformers_saves_of_a_tokenizer_is_enough(
    make: Callable[..., Path], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """transformers 5 saves tokenizer.json and no tokenizer.model."""
    convert(make(), tmp_path / "export", "huggingface")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "export")
    (tmp_path / "export" / "tokenizer.model").unlink()
    loaded.save_pretrained(tmp_path / "export")
    found = huggingface.read(tmp_path / "export").tokenizer
    for text in [*SENTENCES.values(), *HARD]:
        assert found.encode(text) == tokenizer.encode(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_type": "unigram", "normalization_rule_name": "identity"}, "not a BPE model"),
        ({"model_type": "bpe", "normalization_rule_name": "nmt_nfkc"}, "normalises text"),
        (
            {
                "model_type": "bpe",
                "normalization_rule_name": "identity",
                "remove_extra_whitespaces": False,
                "bos_piece": "[B]",
            },
            r"begins with <unk>, \[B\], </s>; only Llama's kind",
        ),
    ],
)
def test_another_kind_of_tokenizer_is_refused(options: dict, message: str, tmp_path: Path) -> None:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the cat sat on the mat with nine pears"] * 20),
        model_prefix=str(tmp_path / "other"),
        vocab_size=40,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    path = tmp_path / "other.model"
    with pytest.raises(DataError, match=rf"other\.model: the tokenizer .*{message}"):
        pieces(Tokenizer.load(path), path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"byte_fallback": False}, "model.byte_fallback: Input should be True"),
        ({"type": "Unigram"}, "model.type: Input should be 'BPE'"),
        ({"vocab": None}, "model.vocab: Input should be a valid dictionary"),
        ({"merges": None}, "model.merges: Input should be a valid list"),
        ({"vocab": {"<unk>": 0, "a": 7}}, "ids that are not 0 to"),
    ],
)
def test_a_tokenizer_json_of_another_kind_is_refused(
    change: dict, message: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    content = tokenizer_json(pieces(tokenizer))
    write_json(tmp_path / "tokenizer.json", content | {"model": content["model"] | change})
    with pytest.raises(CheckpointError, match=rf"tokenizer\.json: .*{message}"):
        pieces_of(tmp_path / "tokenizer.json")


def test_pieces_that_make_no_tokenizer_are_refused(tokenizer: Tokenizer) -> None:
    listed = pieces(tokenizer)
    with pytest.raises(CheckpointError, match=r"a\.json: its pieces make no tokenizer .*is already defined"):
        tokenizer_of([*listed, listed[-1]], Path("a.json"))
