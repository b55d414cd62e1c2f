import pytest

from storage.errors import SourceError
from storage.sources.files import read_dialogs

LINE = b'{"messages": [{"role": "user", "content": "x"}]}\n'


def test_dialogs_come_with_their_line(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + LINE + b"\n" + LINE)
    said = [{"role": "user", "content": "x"}]
    assert list(read_dialogs(tmp_path / "a.jsonl")) == [("a.jsonl:1", said), ("a.jsonl:3", said)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            LINE + b'{"messages": ',
            r"a\.jsonl:2: not JSON \(Expecting value, character 13\); a line holds one object",
        ),
        (LINE + b'["a"]', r"a\.jsonl:2: not an object"),
        (LINE + b'{"text": "a"}', r'a\.jsonl:2: no list named "messages"; a line looks like'),
        (LINE + b'{"text": "\xe9"}', r"a\.jsonl:2: byte 59 \(0xe9\) is not UTF-8; .*iconv -f ISO-8859-1"),
        (b" \n\n", r"a\.jsonl: every line is blank"),
    ],
)
def test_the_first_bad_line_is_an_error(tmp_path, content, message):
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(SourceError, match=message):
        list(read_dialogs(tmp_path / "a.jsonl"))


def test_no_file(tmp_path):
    with pytest.raises(SourceError, match=r"a\.jsonl: no such file"):
        list(read_dialogs(tmp_path / "a.jsonl"))
