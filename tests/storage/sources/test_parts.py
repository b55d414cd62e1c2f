import gzip
import json
import random
import sys
from dataclasses import asdict

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.errors import MissingPackage, SourceError
from storage.sources.documents import Part, Quarantined, RawDocument
from storage.sources.parts import parts, read

TEXTS = ["A first text.", "Zweiter Text: äöü €", "第三个\nof two lines"]


def places(items):
    """What must not depend on the cut: a detail tells the number of a line only in a part that begins the file."""
    return [item if isinstance(item, RawDocument) else (item.place, item.reason) for item in items]


def compressed(data, suffix):
    if suffix == ".zst":
        return pytest.importorskip("backports.zstd", reason="needs the extra data").compress(data)
    return gzip.compress(data) if suffix == ".gz" else data


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_text_json_lines_and_csv(tmp_path, suffix, survey):
    rows = [
        json.dumps({"text": text, "url": f"http://{i}"}, ensure_ascii=i == 1) for i, text in enumerate(TEXTS)
    ]
    table = "url,text\r\n" + "".join(f'http://{i},"{text}"\r\n' for i, text in enumerate(TEXTS))
    files = {"a.jsonl": "\n".join(rows), "b.csv": table, "deep/c.txt": TEXTS[1]}
    for name, content in files.items():
        file = tmp_path / f"{name}{suffix}"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(compressed(b"\xef\xbb\xbf" + content.encode(), suffix))
    starts = [0, 3 + len(rows[0].encode()) + 1]
    starts.append(starts[1] + len(rows[1].encode()) + 1)
    expected = [RawDocument(f"a.jsonl{suffix}:{starts[i]}", TEXTS[i], f"http://{i}") for i in range(3)]
    expected += [RawDocument(f"b.csv{suffix}:{i}", TEXTS[i], f"http://{i}") for i in range(3)]
    assert survey(tmp_path) == [*expected, RawDocument(f"deep/c.txt{suffix}", TEXTS[1])]


def test_fields_have_the_names_one_gives_them(tmp_path, survey):
    (tmp_path / "a.jsonl").write_text('{"body": "x", "from": "y", "text": 1}\n{"body": "z", "from": 3}\n')
    items = survey(tmp_path / "a.jsonl", text_field="body", url_field="from")
    assert items == [RawDocument("a.jsonl:0", "x", "y"), RawDocument("a.jsonl:38", "z")]


def dirty_json_lines(seed):
    """Blank, malformed, long and doubtful lines in random order; sometimes no line's end at the end."""
    draw = random.Random(seed)
    kinds = [b'{"text": "word %d"}', b"", b"  \r", b'{"text":', b'{"text": "' + b"x" * 90 + b'"}', b"\xff%d"]
    lines = [draw.choice(kinds).replace(b"%d", b"%d" % i) for i in range(40)]
    return b"\n".join(lines) + draw.choice([b"", b"\n", b"\n\n"])


@pytest.mark.parametrize("seed", range(5))
def test_json_lines_are_the_same_however_they_are_cut(tmp_path, seed, survey):
    file = tmp_path / "dirty.jsonl"
    file.write_bytes(dirty_json_lines(seed))
    whole = survey(file, max_bytes=60)
    assert {item.reason for item in whole if isinstance(item, Quarantined)} == {
        "malformed",
        "too long",
        "not UTF-8",
    }
    for part_bytes in [*range(1, 40), 63, 64, 65, 200, 1000]:
        plan = parts([str(file)], part_bytes)
        assert len(plan) == max(1, -(-file.stat().st_size // part_bytes))
        assert sum(part.size for part in plan) == file.stat().st_size
        assert places(survey(file, part_bytes, max_bytes=60)) == places(whole), part_bytes


@pytest.mark.parametrize("part_bytes", [1, 100, 300, 1 << 20])
def test_parquet_rows_are_the_same_however_they_are_cut(tmp_path, part_bytes, survey):
    texts = [f"text {i}" if i % 5 else None for i in range(50)]
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": texts, "n": range(50)}), file, row_group_size=7)
    plan = parts([str(file)], part_bytes)
    assert len(plan) == {1: 8, 1 << 20: 1}.get(part_bytes, len(plan))
    items = survey(file, part_bytes)
    assert [item.id for item in items if isinstance(item, RawDocument)] == [
        f"rows.parquet:{i}" for i in range(50) if i % 5
    ]
    assert [item.place for item in items if isinstance(item, Quarantined)] == [
        f"rows.parquet:{i}" for i in range(0, 50, 5)
    ]


def test_a_part_travels_as_json(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n' * 10)
    for part in parts([str(tmp_path)], 50):
        again = Part(**json.loads(json.dumps(asdict(part))))
        assert again == part and list(read(again)) == list(read(part))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.jsonl.gz", "a.csv", "a.warc", "a.txt.zst"])
@pytest.mark.parametrize("content", [b"", b" \n\n"])
def test_an_empty_file(tmp_path, name, content, survey):
    if name == "a.warc" and content:
        pytest.skip("blank lines are no WARC")
    suffix = name[name.rindex(".") :]
    (tmp_path / name).write_bytes(compressed(content, suffix) if content else b"")
    [item] = survey(tmp_path)
    assert item == Quarantined(name, "empty", "the file holds no document")


def test_a_file_that_is_gone(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "x"}\n')
    [part] = parts([str(file)])
    file.unlink()
    with pytest.raises(SourceError, match=r"a\.jsonl cannot be opened: .*Check that it is there"):
        list(read(part))


def test_trouble_on_the_way_is_no_dirt(tmp_path, monkeypatch):
    """It passes, so that the caller can try again: a network's error must not drop half a file."""
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n')
    [part] = parts([str(tmp_path)])

    def reset(*_):
        raise ConnectionResetError(104, "Connection reset by peer")
        yield

    monkeypatch.setattr("storage.sources.parts.READERS", {"jsonl": reset})
    with pytest.raises(ConnectionResetError):
        list(read(part))


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [("a.txt.zst", "backports.zstd", "backports.zstd"), ("a.warc", "fastwarc.warc", "resiliparse")],
)
def test_a_missing_package_says_how_to_get_it(tmp_path, monkeypatch, name, module, package, survey):
    (tmp_path / name).write_bytes(b"words")
    monkeypatch.setitem(sys.modules, module, None)
    message = rf'needs the package {package}, .*: pip install "llama2-pipeline\[data\]"'
    with pytest.raises(MissingPackage, match=message):
        survey(tmp_path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.csv", "a.parquet"])
def test_damage_never_raises_and_can_be_stored(tmp_path, name, survey):
    """Bytes changed, cut out and put in at random, 30 times."""
    draw, file = random.Random(name), tmp_path / name
    rows = [{"text": f"Text {i} äöü", "url": f"http://{i}"} for i in range(50)]
    if name == "a.parquet":
        pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=20)
        data = file.read_bytes()
    else:
        table = ["text,url", *(f'"{row["text"]}",{row["url"]}' for row in rows)]
        lines = table if name == "a.csv" else [json.dumps(row) for row in rows]
        data = compressed("\n".join(lines).encode(), file.suffix)
    for _ in range(30):
        start, removed, added = (
            draw.randrange(len(data)),
            draw.randrange(20),
            draw.randbytes(draw.randrange(20)),
        )
        file.write_bytes(data[:start] + added + data[start + removed :])
        items = survey(file, draw.choice([200, 1 << 20]))
        assert items and json.dumps([asdict(item) for item in items], ensure_ascii=False).encode()
