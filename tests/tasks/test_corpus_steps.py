import json
import zipfile
from pathlib import Path

import pytest
from pydantic import ValidationError

from llama2_core.data.quality import GopherQuality, QualityRules
from llama2_core.errors import DataError
from storage.schemas import DOCUMENTS, DROPPED, read_table
from storage.sources.starter import wikipedia
from tasks.corpus_steps import CorpusRecipe, FileSource, StarterSource, build_corpus, corpus_identity
from tasks.language import identify

SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"
needs_udhr = pytest.mark.skipif(not (SHARED_DATA / "udhr").exists(), reason="no ../shared/data/udhr")
needs_web_text = pytest.mark.skipif(
    not (SHARED_DATA / "web_text").exists(), reason="no ../shared/data/web_text"
)


@pytest.fixture(scope="module")
def article() -> str:
    """Return five hundred words of real prose."""
    wikitext = next(wikitext for _, title, wikitext in wikipedia.articles("en") if title == "Asia")
    return " ".join(wikipedia.plain_text(wikitext).split()[:500])


def build(tmp_path: Path, texts: dict[str, str], **limits) -> tuple[dict, list[dict], list[dict]]:
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    recipe = CorpusRecipe(sources=(FileSource(name="mine", paths=(str(folder),)),), **limits)
    summary = build_corpus(recipe, tmp_path)
    return (
        summary,
        read_table(tmp_path / "documents.parquet", DOCUMENTS),
        read_table(tmp_path / "dropped.parquet", DROPPED),
    )


def test_each_step_drops_its_own(tmp_path, article):
    words = article.split()
    near = " ".join([*words[:250], "an altered place", *words[251:]])
    texts = {
        "a": article,
        "b": article.replace(". ", ".\r\n"),
        "c": near,
        "d": "Too short to keep, though English.",
        "e": "Die Würde des Menschen ist unantastbar. Sie zu achten und zu schützen ist Verpflichtung. " * 2,
        "f": " ".join(shuffled(words)) + " Write to jane@mail.org or call +44 20 7946 0958.",
    }
    summary, kept, dropped = build(tmp_path, texts)
    assert [row["id"] for row in kept] == ["mine/a.txt", "mine/f.txt"]
    assert {row["id"]: (row["step"], row["reason"]) for row in dropped} == {
        "mine/e.txt": ("language", "language de"),
        "mine/d.txt": ("quality", "gopher: too few words"),
        "mine/b.txt": ("exact duplicates", "same text"),
        "mine/c.txt": ("near duplicates", "nearly the same text"),
    }
    detail = {row["id"]: row["detail"] for row in dropped}
    assert detail["mine/d.txt"] == "6 < 50"
    assert detail["mine/b.txt"] == "of mine/a.txt"
    similarity, _, kept_id = detail["mine/c.txt"].partition(" of ")
    assert kept_id == "mine/a.txt" and 0.9 <= float(similarity) < 1
    assert kept[1]["text"].endswith("Write to <email> or call <phone>.")
    assert summary["documents_read"] == 6 and summary["documents_kept"] == 2
    assert summary["characters_kept"] == sum(len(row["text"]) for row in kept)
    assert summary["languages"] == {"en": 5, "de": 1}
    assert summary["scrubbed"] == {"email": 1, "phone": 1}
    assert summary["duplicates"] == {"exact": 1, "near": 1}
    assert summary["drops"][0] == {
        "step": "language",
        "reason": "language de",
        "count": 1,
        "example_id": "mine/e.txt",
    }
    assert summary == json.loads(json.dumps(summary))


def shuffled(words: list[str]) -> list[str]:
    """Return the words in another order, close to the old one, so that no 5-gram survives."""
    return [word for start in range(0, 300, 3) for word in (words[start + 1], words[start], words[start + 2])]


