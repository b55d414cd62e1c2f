import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path

import pytest

from storage.errors import MissingPackage, SourceError
from storage.sources import packages
from storage.sources.starter import conversations, dictionary, python_docs, wikipedia

ROOT = Path(__file__).parents[2]


def test_a_changed_file_is_refused():
    with pytest.raises(
        SourceError, match=r"gensim 4.*SHA-256 of gensim/__init__.py is \w{64}, expected 00.*pip install"
    ):
        packages.package_file("gensim", "gensim/__init__.py", "00")
    with pytest.raises(SourceError, match="carries no gensim/moved"):
        packages.package_file("gensim", "gensim/moved.py", "00")


def test_a_missing_package_says_how_to_get_it(tmp_path):
    """In a real interpreter whose packages are all here but gensim."""
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith("gensim"):
            (tmp_path / entry.name).symlink_to(entry)
    program = "from storage.sources.starter import wikipedia; next(wikipedia.articles('en'))"
    run = subprocess.run(
        [sys.executable, "-S", "-c", program],
        env={"PYTHONPATH": f"{ROOT}:{tmp_path}"},
        capture_output=True,
        text=True,
    )
    last_line = run.stderr.strip().splitlines()[-1]
    assert last_line.startswith("storage.errors.MissingPackage: ")
    assert "gensim" in last_line and 'pip install "llama2-pipeline[starter]"' in last_line


def test_a_missing_module_says_the_same():
    with pytest.raises(MissingPackage, match="pip install"):
        packages.package_module("absent", "absent_package.module")


def test_english_wikipedia():
    articles = {title: wikitext for _, title, wikitext in wikipedia.articles("en")}
    assert len(articles) == 106
    assert "Apollo 11" in articles and "AccessibleComputing" not in articles  # the latter is a redirect
    text = wikipedia.plain_text(articles["Albedo"])
    assert text.startswith("Albedo or reflection coefficient, derived from Latin albedo")
    assert "\n\nTerrestrial albedo\n\nAlbedos of typical materials" in text
    assert "${\\bar \\alpha(\\theta_i)}$" in text
    for markup in ("[[", "{{", "{|", "|}", "''", "==", "<ref", "External links", "Fresh asphalt", "&nbsp;"):
        assert markup not in text


def test_bulgarian_wikipedia():
    [(page_id, title, wikitext)] = wikipedia.articles("bg")
    assert title == "Григориански календар" and page_id.isdigit()
    assert wikipedia.plain_text(wikitext).startswith("Григорианският календар (понякога наричан")


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ("'''Bold''' [[link|words]] and [http://x.org a site].<ref>Note</ref>", "Bold words and a site."),
        ("It is {{convert|5|km|mi}} long, {{convert|3|to|4|m}} wide.", "It is 5 km long, 3 to 4 m wide."),
        ("Anarchy ({{lang|grc|ἀναρχία}}, {{IPA-en|x}}) is", "Anarchy (ἀναρχία) is"),
        ("Empty ({{pron|x}}; ) brackets", "Empty brackets"),
        ("== Head ==\n=== Sub ===\nWords.\n== Hollow ==\n== References ==\n* one\n", "Head\n\nSub\n\nWords."),
        ("== See also ==\n* a\n=== More ===\n* b\n== Rest ==\nHere.", "Rest\n\nHere."),
        ("List:\n* one\n** two\n# three\n\nEnd.", "List:\n- one\n- two\n- three\n\nEnd."),
        ("Before.\n{| class=x\n| a || {{b|}}\n{|\n| inner\n|}\n|}\nAfter.", "Before.\n\nAfter."),
        ("[[File:a.jpg|thumb|A [[cat]] (see [http://x y])]]Text.", "Text."),
        (
            "Mass <math>m = \\frac{{a}}{b}\n| c</math> and 10<sup>5</sup>.",
            "Mass $m = \\frac{{a}}{b} | c$ and 10^5.",
        ),
        ("<gallery>\nFile:a.jpg|Words\n</gallery>\nA<br/>b &amp; c<!-- d -->", "A b & c"),
    ],
)
def test_plain_text(wikitext, text):
    assert wikipedia.plain_text(wikitext) == text


def test_python_topics_come_in_sections():
    texts = dict(python_docs.topics())
    assert texts["if/1"].startswith('The "if" statement\n\nThe "if" statement is used for conditional')
    assert texts["if/1"] in [text for name, text in texts.items() if name.startswith("compound/")]


def test_docstrings():
    documents = list(python_docs.docstrings())
    texts = dict(documents)
    assert len(texts) == len(documents) > 500
    assert "dumps(obj, *, skipkeys=False" in texts["json"]
    assert texts["json.decoder.JSONDecoder"].startswith("class json.decoder.JSONDecoder\n\nSimple JSON")
    assert not any("_" in name[:1] and name.split(".")[0] not in python_docs.MODULES for name in texts)


def test_definitions():
    definitions = list(dictionary.definitions())
    assert len(definitions) == 157_753
    assert ("obliterate", "a.", "Scarcely distinct; applied to the markings of insects.") in definitions
    text = "\n".join(definition for _, _, definition in definitions)
    assert not any(markup in text for markup in ("{", "[", "<", "Webster", "; --"))


def test_conversations():
    found = list(conversations.conversations())
    assert len(found) == 2026
    assert len({(topic, *turns) for topic, turns in found}) == 899  # exact repeats are part of the data
    assert Counter(topic for topic, _ in found)["tech_support"] == 1050
    assert found[2] == ("ai", ["Are you sentient?", "Sort of."])
