"""Near duplicates: rensa's MinHash proposes candidates, the core's similarity decides."""

from collections.abc import Iterable, Iterator

import numpy as np
from rensa import RMinHash, RMinHashLSH  # pyright: ignore[reportAttributeAccessIssue] (compiled, no stubs)

from llama2_core.data.dedup import Signature, nearest, shingles
from llama2_core.data.documents import Document

PERMUTATIONS = 128
BANDS = 32  # of 4 rows: a pair of similarity 0.8 is missed with (1 - 0.8**4)**32 = 5e-8, one of 0.5 with 13%


def near_duplicates(documents: Iterable[Document], threshold: float) -> Iterator[tuple[str, str, float]]:
    """Yield (dropped id, kept id, estimated similarity); of two alike the first stays."""
    index = RMinHashLSH(threshold, PERMUTATIONS, BANDS)
    ids: list[str] = []
    signatures: dict[str, Signature] = {}
    for document in documents:
        minhash = RMinHash(PERMUTATIONS, seed=0)
        minhash.update(shingles(document.text))
        signature = np.array(minhash.digest(), dtype=np.uint32)
        candidates = [ids[key] for key in sorted(index.query(minhash))]
        if match := nearest(signature, candidates, signatures, threshold):
            yield document.id, *match
        else:
            index.insert(len(ids), minhash)
            ids.append(document.id)
            signatures[document.id] = signature
