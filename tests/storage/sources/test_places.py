import http.server
import os
import threading

import fsspec
import pytest

from storage.errors import MissingPackage, SourceError
from storage.sources.documents import RawDocument
from storage.sources.parts import parts
from storage.sources.places import content_digest, find_files, format_of

LINES = b"".join(b'{"text": "line %d"}\n' % i for i in range(10))


def test_formats():
    assert format_of("a/b.jsonl.gz") == ("jsonl", ".gz") and format_of("B.TXT.ZST") == ("txt", ".zst")
    assert format_of("https://x.org/a.csv?key=a.b") == ("csv", "")
    for name in ("a.json", "a.parquet.gz", "a.gz", "jsonl", "a.txt.bz2", "a.txt/b"):
        assert format_of(name) == ("", "")


def test_names_are_from_the_deepest_common_folder(tmp_path):
    for name in ("x/a.txt", "x/y/b.TXT", "x/[c].txt", "z.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("words")
    assert list(find_files([str(tmp_path)])) == ["[c].txt", "a.txt", "y/b.TXT"]
    assert list(find_files([f"{tmp_path}/x/[c].txt"])) == ["[c].txt"]
    assert list(find_files([f"{tmp_path}/**/*.txt", f"{tmp_path}/x/a.txt"])) == ["[c].txt", "a.txt"]
    assert list(find_files([f"{tmp_path}/x/y", f"{tmp_path}/x/a.txt"])) == ["a.txt", "y/b.TXT"]


def test_a_name_that_is_not_utf8(tmp_path, survey):
    file = os.fsencode(tmp_path) + b"/caf\xe9.txt"
    with open(file, "w") as content:  # noqa: PTH123 (bytes)
        content.write("words")
    assert survey(str(tmp_path)) == [RawDocument("caf\\xe9.txt", "words")]
    assert len(content_digest([str(tmp_path)])) == 64


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("nothing*.txt", SourceError, r"nothing\*\.txt: no file matches; check the path"),
        ("memory://absent/", SourceError, r"memory://absent/: no file matches"),
        ("page.pdf", SourceError, r"page\.pdf: only \.txt, \.jsonl.* are read; narrow the pattern"),
        ("nonsense://a.txt", SourceError, r"nonsense://a\.txt: Protocol not known.*give a path or a URL"),
        (
            "smb://x/a.txt",
            MissingPackage,
            r'smb://x/a\.txt: .*"smbprotocol".* installed; for s3://: pip install',
        ),
    ],
)
def test_what_cannot_be_found(tmp_path, monkeypatch, path, error, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page.pdf").write_bytes(b"%PDF")
    with pytest.raises(error, match=message):
        parts([path])


def test_no_paths():
    with pytest.raises(SourceError, match="no paths are given"):
        find_files([])


def test_the_digest_is_of_names_and_contents_not_of_places(tmp_path):
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text("a")
    here, there = (content_digest([str(tmp_path / folder)]) for folder in ("here", "there"))
    assert here == there
    (tmp_path / "there/a.txt").write_text("b")
    assert content_digest([str(tmp_path / "there/*.txt")]) != here


def test_a_remote_file_system(survey):
    memory = fsspec.filesystem("memory")
    memory.pipe({"/lake/a.jsonl": LINES, "/lake/deep/b.txt": b"words"})
    assert survey("memory://lake", 30) == survey("memory://lake")
    assert [item.id for item in survey("memory://lake/**")][-2:] == ["a.jsonl:171", "deep/b.txt"]
    before = content_digest(["memory://lake"])
    memory.pipe("/lake/deep/b.txt", b"sword")
    assert content_digest(["memory://lake"]) != before
    memory.rm("/lake", recursive=True)


def test_two_file_systems_in_one_source(tmp_path):
    memory = fsspec.filesystem("memory")
    memory.pipe("/lake/a.txt", b"words")
    (tmp_path / "b.txt").write_text("words")
    names = list(find_files(["memory://lake/a.txt", str(tmp_path)]))
    assert names == [f"{tmp_path}/b.txt", "memory:///lake/a.txt"]
    memory.rm("/lake", recursive=True)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *_):
        pass


def test_a_web_server_that_sends_files_from_their_beginning_only(tmp_path, monkeypatch, survey):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_bytes(
        b'{"text": "%s"}\n' % (b"x" * 99_987) * 110
    )  # more than fsspec's block
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), QuietHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        items = survey(f"http://127.0.0.1:{server.server_port}/a.jsonl?key=x", 1000)
        server.shutdown()
    assert [item.id for item in items] == [f"a.jsonl?key=x:{i * 100_000}" for i in range(110)]


@pytest.fixture
def bucket(monkeypatch):
    moto = pytest.importorskip("moto.server", reason="needs moto[s3]")
    s3fs = pytest.importorskip("s3fs", reason="needs the extra data")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    fs = s3fs.S3FileSystem()
    fs.mkdir("lake")
    yield fs
    server.stop()
    s3fs.S3FileSystem.clear_instance_cache()


def test_s3(bucket, tmp_path, survey):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": ["one", "two"]}), tmp_path / "c.parquet", row_group_size=1)
    bucket.pipe({"lake/a.jsonl": LINES, "lake/deep/b.txt": b"words", "lake/z.md": b"no"})
    bucket.put(str(tmp_path / "c.parquet"), "lake/deep/c.parquet")
    whole = survey("s3://lake")
    assert [item.id for item in whole[9:]] == [
        "a.jsonl:171",
        "deep/b.txt",
        "deep/c.parquet:0",
        "deep/c.parquet:1",
    ]
    assert [item.text for item in whole[9:]] == ["line 9", "words", "one", "two"]
    assert survey("s3://lake", 30) == whole
    assert [item.id for item in survey("s3://lake/deep/*.txt")] == ["b.txt"]
    before = content_digest(["s3://lake"])
    assert content_digest(["s3://lake/a*", "s3://lake/deep"]) == before
    bucket.pipe("lake/a.jsonl", LINES.replace(b"9", b"8"))
    assert content_digest(["s3://lake"]) != before
    with pytest.raises(SourceError, match="s3://lake/none: no file matches"):
        parts(["s3://lake/none"])