@pytest.mark.parametrize(("threshold", "count"), [(0.7, 1), (0.9, 2)])
def test_near_duplicate_threshold(tmp_path, article, threshold, count):
    texts = {"a": article, "b": " ".join(article.split()[:400])}  # 396 of 496 shingles are shared: 0.80
    _, kept, _ = build(tmp_path, texts, near_duplicate_threshold=threshold)
    assert len(kept) == count


def test_nothing_left_says_which_step_dropped_what(tmp_path):
    with pytest.raises(DataError, match=r"of 2: quality dropped 2 \(gopher: too few words\)\. Relax"):
        build(tmp_path, {"a": "These are but seven words of English.", "b": "And this is English too."})


def test_scrubbing_and_rules_can_be_set(tmp_path):
    rules = QualityRules(gopher=GopherQuality(min_words=3))
    text = "This is the address of my friend: jane@mail.org"
    _, kept, _ = build(tmp_path, {"a": text}, quality=rules, scrub_personal_data=False)
    assert kept[0]["text"] == text


def test_starter_corpus(tmp_path):
    """The whole starter data, for real."""
    summary = build_corpus(CorpusRecipe(), tmp_path)
    assert summary["sources"]["wikipedia-en"]["read"] == 106
    assert summary["sources"]["wikipedia-en"]["kept"] == 102
    assert summary["sources"]["wikipedia-bg"] == {"read": 1, "kept": 0, "characters": 0}
    assert summary["sources"]["python-docs"]["kept"] > 100
    assert summary["sources"]["docstrings"]["kept"] > 300
    assert summary["characters_kept"] > 3_500_000
    assert summary["duplicates"]["exact"] > 20  # help topics overlap
    dropped = {row["id"]: row for row in read_table(tmp_path / "dropped.parquet", DROPPED)}
    bulgarian = dropped["wikipedia-bg/Григориански календар"]
    assert (bulgarian["step"], bulgarian["reason"]) == ("language", "language bg")
    assert (
        len({row["id"] for row in read_table(tmp_path / "documents.parquet", DOCUMENTS)} | set(dropped))
        == (summary["documents_read"])
    )


def test_identity_is_of_content_not_of_paths(tmp_path):
    identities = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text("Text.")
        source = FileSource(name="mine", paths=(str(tmp_path / name),))
        identities.append(corpus_identity(CorpusRecipe(sources=(source, StarterSource(name="docstrings")))))
    assert identities[0] == identities[1]
    assert str(tmp_path) not in json.dumps(identities)


def test_source_names_must_differ():
    twice = (StarterSource(name="docstrings"), StarterSource(name="docstrings"))
    with pytest.raises(ValidationError, match="every source needs a name of its own"):
        CorpusRecipe(sources=twice)


def test_identify():
    assert identify("") == ("unknown", 0.0)
    late = "12345 67890 " * 10 + "All human beings are born free and equal in dignity and rights. " * 5
    language, score = identify(late)
    assert language == "en" and 0.5 < score <= 1


@needs_udhr
@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("English-Latin1", "en"),
        ("German_Deutsch-Latin1", "de"),
        ("Bulgarian_Balgarski-UTF8", "bg"),
        ("Japanese_Nihongo-UTF8", "ja"),
        ("Russian-UTF8", "ru"),
        ("Chinese_Mandarin-UTF8", "zh"),
    ],
)
def test_languages_of_the_human_rights(name, language):
    with zipfile.ZipFile(SHARED_DATA / "udhr/udhr.zip") as archive:
        text = archive.read(f"udhr/{name}").decode(name.rpartition("-")[2], errors="ignore")
    assert identify(text)[0] == language


@needs_web_text
def test_real_web_text(tmp_path):
    source = FileSource(name="web", paths=(str(SHARED_DATA / "web_text" / "c4_demo.jsonl"),))
    summary = build_corpus(CorpusRecipe(sources=(source,)), tmp_path)
    assert summary["documents_read"] == 300
    assert 240 < summary["documents_kept"] < 290
    assert {"gopher: too few words", "gopher: symbols"} <= {drop["reason"] for drop in summary["drops"]}
    assert summary["scrubbed"]["email"] and summary["scrubbed"]["phone"]
