import json
import random
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from pydantic import ValidationError

from llama2_core.data.quality import GopherQuality, QualityRules
from llama2_core.errors import DataError
from storage.disk import content_digest
from storage.schemas import DOCUMENTS, DROPPED, QUARANTINED, read_table
from storage.sources.starter import wikipedia
from tasks import corpus_sources
from tasks.corpus import build_corpus
from tasks.corpus_recipe import CorpusRecipe, FileSource, StarterSource
from tasks.corpus_sources import corpus_identity
from tasks.language import identify
from tasks.spread import in_turn

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


def rows(directory: Path, kind: str, schema) -> list[dict]:
    return [row for path in sorted((directory / kind).glob("*.parquet")) for row in read_table(path, schema)]


def build(tmp_path: Path, texts: dict[str, str], **limits) -> tuple[dict, list[dict], list[dict]]:
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    recipe = CorpusRecipe(sources=(FileSource(name="mine", paths=(str(folder),)),), **limits)
    summary = build_corpus(recipe, tmp_path)
    return (
        summary,
        rows(tmp_path, "documents", DOCUMENTS),
        rows(tmp_path, "dropped", DROPPED),
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
    assert summary["changes"] == {"email": 1, "phone": 1}
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


def test_a_source_without_survivors_is_counted_and_the_others_go_on(tmp_path, article):
    for name, text in (("kept", article), ("gone", "too short to be prose")):
        (tmp_path / f"{name}.txt").write_text(text)
    sources = tuple(
        FileSource(name=name, paths=(str(tmp_path / f"{name}.txt"),)) for name in ("gone", "kept")
    )
    summary = build_corpus(CorpusRecipe(sources=sources), tmp_path / "corpus")
    kept = {name: (counts["read"], counts["kept"]) for name, counts in summary["sources"].items()}
    assert kept == {"gone": (1, 0), "kept": (1, 1)}
    assert [row["source"] for row in rows(tmp_path / "corpus", "documents", DOCUMENTS)] == ["kept"]


def test_nothing_left_says_which_step_dropped_what(tmp_path):
    with pytest.raises(DataError, match=r"of 2: quality dropped 2 \(gopher: too few words\)\. Relax"):
        build(tmp_path, {"a": "These are but seven words of English.", "b": "And this is English too."})


def test_scrubbing_and_rules_can_be_set(tmp_path):
    rules = QualityRules(gopher=GopherQuality(min_words=3))
    text = "This is the address of my friend: jane@mail.org"
    _, kept, _ = build(tmp_path, {"a": text}, quality=rules, personal_data=None)
    assert kept[0]["text"] == text


def test_a_site_with_much_personal_data_goes_whole(tmp_path, article):
    """Twelve pages of a directory of people go; a page elsewhere that one of them repeats stays."""
    words = article.split()
    draws = random.Random(0)

    def page(mails: int) -> str:
        body = " ".join(draws.sample(words, 200))
        return body + "".join(f" Write to person{draws.random()}@mail.org." for _ in range(mails))

    pages = [{"url": f"https://People.example/{n}", "text": page(6)} for n in range(12)]
    pages += [{"url": f"https://news.example/{n}", "text": page(1)} for n in range(12)]
    pages += [{"url": f"https://small.example/{n}", "text": page(9)} for n in range(9)]
    pages += [{"url": "https://mirror.example/", "text": pages[0]["text"]}]
    (tmp_path / "pages.jsonl").write_text("".join(json.dumps(page) + "\n" for page in pages))
    source = FileSource(name="crawl", paths=(str(tmp_path / "pages.jsonl"),))
    summary = build_corpus(CorpusRecipe(sources=(source,)), tmp_path)
    dropped = rows(tmp_path, "dropped", DROPPED)
    assert {(row["step"], row["reason"], row["detail"], row["kept_id"]) for row in dropped} == {
        ("personal sites", "site with much personal data", "people.example", None)
    }
    assert len(dropped) == 12
    assert summary["documents_kept"] == 12 + 9 + 1
    kept_all = build_corpus(CorpusRecipe(sources=(source,), personal_sites=None), tmp_path / "all")
    assert kept_all["documents_kept"] == 12 + 12 + 9
    assert kept_all["duplicates"] == {"exact": 1, "near": 0}


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
    dropped = {row["id"]: row for row in rows(tmp_path, "dropped", DROPPED)}
    bulgarian = dropped["wikipedia-bg/Григориански календар"]
    assert (bulgarian["step"], bulgarian["reason"]) == ("language", "language bg")
    assert (
        len({row["id"] for row in rows(tmp_path, "documents", DOCUMENTS)} | set(dropped))
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


def test_weights_decide_the_mix_and_not_the_corpus():
    once, often = (CorpusRecipe(sources=(StarterSource(name="docstrings", weight=w),)) for w in (1, 3))
    assert corpus_identity(once) == corpus_identity(often)
    assert often.weights["docstrings"].weight == 3
    assert corpus_identity(once)["sources"][0]["licence"] == "PSF-2.0"
    said = CorpusRecipe(sources=(StarterSource(name="docstrings", licence="mine"),))
    assert corpus_identity(said)["sources"][0]["licence"] == "mine"


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
    assert summary["changes"]["email"] and summary["changes"]["phone"]


def prose(folder: Path, files: int, article: str) -> CorpusRecipe:
    """Write files of lines that are short prose, every third nearly a copy of an earlier one."""
    folder.mkdir()
    random_ = random.Random(0)
    words = article.split()
    texts: list[str] = []
    for number in range(files):
        for line in range(20):
            text = random_.choice(texts).split() if line % 3 == 2 else random_.sample(words, 90)
            text[random_.randrange(len(text))] = random_.choice(words)
            texts.append(" ".join(text))
        rows = [json.dumps({"text": text}) for text in texts[-20:]]
        (folder / f"{number}.jsonl").write_text("\n".join(rows))
    source = FileSource(name="mine", paths=(str(folder),))
    return CorpusRecipe(sources=(source,), quality=QualityRules(gopher=GopherQuality(min_stop_words=0)))


def content(directory: Path) -> dict[str, str]:
    """Return the digests of all that a build leaves, but for its scratch."""
    files = (path for path in sorted(directory.rglob("*")) if path.is_file())
    kept = (path for path in files if "checkpoints" not in path.parts)
    return {str(path.relative_to(directory)): content_digest(path) for path in kept}


def made(recipe: CorpusRecipe, directory: Path, spread=in_turn) -> tuple[dict, dict[str, str]]:
    directory.mkdir(exist_ok=True)
    return build_corpus(recipe, directory, spread), content(directory)


def test_groups_share_their_duplicates(tmp_path, article, monkeypatch):
    recipe = prose(tmp_path / "texts", 6, article)
    together, _ = made(recipe, tmp_path / "one")
    monkeypatch.setattr(corpus_sources, "GROUP_BYTES", 1)
    apart, files = made(recipe, tmp_path / "many")
    assert len([name for name in files if name.startswith("documents/")]) == 6
    assert apart == together
    assert together["duplicates"]["near"] > 20
    one, many = (rows(tmp_path / name, "documents", DOCUMENTS) for name in ("one", "many"))
    assert one == many


@pytest.mark.parametrize("groups_done", range(0, 12, 3))
def test_a_build_that_was_stopped_goes_on_to_the_same_bytes(tmp_path, article, monkeypatch, groups_done):
    monkeypatch.setattr(corpus_sources, "GROUP_BYTES", 1)
    recipe = prose(tmp_path / "texts", 6, article)
    whole = made(recipe, tmp_path / "whole")
    done = []

    def stopped(name, work, groups):
        for group in groups:
            if len(done) == groups_done:
                raise KeyboardInterrupt
            work(group)
            done.append(group.number)

    with pytest.raises(KeyboardInterrupt):
        made(recipe, tmp_path / "part", stopped)
    started = time.time_ns()
    assert made(recipe, tmp_path / "part") == whole
    kept = [path for path in (tmp_path / "part").rglob("counts.json") if path.stat().st_mtime_ns < started]
    assert len(kept) == min(groups_done, 6)


def test_a_kill_between_the_two_tables_of_a_group_loses_neither(tmp_path, article):
    """What was dropped appears first; it does not count as the whole."""
    recipe = prose(tmp_path / "texts", 2, article)
    whole = made(recipe, tmp_path / "corpus")
    dropped, documents = (tmp_path / "corpus" / kind / "00000.parquet" for kind in ("dropped", "documents"))
    assert dropped.stat().st_mtime_ns <= documents.stat().st_mtime_ns
    documents.unlink()
    assert made(recipe, tmp_path / "corpus") == whole


def test_another_field_is_another_corpus(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a", "body": "b"}')
    paths = (str(tmp_path / "a.jsonl"),)
    fields = ({}, {"text_field": "body"}, {"url_field": "link"})
    sources = [FileSource.model_validate({"name": "mine", "paths": paths, **given}) for given in fields]
    identities = [json.dumps(corpus_identity(CorpusRecipe(sources=(source,)))) for source in sources]
    assert len(set(identities)) == 3


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(tmp_path, article, monkeypatch):
    monkeypatch.setattr(corpus_sources, "GROUP_BYTES", 1)
    recipe = prose(tmp_path / "texts", 40, article)
    whole = made(recipe, tmp_path / "whole")
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    code = (
        "import sys; from pathlib import Path; from tasks import corpus_sources; corpus_sources.GROUP_BYTES = 1;"
        "from tasks.corpus import build_corpus; from tasks.corpus_recipe import CorpusRecipe;"
        "recipe = CorpusRecipe.model_validate_json(Path(sys.argv[1]).read_text());"
        "print('begins', flush=True); build_corpus(recipe, Path(sys.argv[2]))"
    )
    directory, random_ = tmp_path / "killed", random.Random(1)
    directory.mkdir()
    for _ in range(20):
        command = [sys.executable, "-c", code, str(tmp_path / "recipe.json"), str(directory)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
            assert process.stdout and process.stdout.readline() == b"begins\n"
            time.sleep(random_.uniform(0, 0.6))
            process.kill()
    assert build_corpus(recipe, directory) == whole[0]
    visible = {
        name: digest for name, digest in content(directory).items() if not Path(name).name.startswith(".")
    }
    assert visible == whole[1]  # a commit sweeps away what a killed write left under a hidden name


def test_what_cannot_be_read_is_set_aside_and_named(tmp_path, article):
    folder = tmp_path / "texts"
    folder.mkdir()
    lines = [
        json.dumps({"text": " ".join(shuffled(article.split()[n:] + article.split()[:n]))}) for n in range(99)
    ]
    (folder / "a.jsonl").write_text("\n".join([*lines[:50], '{"text": ', *lines[50:]]))
    (folder / "b.txt").write_text("")
    source = FileSource(name="mine", paths=(str(folder),))
    summary = build_corpus(CorpusRecipe(sources=(source,)), tmp_path)
    assert summary["documents_read"] == 99
    found = read_table(tmp_path / "quarantined.parquet", QUARANTINED)
    assert [(row["source"], row["reason"]) for row in found] == [("mine", "malformed"), ("mine", "empty")]
    assert found[0]["place"].startswith("a.jsonl:") and found[0]["detail"].startswith("line 51: not JSON")
    with pytest.raises(
        DataError, match=r"1 of 100 documents cannot be read, more than 0%: a\.jsonl:\d+: line 51"
    ):
        build_corpus(CorpusRecipe(sources=(source,), quarantine_share=0.0), tmp_path)


def test_a_file_that_is_not_utf_8_is_named(tmp_path):
    (tmp_path / "old.txt").write_bytes("Müller".encode("latin-1"))
    source = FileSource(name="mine", paths=(str(tmp_path / "old.txt"),))
    with pytest.raises(DataError, match=r"old\.txt: byte 1 \(0xfc\) is not UTF-8; if the file is ISO-8859-1"):
        build_corpus(CorpusRecipe(sources=(source,)), tmp_path)
