import pytest

from llama2_core.data.documents import Document
from tasks.steps.encoding import EncodingRepair, repair_encoding


def repaired(text: str, **rules: bool) -> tuple[str, tuple[str, ...]]:
    document = repair_encoding(Document("a", "b", text), EncodingRepair(**rules))
    return document.text, document.changes


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "mac_roman"])
@pytest.mark.parametrize("text", ["He said “don’t” – twice", "schön, naïve, résumé", "l’été où il naît"])
def test_mojibake_is_repaired_and_noted(text, encoding):
    try:
        wrongly_decoded = text.encode().decode(encoding)
    except UnicodeDecodeError:
        pytest.skip(f"{encoding} has no character for one of the bytes")
    assert repaired(f"One line.\n{wrongly_decoded}") == (f"One line.\n{text}", ("encoding",))


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "“ﬁne” ｆｕｌｌ width…",
        "文字化け",
        "привет",
        "&lt;b&gt; é &amp; x",
        "naïve café, 20 °C, ×2",
        "a œ b",
    ],
)
def test_what_is_meant_stays(text):
    assert repaired(text) == (text, ())


def test_normal_form_is_no_change_to_note():
    assert repaired("a\r\nb\x00 \r\n\r\n\r\n\r\nc") == ("a\nb\n\nc", ())
    assert repaired("e\u0301te\u0301\ud800") == ("été\ufffd", ())


def test_html_on_demand():
    assert repaired("&lt;b&gt; &amp; c", unescape_html=True) == ("<b> & c", ("encoding",))
