from llama2_core.data.dedup import fingerprint, shingles


def test_fingerprints_see_through_white_space_alone():
    same = {fingerprint(text) for text in ("One text.", "One  text.\r\n", "One\ntext.")}
    assert len(same) == 1
    assert same.isdisjoint({fingerprint("Another."), fingerprint("one text.")})


def test_fingerprint_sees_through_composition():
    assert fingerprint("e\u0301") == fingerprint("é") != fingerprint("e")


def test_shingles():
    assert shingles("A b c d e f") == ["a b c d e", "b c d e f"]
    assert shingles("too short") == ["too short"]
    assert shingles("") == [""]
