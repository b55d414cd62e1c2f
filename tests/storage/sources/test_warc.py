import gzip
from pathlib import Path

import pytest

from storage.sources.documents import Quarantined, RawDocument

pytest.importorskip("fastwarc", reason="needs the extra data: resiliparse")

CRAWL = Path(__file__).parents[3].parent / "shared/data/web_text/sample-0000.warc.gz"
needs_crawl = pytest.mark.skipif(not CRAWL.is_file(), reason="../shared/data is absent")
PAGE = "<html><body><nav>Menu</nav><main><p>Größe und Maß.</p><img alt='Bild'></main></body></html>"
HTML = "Content-Type: text/html; charset=utf-8"


def record(body, *http, record_id="<urn:uuid:1>", status="200 OK"):
    block = "\r\n".join([f"HTTP/1.1 {status}", *http, "", ""]).encode() + body
    named = [f"WARC-Record-ID: {record_id}"] if record_id else []
    head = ["WARC/1.0", "WARC-Type: response", *named, "WARC-Target-URI: <http://x.org/a>"]
    head += ["Content-Type: application/http; msgtype=response", f"Content-Length: {len(block)}"]
    return "\r\n".join([*head, "", ""]).encode() + block + b"\r\n\r\n"


@pytest.fixture
def pages(tmp_path, survey):
    """Read a WARC of these bytes."""

    def read_bytes(content, name="a.warc", **settings):
        (tmp_path / name).write_bytes(content)
        return survey(tmp_path / name, **settings)

    return read_bytes


@needs_crawl
def test_a_real_crawl(survey):
    items = survey(CRAWL)
    assert len({item.id for item in items}) == 22 and all(item.url.startswith("https://") for item in items)
    page = items[5]
    assert (page.id, page.url) == ("urn:uuid:C9E2C56E-DEF3-413A-B923-7ECB7ED2C252", "https://kyleclo.com/")
    assert "I’m a Lead Scientist at the Allen Institute for AI working on the OLMo" in page.text
    assert not any("<div" in item.text or "function(" in item.text for item in items)


@needs_crawl
@pytest.mark.parametrize("compressed", [True, False])
def test_a_truncated_crawl(pages, compressed, survey):
    whole = survey(CRAWL)
    data = CRAWL.read_bytes() if compressed else gzip.decompress(CRAWL.read_bytes())
    *read_pages, bad = pages(data[: len(data) // 2], "a.warc.gz" if compressed else "a.warc")
    assert 10 <= len(read_pages) < 22 and read_pages == whole[: len(read_pages)]
    assert bad.reason == "damaged"


@pytest.mark.parametrize(
    ("body", "http"),
    [
        (PAGE.encode(), [HTML]),
        (PAGE.encode("latin-1"), ["Content-Type: text/html; charset=iso-8859-1"]),
        (
            PAGE.replace("<body>", '<meta charset="latin1"><body>').encode("latin-1"),
            ["Content-Type: text/html"],
        ),
        (gzip.compress(PAGE.encode()), [HTML, "Content-Encoding: gzip"]),
        (
            b"%x\r\n%s\r\n0\r\n\r\n" % (len(PAGE.encode()), PAGE.encode()),
            [HTML, "Transfer-Encoding: chunked"],
        ),
    ],
)
def test_main_text_in_any_encoding(pages, body, http):
    [page] = pages(record(body, *http))
    assert page == RawDocument("urn:uuid:1", "Größe und Maß.", "http://x.org/a")


def test_what_is_no_page_is_passed_over(pages):
    content = (
        record(b"%PDF", "Content-Type: application/pdf")
        + record(PAGE.encode(), HTML, status="404 Not Found")
        + record(PAGE.encode(), HTML, record_id="")
    )
    assert [item.id for item in pages(content)] == ["a.warc:2"]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (record(b"not gzip", HTML, "Content-Encoding: gzip"), "damaged"),
        (record(PAGE.encode(), HTML, "Transfer-Encoding: chunked"), "damaged"),
        (record(b"x" * 5000, HTML), "too long"),
        (record(gzip.compress(b"x" * 5000), HTML, "Content-Encoding: gzip"), "too long"),
    ],
)
def test_a_bad_page_is_named_and_the_next_one_read(pages, bad, reason):
    items = pages(bad + record(PAGE.encode(), HTML, record_id="<urn:uuid:2>"), max_bytes=4000)
    assert [item.id if isinstance(item, RawDocument) else (item.place, item.reason) for item in items] == [
        ("urn:uuid:1", reason),
        "urn:uuid:2",
    ]
    assert items[0].detail.startswith("a.warc: ")


def test_what_follows_a_broken_header_is_left(pages):
    good = record(PAGE.encode(), HTML)
    [page, bad] = pages(good + b"garbage\r\n\r\n" + good)
    assert page.id == "urn:uuid:1"
    assert bad == Quarantined("a.warc", "damaged", "the file is left after 1 documents: Invalid WARC header")
