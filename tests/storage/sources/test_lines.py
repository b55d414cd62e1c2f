import gzip
import os
import tracemalloc

import pytest

from storage.sources.documents import DETAIL_CHARACTERS, Part, Quarantined, RawDocument
from storage.sources.parts import read

MEBIBYTE = 1 << 20


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        (
            b'{"text": ',
            "malformed",
            "line 2: not JSON (Expecting value, character 11); a line holds one object: ",
        ),
        (b'["a"]', "malformed", "line 2: not an object; a line holds one object: '[\"a\"]'"),
        (b'{"text": ' + b"[" * 50_000, "malformed", "line 2: not JSON that can be read (maximum recursion"),
        (
            b'{"text": "a", "n": ' + b"1" * 5000 + b"}",
            "malformed",
            "line 2: not JSON that can be read (Exceeds the limit",
        ),
        (b'{"body": "a", "n": 1}', "no text", 'line 2: no string named "text"; the fields are "body", "n"'),
        (b"{}", "no text", 'line 2: no string named "text"; the fields are none'),
        (b'{"text": ["a"]}', "no text", "line 2: no string"),
        (b'{"text": null}', "no text", "line 2: no string"),
        (
            b'{"text": "caf\xe9"}',
            "not UTF-8",
            "line 2: byte 29 (0xe9) is not UTF-8; if the file is ISO-8859-1, con",
        ),
        (b'{"text": "\\ud83d"}', "not UTF-8", "line 2: a stray byte or half a surrogate pair: '\\ud83d'"),
        (
            b'{"text": "' + b"x" * 200_000 + b'"}',
            "too long",
            "line 2: more than 100,000 bytes; split or drop it: ",
        ),
    ],
)
def test_a_bad_line_is_named_and_the_next_one_read(tmp_path, line, reason, detail, survey):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"text": "one"}\n' + line + b'\r\n{"text": "two"}')
    first, bad, last = survey(file, max_bytes=100_000)
    assert (first, last.text) == (RawDocument("a.jsonl:0", "one"), "two")
    assert (bad.place, bad.reason) == ("a.jsonl:16", reason)
    assert bad.detail.startswith(detail) and len(bad.detail) <= DETAIL_CHARACTERS
    with file.open("rb") as content:
        content.seek(int(last.id.partition(":")[2]))
        assert content.read() == b'{"text": "two"}'


def test_a_mark_in_the_middle_of_joined_files(tmp_path, survey):
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\n' * 2)
    assert [item.text for item in survey(tmp_path)] == ["a", "a"]


