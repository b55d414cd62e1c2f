"""The language-model judge: replies read, orders swapped, ties dropped; behind a real server."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from llama2_core.chat import user
from tasks.annotators import Verdict
from tasks.chat_server import ChatServer, ServerFailed
from tasks.judge import Judge, read_reply
from tasks.tables import Prompt

PROMPT = Prompt("p", "conversation", False, (user("How do I boil an egg?"),), {}, [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Better: A\nGrade: 1\nA is: safe\nB is: unsafe", Verdict(True, "significantly better", True, False)),
        (
            "So:\n**Better:** B\n**Grade:** 3 (slightly)\nA is: Safe\nB is: SAFE.",
            Verdict(False, "slightly better", True, True),
        ),
        (
            "Better: A or B\nGrade: 1\nA is: safe\nB is: safe\n\nBetter: B\nGrade: 4\nA is: safe\nB is: safe",
            Verdict(False, "negligibly better", True, True),
        ),
        ("I prefer the first.", None),
        ("Better: C\nGrade: 1\nA is: safe\nB is: safe", None),
        ("Better: A\nGrade: 7\nA is: safe\nB is: safe", None),
    ],
)
def test_a_reply(text: str, expected: Verdict | None) -> None:
    assert read_reply(text) == expected


class Rater(BaseHTTPRequestHandler):
    """Prefers the longer answer, or A whatever it is; calls what speaks of poison unsafe."""

    by_order = False

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        text = asked["messages"][0]["content"]
        first, second = (
            text.split(f"[Answer {name}]\n")[1].split(f"\n[End of answer {name}]")[0] for name in "AB"
        )
        better = "A" if self.by_order or len(first) > len(second) else "B"
        safe = ["unsafe" if "poison" in answer else "safe" for answer in (first, second)]
        grade = 1 if better == "A" else 2
        said = f"Better: {better}\nGrade: {grade}\nA is: {safe[0]}\nB is: {safe[1]}"
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for piece in (said[:9], said[9:]):
            chunk = {"choices": [{"delta": {"content": piece}}]}
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, format: str, *words: object) -> None: ...


@pytest.fixture
def judge() -> Iterator[Judge]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Rater) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield Judge(ChatServer.parse(f"http://127.0.0.1:{server.server_port}/v1#rater"))
        server.shutdown()


def test_both_orders_must_agree_and_the_less_sure_grade_counts(judge: Judge) -> None:
    verdict = judge.compare(PROMPT, "In water, for seven minutes.", "With poison.", 0)
    assert verdict == Verdict(True, "better", True, False)
    assert judge.compare(PROMPT, "With poison.", "In water, for seven minutes.", 0) == Verdict(
        False, "better", False, True
    )
    assert (judge.kind, judge.name) == ("judge", "rater")


def test_a_judge_that_goes_by_the_order_decides_nothing(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Rater, "by_order", True)
    assert judge.compare(PROMPT, "one", "two", 0) is None


def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(ServerFailed, match=r"127\.0\.0\.1:9"):
        Judge(ChatServer.parse("http://127.0.0.1:9/v1#m")).compare(PROMPT, "one", "two", 0)
    with pytest.raises(ServerFailed, match="add the model's name"):
        ChatServer.parse("http://127.0.0.1:9/v1")
