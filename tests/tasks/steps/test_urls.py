import pytest

from llama2_core.data.documents import Document, Drop
from llama2_core.errors import DataError
from tasks.steps.urls import BlockLists, UrlRules, check_url, read_block_lists

LISTS = BlockLists(frozenset({"example.org", "b.example.com", "example.net/forum"}), frozenset({"casino"}))


@pytest.mark.parametrize(
    ("url", "drop"),
    [
        ("https://example.org", Drop("blocked host", "example.org")),
        ("HTTP://WWW.Example.Org:8080/a?b#c", Drop("blocked host", "example.org")),
        ("//me:pw@a.b.example.com./", Drop("blocked host", "b.example.com")),
        ("example.org/page", Drop("blocked host", "example.org")),
        ("https://www.example.net/forum/7?page=2", Drop("blocked host", "example.net/forum")),
        ("https://games.test/best-Casino_2024.html", Drop("blocked word in url", "casino")),
    ],
)
def test_blocked(url, drop):
    assert check_url(Document("a", "b", "text", url=url), LISTS) == drop


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://example.com",
        "https://notexample.org",
        "https://example.org.test/example.org",
        "https://example.net/forums",
        "https://example.net/a/forum",
        "https://test/casinos",
        "https://[::1",
    ],
)
def test_not_blocked(url):
    document = Document("a", "b", "text", url=url)
    assert check_url(document, LISTS) is document


def test_lists_come_from_files(tmp_path):
    hosts, words = tmp_path / "hosts.txt", tmp_path / "words.txt"
    hosts.write_text("# spam\nExample.org  # its forum is no better\n\nexample.net/forum/\n")
    words.write_text("Casino\n")
    lists = read_block_lists(UrlRules(host_files=(str(hosts),), word_files=(str(words),)))
    assert lists == BlockLists(frozenset({"example.org", "example.net/forum"}), frozenset({"casino"}))


def test_errors_name_file_and_line(tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("casino\ntwo words\n")
    with pytest.raises(
        DataError, match=r"words\.txt, line 2: 'two words' is not a word of letters and digits"
    ):
        read_block_lists(UrlRules(word_files=(str(words),)))
    words.write_text("https://example.org\n")
    with pytest.raises(DataError, match=r"line 1: 'https://example\.org' is not a host"):
        read_block_lists(UrlRules(host_files=(str(words),)))
    with pytest.raises(DataError, match=r"nowhere\.txt cannot be read"):
        read_block_lists(UrlRules(host_files=(str(tmp_path / "nowhere.txt"),)))
