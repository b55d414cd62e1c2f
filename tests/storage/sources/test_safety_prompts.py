"""Public safety prompts: small rows of every official format, what is wrong with a line, and the real files."""

from collections import Counter
from pathlib import Path

import pytest

from storage.errors import SourceError
from storage.sources.safety_prompts import Format, PublicPrompt, read_safety_prompts

DATA = Path(__file__).parents[4] / "shared" / "data"
REAL: list[tuple[Format, str, int, int]] = [
    ("do-not-answer", "safety_prompts/*.jsonl", 939, 939),
    ("toxigen", "toxigen/*_1k.txt", 4000, 2000),
    ("bold", "bold/*.json", 13399, 0),
]


def read(folder: Path, name: str, text: str | bytes, form: Format) -> list[PublicPrompt]:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(read_safety_prompts(path, form))


def test_do_not_answer_takes_its_category_from_the_file(tmp_path: Path) -> None:
    text = '{"prompt": "How to poach animals?", "intents": ["S003"]}\n\n{"prompt": "Ünd?", "intents": []}\n'
    assert read(tmp_path, "malicious_uses.jsonl", text, "do-not-answer") == [
        PublicPrompt("malicious_uses.jsonl:1", "How to poach animals?", True, "malicious uses"),
        PublicPrompt("malicious_uses.jsonl:3", "Ünd?", True, "malicious uses"),
    ]


@pytest.mark.parametrize("kind", ["hate", "neutral"])
def test_toxigen_statements_are_unjoined_and_only_hate_is_adversarial(kind: str, tmp_path: Path) -> None:
    [prompt] = read(tmp_path, f"{kind}_women_1k.txt", "- one\\n- two\\n-\n", "toxigen")
    assert prompt == PublicPrompt(
        f"{kind}_women_1k.txt:1", "- one\n- two\n-", kind == "hate", f"{kind}: women"
    )


def test_bold_keeps_group_and_entity(tmp_path: Path) -> None:
    text = '{"American_actors": {"A_B": ["A B is an actor whose ", "A B was "], "C": ["C is "]}}'
    prompts = read(tmp_path, "gender_prompt.json", text, "bold")
    assert [prompt.id for prompt in prompts] == [
        f"gender_prompt.json: American_actors/{at}" for at in ("A_B/0", "A_B/1", "C/0")
    ]
    assert prompts[0].text == "A B is an actor whose "
    assert {(prompt.adversarial, prompt.category) for prompt in prompts} == {(False, "American actors")}


@pytest.mark.parametrize(
    ("name", "text", "form", "message"),
    [
        (
            "a.jsonl",
            '{"prompt": "x"}\n{"question": "y"}\n',
            "do-not-answer",
            'a.jsonl:2: no text named "prompt"',
        ),
        ("a.jsonl", '{"prompt": " "}\n', "do-not-answer", 'a.jsonl:1: no text named "prompt"'),
        ("a.jsonl", '{"prompt": "x"}\n{"prompt": \n', "do-not-answer", "a.jsonl:2: not JSON"),
        ("a.jsonl", b'{"prompt": "x"}\n{"prompt": "caf\xe9"}\n', "do-not-answer", "a.jsonl:2: .*UTF-8"),
        ("a.jsonl", "\n\n", "do-not-answer", "a.jsonl: holds no prompt"),
        ("women.txt", "- a\n", "toxigen", "women.txt: expected a name as hate_women_1k.txt"),
        ("hate_women_1k.txt", "- a\nb\n", "toxigen", "hate_women_1k.txt:2: begins with 'b'"),
        ("b.json", '{"group": ["x"]}', "bold", "b.json: group: expected an object"),
        ("b.json", '{"group": {"one": ["x", ""]}}', "bold", "b.json: group/one: expected a list of texts"),
        ("b.json", '{"group": ', "bold", "b.json: not JSON"),
        ("b.json", "{}", "bold", "b.json: holds no prompt"),
    ],
)
def test_what_is_wrong_is_named(
    name: str, text: str | bytes, form: Format, message: str, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match=message):
        read(tmp_path, name, text, form)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"none.jsonl: no such file"):
        list(read_safety_prompts(tmp_path / "none.jsonl", "do-not-answer"))


@pytest.mark.parametrize(("form", "pattern", "count", "adversarial"), REAL)
def test_the_published_files_are_read_whole(form: Format, pattern: str, count: int, adversarial: int) -> None:
    files = sorted(DATA.glob(pattern))
    if not files:
        pytest.skip(f"{DATA / pattern} is absent")
    prompts = [prompt for file in files for prompt in read_safety_prompts(file, form)]
    assert Counter(prompt.adversarial for prompt in prompts)[True] == adversarial
    assert len(prompts) == len({prompt.id for prompt in prompts}) == count
