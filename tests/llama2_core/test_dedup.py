import numpy as np

from llama2_core.data.dedup import exact_duplicates, fingerprint, nearest, shingles, similarity
from llama2_core.data.documents import Document


def documents(**texts: str) -> list[Document]:
    return [Document(name, "test", text) for name, text in texts.items()]


def test_the_first_of_equal_texts_stays():
    same = documents(a="One text.", b="Another.", c="One  text.\r\n", d="one text.", e="One\ntext.")
    assert exact_duplicates(same) == {"c": "a", "e": "a"}


def test_fingerprint_sees_through_composition():
    assert fingerprint("e\u0301") == fingerprint("é") != fingerprint("e")


def test_shingles():
    assert shingles("A b c d e f") == ["a b c d e", "b c d e f"]
    assert shingles("too short") == ["too short"]
    assert shingles("") == [""]


def test_similarity_is_the_share_of_equal_minima():
    assert similarity(np.array([1, 2, 3, 4]), np.array([1, 2, 9, 4])) == 0.75


def test_nearest_needs_the_threshold():
    signatures = {
        "far": np.array([1, 0, 0, 0]),
        "near": np.array([1, 2, 3, 0]),
        "tie": np.array([1, 2, 3, 9]),
    }
    target = np.array([1, 2, 3, 4])
    assert nearest(target, ["far", "near", "tie"], signatures, 0.75) == ("near", 0.75)
    assert nearest(target, ["far", "near", "tie"], signatures, 0.76) is None
    assert nearest(target, [], signatures, 0.0) is None
