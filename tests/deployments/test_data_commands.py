"""`llama2 data`: what is wrong with files is said before anything runs, and a corpus can be looked into."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deployments import data_tables
from deployments.cli import main
from llama2_core.data.quality import GopherQuality, QualityRules
from storage.artifacts import Artifact, Store, digest_of
from storage.sources import parts
from storage.sources.starter import wikipedia
from tasks.corpus import build_corpus
from tasks.corpus_recipe import CorpusRecipe, FileSource
from tasks.corpus_sources import corpus_identity

ROOT = Path(__file__).parents[2]
Command = Callable[..., tuple[int, str]]
MEASURED = {"version": 1, "wall_seconds": 1.0, "cpu_seconds": 1.0, "peak_memory_bytes": 1}
HOSTILE = """c[red]it's "x"[/].txt"""


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `llama2 data WORDS`; return its exit status and what it printed."""

    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["llama2", "data", *map(str, words)])
        monkeypatch.setenv("COLUMNS", "400")
        monkeypatch.setattr(data_tables.console, "width", 200)
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out + said.err

    return run


def test_every_place_that_cannot_be_read_is_named(data: Command, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "bad.jsonl").write_text('{"text": "fine"}\n\n{"text": \n{"text": " "}\n{"body": "x"}\n')
    lines = "".join(f'{{"text": "{n * 7919}"}}\n' for n in range(1000))
    (folder / "torn.jsonl.gz").write_bytes(gzip.compress(lines.encode())[:-100])
    (folder / "old.txt").write_bytes("Müller".encode("latin-1"))
    status, said = data("validate", folder, "--json")
    [report] = json.loads(said)
    assert status == 1 and not report["ok"]
    assert report["unreadable"] == {"malformed": 1, "no text": 1, "not UTF-8": 1, "damaged": 1}
    assert 500 < report["documents"] < 1002 and report["without_text"] == 1
    status, said = data("validate", folder)
    assert status == 1
    assert "bad.jsonl:18 malformed: line 3: not JSON" in said
    assert 'bad.jsonl:42 no text: line 5: no string named "text"; the fields are "body"' in said
    assert "old.txt not UTF-8: byte 1 (0xfc) is not UTF-8" in said
    assert "torn.jsonl.gz damaged: the file is left after" in said


def test_what_can_be_read_is_counted(data: Command, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("body,link\nHello,http://x.org\n")
    (tmp_path / "b.txt").write_text("")
    status, said = data("validate", tmp_path, "--text-field", "body", "--json")
    [report] = json.loads(said)
    assert status == 0 and report["ok"]
    assert (report["documents"], report["characters"]) == (1, 5)
    assert report["unreadable"] == {"empty": 1}
    assert data("validate", tmp_path / "b.txt")[0] == 1


def test_the_first_twenty_places_or_all(data: Command, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' + "[]\n" * 30)
    assert "line 21:" in data("validate", tmp_path)[1]
    _, said = data("validate", tmp_path)
    assert "line 22:" not in said and "and 10 more places" in said
    _, said = data("validate", tmp_path, "--all")
    assert "line 31:" in said and "more places" not in said


def test_a_line_far_into_a_large_file_keeps_its_number(
    data: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts.parts, "__defaults__", (64,))  # bytes a part, as the corpus stage would cut
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' * 99 + "[]\n")
    assert len(parts.parts([str(tmp_path)])) > 20
    assert "line 100: not an object" in data("validate", tmp_path)[1]


def test_ids_that_repeat_are_counted(data: Command, tmp_path: Path) -> None:
    pytest.importorskip("fastwarc", reason="needs the extra data: resiliparse")
    block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<p>A page of some words.</p>"
    pages = b""
    for name in (1, 2, 1, 1):
        head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:{name}>\r\n"
        head += f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(block)}\r\n\r\n"
        pages += head.encode() + block + b"\r\n\r\n"
    (tmp_path / "a.warc").write_bytes(pages)
    status, said = data("validate", tmp_path, "--json")
    [report] = json.loads(said)
    assert status == 0
    assert (report["documents"], report["duplicate_ids"]) == (4, 2)


def test_all_that_a_profile_lacks_is_named_before_any_is_read(data: Command, tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"\xff\xff")
    profile = tmp_path / "mine.yaml"
    sources = "".join(
        f"      - {{kind: files, name: {name}, paths: [{tmp_path}/{name}.txt]}}\n" for name in ("bad", "gone")
    )
    profile.write_text(
        f"recipe:\n  corpus:\n    sources:\n{sources}"
        f"    benchmarks: [{{kind: files, name: gsm, paths: [{tmp_path}/gsm.jsonl]}}]\n"
        f"    urls: {{host_files: [{tmp_path}/hosts.txt]}}\n"
    )
    status, said = data("validate", profile)
    assert status == 1
    for missing in ("gone.txt: no file matches", "gsm.jsonl: no file matches", "hosts.txt cannot be read"):
        assert missing in said
    assert "not UTF-8" not in said
    (tmp_path / "gone.txt").write_text("Back.")
    (tmp_path / "gsm.jsonl").write_text('{"text": "3 + 4?"}')
    (tmp_path / "hosts.txt").write_text("example.org\n")
    status, said = data("validate", profile, "--json")
    assert status == 1
    assert [(report["source"], report["ok"]) for report in json.loads(said)] == [
        ("bad", False),
        ("gone", True),
        ("gsm", True),
    ]
    profile.write_text("recipe: {corpus: {source: []}}\n")
    assert "recipe.corpus.source: Extra inputs" in data("validate", profile)[1]


@pytest.fixture(scope="module")
def words() -> list[str]:
    """Five hundred words of real prose."""
    wikitext = next(wikitext for _, title, wikitext in wikipedia.articles("en") if title == "Asia")
    return wikipedia.plain_text(wikitext).split()[:500]


def commit(home: Path, folder: Path, **rules: object) -> Artifact:
    """Build the corpus of a folder for real and commit it."""
    source = FileSource(name="mine", paths=(str(folder),))
    recipe = CorpusRecipe.model_validate({"sources": (source,), **rules})
    store, identity = Store(home / "artifacts"), corpus_identity(recipe)
    digest = digest_of("corpus", 1, identity, {})
    with store.building("corpus", digest) as partial:
        summary = build_corpus(recipe, partial)
        return store.commit("corpus", digest, recipe=identity, parents={}, summary=summary, **MEASURED)


@pytest.fixture
def texts(tmp_path: Path, words: list[str]) -> Path:
    """Two texts that stay, one with a mail address; one too short; a repetition under a hostile name."""
    folder = tmp_path / "texts"
    documents = {
        "a.txt": " ".join(words[:250]),
        "b.txt": " ".join([*words[250:], "Write to jane@mail.org today."]),
        "short.txt": "Too [bold]short[/] to keep,\nthough it is English.",
        HOSTILE: " ".join(words[:250]),
    }
    for name, text in documents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "a home"


def test_counts_of_a_corpus(data: Command, home: Path, texts: Path) -> None:
    (texts / "bad.txt").write_bytes(b"\xff\xff")
    corpus = commit(home, texts, quarantine_share=0.5)
    status, said = data("show", corpus.name, "--home", home, "--json")
    found = json.loads(said)
    assert status == 0
    [source] = found["sources"]
    assert (source["source"], source["kept"], source["dropped"]) == ("mine", 2, 2)
    assert source["characters_kept"] == corpus.summary["characters_kept"]
    assert [(row["step"], row["reason"], row["documents"]) for row in found["drops"]] == [
        ("exact duplicates", "same text", 1),
        ("quality", "gopher: too few words", 1),
    ]
    assert found["changes"] == [{"change": "email", "documents": 1}]
    assert [(row["reason"], row["places"], row["example"]) for row in found["quarantined"]] == [
        ("not UTF-8", 1, "bad.txt")
    ]
    status, said = data("show", "--home", home)
    assert status == 0
    for shown in ("gopher: too few words", "same text", "email", "bad.txt"):
        assert shown in said
    status, said = data("show", "--home", home, "--source", "theirs")
    assert status == 1 and "no source is named 'theirs'. There are: mine." in said


def test_documents_by_rule(data: Command, home: Path, texts: Path) -> None:
    commit(home, texts)
    status, said = data("show", "--home", home, "--drops", "duplicates", "--json")
    [row] = json.loads(said)
    whole = (texts / HOSTILE).read_text()
    assert status == 0
    assert (row["id"], row["step"], row["kept_id"]) == (f"mine/{HOSTILE}", "exact duplicates", "mine/a.txt")
    assert (row["characters"], row["text"]) == (len(whole), whole[:500])
    status, said = data("show", "--home", home, "--drops", "too few words")
    assert status == 0
    assert "mine/short.txt" in said and "detail 8 < 50" in said
    assert "    Too [bold]short[/] to keep,\n    though it is English.\n" in said
    assert len(json.loads(data("show", "--home", home, "--drops", "", "--json")[1])) == 2
    assert len(json.loads(data("show", "--home", home, "--drops", "", "--limit", "1", "--json")[1])) == 1


def test_documents_that_stay(data: Command, home: Path, texts: Path) -> None:
    commit(home, texts)
    status, said = data("show", "corpus", "--kept", "--home", home, "--json")
    assert [row["id"] for row in json.loads(said)] == ["mine/a.txt", "mine/b.txt"]
    status, said = data("show", "--changed", "email", "--source", "mine", "--home", home)
    assert status == 0
    assert "mine/b.txt" in said and "changes email" in said and " …" in said and "a.txt" not in said
    status, said = data("show", "--changed", "iban", "--home", home)
    assert status == 1 and "no document was changed by 'iban'. There are: email." in said
    assert data("show", "--changed", "email", "--kept", "--home", home)[0] == 2


@pytest.mark.parametrize("rule", ["'; drop view dropped; --", '[red]"%_\\'])
def test_a_hostile_rule_is_text(rule: str, data: Command, home: Path, texts: Path) -> None:
    commit(home, texts)
    status, said = data("show", "--home", home, "--drops", rule)
    assert status == 1
    assert "There are: exact duplicates: same text; quality: gopher: too few words." in said
    assert repr(rule) in said


def test_hostile_ids_are_shown_as_they_are(data: Command, home: Path, texts: Path) -> None:
    commit(home, texts)
    assert f"mine/{HOSTILE}" in data("show", "--home", home, "--drops", "same text")[1]
    assert data_tables.plain("\x1b[31m\bred\n[bold]").plain == r"\x1b[31m\x08red" + "\n[bold]"


def test_a_corpus_equals_itself(data: Command, home: Path, texts: Path) -> None:
    corpus = commit(home, texts)
    status, said = data("diff", corpus.name, corpus.digest[:8], "--home", home)
    assert status == 0
    assert "Recipe: none" in said and "Documents that differ: none" in said


def test_two_corpora_differ(data: Command, home: Path, texts: Path, words: list[str]) -> None:
    a = commit(home, texts)
    (texts / "b.txt").write_text(" ".join([*words[250:], "Write to the same address."]))
    (texts / "new.txt").write_text(" ".join(reversed(words)))
    (texts / HOSTILE).unlink()
    lax = QualityRules(gopher=GopherQuality(min_words=3, min_stop_words=0))
    b = commit(home, texts, quality=lax, personal_data=None)
    status, said = data("diff", a.name, b.name, "--home", home, "--json")
    found = json.loads(said)
    assert status == 1 and not found["equal"]
    assert found["recipe"]["quality.gopher.min_words"] == [50, 3]
    assert found["recipe"]["personal_data.kinds"][1] is None
    assert "sources.0.content" in found["recipe"] and "sources.0.name" not in found["recipe"]
    assert found["sources"] == [{"source": "mine", "kept_a": 2, "kept_b": 4, "dropped_a": 2, "dropped_b": 0}]
    changes = {row["change"]: (row["step_a"], row["step_b"], row["examples"]) for row in found["documents"]}
    assert changes == {
        "A drops, B keeps": ("quality", None, ["mine/short.txt"]),
        "another text": (None, None, ["mine/b.txt"]),
        "only in A": ("exact duplicates", None, [f"mine/{HOSTILE}"]),
        "only in B": (None, None, ["mine/new.txt"]),
    }
    status, said = data("diff", b.name, a.name, "--home", home)
    assert status == 1
    assert (
        "B drops, A keeps" in said and "quality: gopher: too few words" in said and f"mine/{HOSTILE}" in said
    )


def test_the_card_in_the_store_is_found(data: Command, home: Path, texts: Path) -> None:
    corpus, store = commit(home, texts), Store(home / "artifacts")
    for number, parent in enumerate((corpus.digest, corpus.digest, "0" * 64)):
        digest = str(number) * 64
        with store.building("card", digest) as partial:
            (partial / "card.html").write_text("<p>card")
            (partial / "card.md").write_text(f"# card [bold] {number}")
            parents = {"corpus": f"corpus/{parent}"}
            store.commit("card", digest, recipe={}, parents=parents, summary={}, **MEASURED)
    status, said = data("card", "--home", home)
    assert (status, Path(said.strip())) == (0, store.root / "card" / ("1" * 64) / "card.html")
    assert data("card", corpus.name, "--home", home, "--markdown") == (0, "# card [bold] 1\n")
    status, said = data("card", "card/0", "--home", home)
    assert status == 1 and "card/000000000000 is no corpus" in said


@pytest.mark.slow
def test_five_lines_are_a_profile(tmp_path: Path, texts: Path) -> None:
    """A folder becomes corpus, shards and card; each is found again, and a card that is gone is made."""
    profile, home = tmp_path / "mine.yaml", tmp_path / "var"
    profile.write_text(
        f"recipe:\n  corpus:\n    sources: [{{kind: files, name: mine, paths: [{texts}]}}]\n"
        f"  tokens: {{total_tokens: 20000, validation_share: 0.4}}\nruntime: {{home: {home}}}\n"
    )
    command = [sys.executable, "-m", "deployments.cli", "data"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}

    def run(*words: str) -> str:
        done = subprocess.run(
            [*command, *words], capture_output=True, text=True, env=environment, cwd=ROOT, timeout=500
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    said = run("build", "--profile", str(profile))
    store = Store(home / "artifacts")
    assert [artifact.kind for artifact in store.artifacts()] == ["corpus", "tokenizer", "tokens", "card"]
    made = store.resolve("card")
    assert str(made.path / "card.html") in said and str(store.resolve("tokens").path) in said
    assert "found corpus/" in run("build", "--profile", str(profile))
    assert len(store.artifacts()) == 4
    shutil.rmtree(made.path)
    card = run("card", "--home", str(home), "--markdown")
    assert store.resolve("card").digest == made.digest
    assert card == made.file("card.md").read_text() + "\n"
