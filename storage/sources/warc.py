"""WARC: the HTML pages of a crawl, their main text taken out by Resiliparse (Apache-2.0, of the Webis group)."""

import io
from collections.abc import Iterator
from typing import Any, BinaryIO

from storage.sources.documents import Fields, Part, Quarantined, RawDocument, Unreadable
from storage.sources.packages import package_module
from storage.sources.places import is_damage

HTML = ("text/html", "application/xhtml+xml")
BUFFER_BYTES = 8 << 10
"""Of a file that ends early, what is lost before its end is less than this."""


def read_pages(part: Part, stream: BinaryIO, fields: Fields) -> Iterator[RawDocument | Quarantined]:
    """Yield a document for every HTML page that was served with status 200; the id is its WARC-Record-ID."""
    warc = package_module("resiliparse", "fastwarc.warc", "data")
    responses = warc.ArchiveIterator(
        stream, record_types=warc.WarcRecordType.response, buffer_size=BUFFER_BYTES
    )
    for number, record in enumerate(responses):
        if record.http_content_type in HTML and record.http_headers.status_code == 200:
            place = record.record_id.strip("<>") if record.record_id else f"{part.name}:{number}"
            try:
                text = _main_text(record, fields.max_bytes)
            except Unreadable as error:
                yield error.at(place, f"{part.name}: ")
            else:
                url = record.headers.get("WARC-Target-URI", "").strip("<>")
                yield fields.document(place, {fields.text: text, fields.url: url})


def _main_text(record: Any, max_bytes: int) -> str:
    encoding = package_module("resiliparse", "resiliparse.parse.encoding", "data")
    html2text = package_module("resiliparse", "resiliparse.extract.html2text", "data")
    body = _body(record, max_bytes)
    charset = record.http_charset or encoding.detect_encoding(body, from_html_meta=True)
    page = encoding.bytes_to_str(body, encoding.map_encoding_to_html5(charset or "utf-8"))
    return html2text.extract_plain_text(page, main_content=True, alt_texts=False)


def _body(record: Any, max_bytes: int) -> bytes:
    """Decode a page's body by ourselves: after an error in FastWARC's own decoding its iterator has lost its place."""
    size = record.content_length
    if size > max_bytes:
        raise Unreadable("too long", f"a page of {size:,} bytes; raise the limit of {max_bytes:,}")
    body = record.reader.read()
    if len(body) < size:
        raise Unreadable("damaged", f"the page ends after {len(body):,} of {size:,} bytes")
    try:
        body = _decoded(body, record.http_headers, max_bytes + 1)
    except OSError as error:
        if not is_damage(error):
            raise
        raise Unreadable("damaged", f"the page does not decode: {error}", body[:200]) from None
    if len(body) > max_bytes:
        raise Unreadable("too long", f"a page of more than {max_bytes:,} bytes, decoded; raise the limit")
    return body


def _decoded(body: bytes, headers: Any, limit: int) -> bytes:
    streams = package_module("resiliparse", "fastwarc.stream_io", "data")
    reader = io.BytesIO(body)
    if (headers.get("Transfer-Encoding") or "").lower() == "chunked":
        reader = streams.ChunkedReader(reader)
    match (headers.get("Content-Encoding") or "").lower():
        case "gzip" | "x-gzip":
            reader = streams.GzipReader(reader)
        case "deflate":
            reader = streams.GzipReader(reader, zlib=True)
        case "br":
            reader = streams.BrotliReader(reader)
        case "zstd":
            reader = streams.ZstdReader(reader)
    return reader.read(limit)
