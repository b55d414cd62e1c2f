"""The data card of small real corpora: its pages as text and in a browser, and the stage in a flow."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.artifacts import Artifact as PrefectArtifact
from prefect.testing.utilities import prefect_test_harness

from flows.corpus import data_card
from llama2_core.data.quality import GopherQuality, QualityRules
from storage.artifacts import Artifact, Store
from storage.preferences import query
from tasks.corpus import build_corpus
from tasks.corpus_recipe import CorpusRecipe, FileSource
from tasks.corpus_sources import corpus_identity
from tasks.data_card import write_card
from tasks.data_card_page import escaped
from tasks.launch import find
from tasks.recipes import DataCardRecipe
from tasks.runtime import Runtime
from tasks.stage_run import tracker

HOSTILE = "<script>alert(1)</script> | `code` [link](javascript:x) & \\ <img src=http://x.invalid/y.png>"
RIVER = (
    "The river Lena rises in the mountains west of Lake Baikal, flows north through forests and frozen plains, "
    "and reaches the Arctic Ocean after more than four thousand kilometres. In winter lorries drive along the "
    "ice; in May floods carry whole trees past the town of Yakutsk, where markets sell fish, furs and carved "
    "mammoth ivory. Write to jane@mail.org for a map of all harbours."
)
TEXTS = {
    "alike": RIVER,
    "german": "Die Würde des Menschen ist unantastbar. Sie zu achten und zu schützen ist Verpflichtung. " * 2,
    "near": f"{RIVER} The map is free.",
    "same": RIVER,
    "she": "She is an American and a Christian who lives by the sea; her neighbours are Catholic, and he likes "
    "that about you and me, although nobody here has ever asked why the old church stands empty.",
    **{f"short{n}": f"{HOSTILE} and this page says so in plain English, number {n}" for n in range(13)},
}
MIX = {
    "mine": {"documents": 2, "tokens": 640, "epochs": 2.5, "share": 0.25},
    "facts|<b>": {"documents": 9, "tokens": 1280, "epochs": 1.0, "share": 0.75},
}


def commit(
    store: Store, kind: str, recipe: dict[str, Any], fill: Callable[[Path], dict[str, Any]]
) -> Artifact:
    digest = f"{len(store.artifacts()):064x}"
    with store.building(kind, digest) as partial:
        summary = fill(partial)
        facts = {"version": 1, "parents": {}, "wall_seconds": 1.0, "cpu_seconds": 1.0, "peak_memory_bytes": 1}
        return store.commit(kind, digest, recipe=recipe, summary=summary, **facts)


def build(folder: Path, texts: dict[str, str], **rules: Any) -> Artifact:
    """Build a corpus from texts and put it into the store below a folder."""
    (folder / "texts").mkdir(parents=True)
    for name, text in texts.items():
        (folder / "texts" / f"{name}.txt").write_text(text)
    (folder / "texts" / "torn.txt").write_bytes(b"caf\xe9")
    quality = QualityRules(gopher=GopherQuality(min_words=30))
    source = FileSource(name="mine", paths=(str(folder / "texts"),), licence="CC0 <b>", attribution="")
    recipe = CorpusRecipe(sources=(source,), quality=quality, quarantine_share=0.5, **rules)
    identity = {**recipe.model_dump(mode="json"), **corpus_identity(recipe)}
    return commit(
        Store(folder / "var" / "artifacts"), "corpus", identity, lambda path: build_corpus(recipe, path)
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("card")


@pytest.fixture(scope="module")
def corpus(home: Path) -> Artifact:
    return build(home, TEXTS)


@pytest.fixture(scope="module")
def tokens(home: Path, corpus: Artifact) -> Artifact:
    return commit(Store(home / "var" / "artifacts"), "tokens", {}, lambda _: {"tokens": 5120, "sources": MIX})


@pytest.fixture(scope="module")
def folder(home: Path, corpus: Artifact, tokens: Artifact) -> Path:
    made = home / "made"
    made.mkdir()
    write_card(corpus, tokens, DataCardRecipe(examples=10), made)
    return made


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "card.html").read_text()


@pytest.fixture(scope="module")
def markdown(folder: Path) -> str:
    return (folder / "card.md").read_text()


def test_the_page_says_what_became_of_the_documents(page: str, corpus: Artifact) -> None:
    assert f"corpus/{corpus.digest}" in page
    assert page.count('<div class="card"><b>18</b>documents read') == 1
    assert '<div class="card"><b>2</b>documents kept' in page
    assert '<div class="card"><b>5,120</b>tokens in the mix' in page
    assert "quality: gopher: too few words, 13 (72.22%)" in page
    assert "language: language de, 1 (5.56%)" in page
    assert "Documents that repeat others: 2. Clusters, of which one document stays: 1, the" in page
    assert "estimated Jaccard similarity" in page
    assert '<td>mine/alike.txt</td><td class="n">3</td>' in page
    assert '<td>email</td><td class="n">1</td><td class="n">50.00</td>' in page
    assert "Places: 1." in page and "not UTF-8" in page


def test_ours_stands_beside_the_papers(markdown: str) -> None:
    assert "| en | 17 | 94.44 | 89.70 |" in markdown
    assert "| de | 1 | 5.56 | 0.17 |" in markdown
    assert "| gendered | 1 | 50.00 | in English | 75.23 |" in markdown
    assert "| she | 1 | 100.00 | gendered | 28.45 |" in markdown
    assert "| nationality | 50.00 | 14.83 | american 100.0 | american 69.4, indian 16.5," in markdown
    assert "| religion | 50.00 | 7.93 | catholic 100.0, christian 100.0 | christian 33.2" in markdown
    assert r"| facts\|&lt;b&gt; | – | – | – | 1,280 | 1.00 | 75.00 |" in markdown
    assert "0.00% of 2 documents score 0.5 or more by the lexicon; in Llama 2 about 0.2%" in markdown


def test_examples_are_bounded_and_escaped(page: str) -> None:
    [short] = re.findall(r"too few words, 13.*?</details>", page, re.DOTALL)
    assert short.count('class="example"') == 10
    assert short.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 10
    assert "<script" not in page and "<img" not in page and "<b>&" not in page
    assert "CC0 &lt;b&gt;" in page and "facts|&lt;b&gt;" in page


def test_markdown_tables_hold_against_their_cells(markdown: str) -> None:
    assert "<script" not in markdown and "<img" not in markdown
    [line] = [
        line for line in markdown.splitlines() if "too few words" in line and line.startswith("| quality")
    ]
    assert len(re.findall(r"(?<!\\)\|", line)) == 6  # five cells
    assert r"&lt;/script&gt; \| \`code\` \[link\](javascript:x) &amp; \\" in line
    assert escaped(["a\nb\r\n\tc", {"<": 1}]) == ["a b c", {"<": 1}]


def test_nothing_measured_nothing_alike_no_mix(tmp_path: Path) -> None:
    corpus = build(
        tmp_path / "own", {"she": TEXTS["she"]}, toxicity=None, demographics=False, personal_data=None
    )
    write_card(corpus, None, DataCardRecipe(), tmp_path)
    for name in ("card.html", "card.md"):
        text = (tmp_path / name).read_text()
        assert text.count("Not measured.") == 3
        assert "repeat others: 0." in text and "estimated Jaccard" not in text
    assert "<b>–</b>tokens in the mix" in (tmp_path / "card.html").read_text()


@pytest.mark.parametrize("width", [1400, 420])
def test_a_browser_shows_it_without_overflow_request_or_error(
    page: str, width: int, look: Callable[[str, int], Any]
) -> None:
    seen = look(page, width)
    assert seen.overflow_pixels <= 0
    assert seen.requests == []
    assert seen.said == []


@pytest.fixture(scope="module")
def prefect() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=180):
        yield


@pytest.mark.slow
def test_the_stage_stores_shows_and_answers(
    prefect: None, home: Path, corpus: Artifact, tokens: Artifact, markdown: str
) -> None:
    runtime = Runtime(home=home / "var")
    card = find(data_card("corpus", "tokens", runtime), runtime)
    assert card.manifest.parents == {"corpus": f"corpus/{corpus.digest}", "tokens": f"tokens/{tokens.digest}"}
    assert set(card.manifest.files) > {"card.html", "card.md", "analysis/pronouns.parquet"}
    assert card.file("card.md").read_text() == markdown
    shown = PrefectArtifact.get("data-card")
    assert shown and shown.data == markdown
    run_id = tracker(runtime).newest(card.digest)
    logged = {path.name for path in (home / "var" / "mlflow" / run_id / "artifacts").iterdir()}
    assert logged == {"card.html", "card.md", "manifest.json"}
    assert query(Store(runtime.store_root), "select documents from pronouns where \"group\" = 'she'")[1] == [
        (1,)
    ]
    without = find(data_card(f"corpus/{corpus.digest}", "", runtime), runtime)
    assert without.manifest.parents == {"corpus": f"corpus/{corpus.digest}"}
    assert data_card("corpus", "", runtime) == f"card/{without.digest}"
