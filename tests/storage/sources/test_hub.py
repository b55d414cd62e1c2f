import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from storage.errors import SourceError
from storage.sources import hub
from storage.sources.documents import Quarantined, RawDocument
from storage.sources.parts import read

ROOT = Path(__file__).parents[3]
datasets = pytest.importorskip("datasets", reason="needs the extra data")


def rows(plan, **settings) -> list[Any]:
    return [item for part in plan for item in read(part, **settings)]


@pytest.fixture
def folder(tmp_path):
    for shard in range(3):
        rows = [f'{{"text": "{shard}.{row}", "url": "http://{row}"}}\n' for row in range(shard + 1)]
        (tmp_path / f"train-{shard}.jsonl").write_text("".join(rows))
    return tmp_path


def test_a_local_folder_is_read_shard_by_shard(folder):
    plan = hub.parts(str(folder))
    items = rows(reversed(plan))
    assert len(plan) == 3
    assert items[0] == RawDocument(f"{folder.name}/train/00002:0", "2.0", "http://0")
    assert [item.text for item in items] == ["2.0", "2.1", "2.2", "1.0", "1.1", "0.0"]
    assert all(item.reason == "no text" for item in rows(plan, text_field="body"))


def test_what_save_to_disk_wrote(tmp_path):
    table = datasets.Dataset.from_dict({"text": ["a", "b", "c"]})
    table.save_to_disk(tmp_path / "rows", num_shards=2)
    datasets.DatasetDict(train=table, test=table.select([2])).save_to_disk(tmp_path / "splits")
    saved = [hub.parts(str(tmp_path / "rows")), hub.parts(str(tmp_path / "splits"), split="test")]
    texts = [[item.text for item in rows(plan)] for plan in saved]
    assert [len(plan) for plan in saved] == [2, 1] and texts == [["a", "b", "c"], ["c"]]


def test_a_damaged_shard_costs_itself_only(folder):
    (folder / "train-1.jsonl").write_text('{"text": "1.0"}\n{"text": \n')
    items = rows(hub.parts(str(folder)))
    assert [item.text for item in items if isinstance(item, RawDocument)] == ["0.0", "2.0", "2.1", "2.2"]
    [bad] = [item for item in items if isinstance(item, Quarantined)]
    assert (bad.place, bad.reason) == (f"{folder.name}/train/00001:0", "damaged")


def test_the_digest_is_of_the_contents(folder, tmp_path_factory):
    copy = tmp_path_factory.mktemp("copy") / "elsewhere"
    shutil.copytree(folder, copy)
    assert hub.content_digest(str(copy)) == hub.content_digest(str(folder))
    (copy / "train-0.jsonl").write_text('{"text": "other"}\n')
    assert hub.content_digest(str(copy)) != hub.content_digest(str(folder))


@pytest.mark.parametrize(
    ("settings", "message"), [({"split": "nope"}, "Bad split"), ({"configuration": "x"}, "'x' not")]
)
def test_what_is_not_there(folder, settings, message):
    with pytest.raises(SourceError, match=rf"the dataset .* cannot be opened: .*{message}.*Check its name"):
        hub.parts(str(folder), **settings)


COMMIT = "0123456789abcdef" * 2 + "01234567"
FILES = {"train-0.jsonl": b'{"text": "a"}\n{"text": "b"}\n', "train-1.jsonl": b'{"text": "c"}\n'}


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub's protocol as streaming a public dataset of two files takes."""

    def do_GET(self):
        path = self.path.partition("?")[0]
        api = path.removeprefix("/api/datasets/someone/words")
        if api == path:
            served = path.startswith(f"/datasets/someone/words/resolve/{COMMIT}/")
            self.answer(FILES.get(path.rpartition("/")[2]) if served else None)
        elif api.startswith("/tree"):
            files = [{"type": "file", "path": name, "size": len(FILES[name]), "oid": name} for name in FILES]
            self.answer(json.dumps(files).encode())
        elif api in ("", "/revision/new", f"/revision/{COMMIT}"):
            self.answer(json.dumps({"id": "someone/words", "sha": COMMIT, "siblings": []}).encode())
        else:
            self.answer(None)

    do_HEAD = do_GET

    def answer(self, body):
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.send_header("ETag", '"x"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("X-Error-Code", "EntryNotFound")
        self.end_headers()
        if body and self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format, *_):
        pass


PROGRAM = """
from storage.sources import hub
from storage.sources.parts import read
print(hub.content_digest("someone/words", "new"))
print([[item.id, item.text] for part in hub.parts("someone/words") for item in read(part)])
hub.parts("someone/absent")
"""


def test_a_dataset_of_the_hub_is_bound_to_its_commit(tmp_path):
    """In another process: the hub's address is read when huggingface_hub is imported."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path)}
        online = {"HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0", "PYTHONPATH": str(ROOT)}
        run = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=os.environ | address | online, capture_output=True, text=True
        )
        server.shutdown()
    digest, items = run.stdout.splitlines()
    assert digest == COMMIT
    assert items == str(
        [["words/train/00000:0", "a"], ["words/train/00000:1", "b"], ["words/train/00001:0", "c"]]
    )
    assert "SourceError: the dataset someone/absent cannot be opened: 404 Client Error" in run.stderr