@pytest.mark.parametrize(
    ("content", "reason", "detail"),
    [
        ("caf\xe9".encode("latin-1"), "not UTF-8", "byte 3 (0xe9) is not UTF-8; if the file is ISO-8859-1"),
        (b"\xef\xbb\xbfcaf\xe9", "not UTF-8", "byte 6 (0xe9)"),
        ("text".encode("utf-16"), "not UTF-8", "byte 0 (0xff) is not UTF-8; if the file is UTF-16, convert"),
        (b"x" * 101, "too long", "more than 100 bytes; split it or raise the limit: 'xxx"),
    ],
)
def test_a_bad_text(tmp_path, content, reason, detail, survey):
    (tmp_path / "a.txt").write_bytes(content)
    [bad] = survey(tmp_path, max_bytes=100)
    assert (bad.place, bad.reason) == ("a.txt", reason) and bad.detail.startswith(detail)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_all_whole_lines_before_a_truncation_are_read(tmp_path, suffix, survey):
    lines = b"".join(b'{"text": "%s"}\n' % os.urandom(30).hex().encode() for _ in range(5000))
    if suffix == ".zst":
        zstd = pytest.importorskip("backports.zstd", reason="needs the extra data")
        data, stream = zstd.compress(lines), zstd.ZstdDecompressor()
    else:
        import zlib

        data, stream = gzip.compress(lines), zlib.decompressobj(31)
    data = data[: len(data) // 2]
    legible = stream.decompress(data).count(b"\n")
    (tmp_path / f"a.jsonl{suffix}").write_bytes(data)
    *read_lines, bad = survey(tmp_path)
    assert len(read_lines) == legible > 1000
    assert (bad.place, bad.reason) == (f"a.jsonl{suffix}", "damaged")
    assert bad.detail == (
        f"the file is left after {legible:,} documents: "
        "Compressed file ended before the end-of-stream marker was reached"
    )


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.txt.gz", "a.csv.zst", "a.warc.gz"])
def test_no_compressed_file_at_all(tmp_path, name, survey):
    (tmp_path / name).write_bytes(b"plain words, and many of them\n" * 10)
    [bad] = survey(tmp_path)
    assert bad.reason == "damaged" and bad.detail.startswith("the file is left after 0 documents: ")


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.txt"])
def test_a_giant_line_costs_no_memory(tmp_path, name, survey):
    """A gigabyte in a sparse file, which takes no disk either."""
    file = tmp_path / name
    with file.open("wb") as content:
        content.write(b"text\n" if name == "a.csv" else b'{"text": "a"}\n')
        content.seek(1024 * MEBIBYTE)
        content.write(b"\n" + (b"words\n" if name == "a.csv" else b'{"text": "b"}\n'))
    tracemalloc.start()
    items = survey(file, max_bytes=MEBIBYTE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * MEBIBYTE
    assert [item.reason for item in items if isinstance(item, Quarantined)] == ["too long"]
    assert len(items) == {"a.jsonl": 3, "a.csv": 2, "a.txt": 1}[name]


def test_a_part_inside_a_giant_line_looks_no_further_than_its_end(tmp_path):
    file = tmp_path / "a.jsonl"
    with file.open("wb") as content:
        content.truncate(1 << 40)
    assert list(read(Part(str(file), "a.jsonl", 5 * MEBIBYTE, 6 * MEBIBYTE))) == []


def test_the_rows_of_a_dirty_csv(tmp_path, survey):
    (tmp_path / "a.csv").write_bytes(
        b'id,text\n0,"a ""quoted"" word,\nand a line"\n1,short,long\n\n2,"bad" quote\n3\n4,caf\xe9\n5,last\n6,"open\n'
    )
    documents = {item.id: item.text for item in survey(tmp_path) if isinstance(item, RawDocument)}
    assert documents == {"a.csv:0": 'a "quoted" word,\nand a line', "a.csv:5": "last"}
    bad = [item for item in survey(tmp_path) if isinstance(item, Quarantined)]
    assert [(item.place, item.reason) for item in bad] == [
        ("a.csv:1", "malformed"),
        ("a.csv:2", "malformed"),
        ("a.csv:3", "malformed"),
        ("a.csv:4", "not UTF-8"),
        ("a.csv:6", "malformed"),
    ]
    assert [item.detail for item in bad[:2]] == [
        "line 4: 3 cells below 2 columns: '1,short,long'",
        "line 6: ',' expected after '\"'; keep to RFC 4180 and below the limit of a line",
    ]


@pytest.mark.parametrize(("header", "reason"), [(b"id,body\n", "no text"), (b'"id"x,text\n', "malformed")])
def test_a_csv_without_the_column(tmp_path, header, reason, survey):
    (tmp_path / "a.csv").write_bytes(header + b"1,a\n")
    assert [item.reason for item in survey(tmp_path)] == [reason]


def test_a_long_line_inside_quotes_ends_its_row_only(tmp_path, survey):
    (tmp_path / "a.csv").write_text('text\n"open\n' + "x" * 101 + "\nlast\n")
    assert [
        (item.reason if isinstance(item, Quarantined) else item.text)
        for item in survey(tmp_path, max_bytes=100)
    ] == [
        "too long",
        "last",
    ]


def test_a_long_text_is_cut_at_blank_lines_or_line_ends(tmp_path, survey):
    """After two words at a blank line; after four, where no blank line comes, at the line's end."""
    file = tmp_path / "a.txt"
    content = "\none\ntwo three\n\nfour\n\nfive\n \nsix\nseven eight\nnine ten\neleven"
    file.write_text(content)
    assert [(item.id, item.text) for item in survey(tmp_path, passage_words=2)] == [
        ("a.txt:0", "\none\ntwo three\n\n"),
        ("a.txt:16", "four\n\nfive\n \n"),
        ("a.txt:29", "six\nseven eight\nnine ten\n"),
        ("a.txt:54", "eleven"),
    ]
    assert [item.text for item in survey(tmp_path)] == [content]
    with gzip.open(tmp_path / "b.txt.gz", "wb") as packed:
        packed.write(b"good words\n\n caf\xe9 bad\n\n" + b"x " * 60 + b"\n\n")
    file.unlink()
    good, bad, long = survey(tmp_path, passage_words=2, max_bytes=100)
    assert (good.text, bad.reason, long.reason) == ("good words\n\n", "not UTF-8", "too long")
