"""One way of finding near duplicates, run over a file of texts in a process of its own: `near_duplicates_bench.py WAY TEXTS OUT`.

The clock runs from the texts in memory to one cluster number a row; peak memory is the whole process's.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from core.data.clusters import Forest
from core.data.near_duplicates import BANDS, THRESHOLD, Deduplicator, fingerprint
from core.data.shingles import SHINGLE_CHARS, normalise

_BATCH = 500

Way = Callable[[Sequence[str], Path], tuple[list[int], list[bool]]]


def edgekiln(
    texts: Sequence[str], folder: Path, bands: int = BANDS, threshold: float = THRESHOLD, batch: int = 500
) -> tuple[list[int], list[bool]]:
    """Run our own, in batches."""
    with Deduplicator(folder, bands, threshold) as rows:
        for start in range(0, len(texts), _BATCH):
            prints = fingerprint(texts[start : start + _BATCH], bands)
            count = len(prints.text_hashes)
            rows.add(prints, [0] * count, range(start, start + count))
        clusters = rows.clusters()
    return clusters.representative.tolist(), clusters.duplicates().tolist()


def datasketch(texts: Sequence[str], _folder: Path) -> tuple[list[int], list[bool]]:
    """Run datasketch with our shingles, slots and threshold, its candidates checked by its own estimate."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=THRESHOLD, num_perm=BANDS * 8)
    kept, links = [], []
    for row, text in enumerate(texts):
        normal = normalise(text)
        signature = MinHash(num_perm=BANDS * 8)
        pieces = {normal[start : start + SHINGLE_CHARS] for start in range(max(1, len(normal) - SHINGLE_CHARS + 1))}
        signature.update_batch([piece.encode() for piece in pieces])
        links += [(row, other) for other in index.query(signature) if signature.jaccard(kept[other]) >= THRESHOLD]
        index.insert(row, signature)
        kept.append(signature)
    return _joined(len(texts), links)


def datatrove(texts: Sequence[str], folder: Path) -> tuple[list[int], list[bool]]:
    """Run datatrove's steps as its example does, with its defaults: 5 words, 14 x 8.

    Words are split at white space, and hashed by SHA-1, as its xxhash wants one older than 4.
    """
    from datatrove.data import Document
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.utils.hashing import HashConfig
    from datatrove.utils.logging import logger
    from datatrove.utils.word_tokenizers import WordTokenizer

    class Words(WordTokenizer):
        def __init__(self) -> None:
            super().__init__("en")

        def word_tokenize(self, text: str) -> list[str]:
            return text.split()

        def sent_tokenize(self, text: str) -> list[str]:
            return [text]

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            return [(0, len(text))]

    logger.remove()
    signatures, buckets, clusters = (str(folder / name) for name in ("signatures", "buckets", "clusters"))
    documents = (Document(text=text, id=str(row)) for row, text in enumerate(texts))
    config = MinhashConfig(hash_config=HashConfig(hash_fc="sha1"))
    MinhashDedupSignature(signatures, config, language=Words()).run(documents, rank=0, world_size=1)
    for bucket in range(config.num_buckets):
        MinhashDedupBuckets(signatures, buckets, config=config).run(rank=bucket, world_size=config.num_buckets)
    MinhashDedupCluster(buckets, clusters, config, save_cluster_id=True).run()
    found = np.fromfile(folder / "clusters" / "000000.clusters", dtype="<u4").reshape(-1, 2).tolist()
    first: dict[int, int] = {}
    return _joined(len(texts), [(row, first.setdefault(cluster, row)) for row, cluster in found])


def every_pair(texts: Sequence[str], _folder: Path) -> tuple[list[int], list[bool]]:
    """Compare each signature with all before it."""
    signatures = fingerprint(texts).signatures
    links = []
    for row in range(1, len(texts)):
        agree = np.count_nonzero(signatures[:row] == signatures[row], axis=1)
        links += [(row, int(other)) for other in np.flatnonzero(agree >= THRESHOLD * signatures.shape[1])]
    return _joined(len(texts), links)


def _joined(count: int, links: list[tuple[int, int]]) -> tuple[list[int], list[bool]]:
    """Return the clusters, all of whose rows but the first are set aside."""
    forest = Forest(count)
    pairs = np.array(links, dtype=np.int64).reshape(-1, 2)
    forest.join(pairs[:, 0].copy(), pairs[:, 1].copy())
    heads = forest.roots().tolist()
    return heads, [head != row for row, head in enumerate(heads)]


WAYS: dict[str, Way] = {
    "edgekiln": edgekiln,
    "datasketch": datasketch,
    "datatrove": datatrove,
    "broken: one band": lambda texts, folder: edgekiln(texts, folder, bands=1),
    "broken: a threshold of 0.3": lambda texts, folder: edgekiln(texts, folder, threshold=0.3),
    "broken: every pair is compared": every_pair,
}


def _peak_mb() -> float:
    # not getrusage, whose figure is inherited from the larger process that started this one
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024 / 1e6


def main(way: str, texts: Path, out: Path) -> None:
    """Run one way over the texts, a JSON text a line, and write its clusters and what it took."""
    rows = [json.loads(line) for line in texts.read_text(encoding="utf-8").splitlines()]
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        began = time.perf_counter()
        heads, set_aside = WAYS[way](rows, Path(folder))
        seconds = time.perf_counter() - began
    found = {"seconds": seconds, "peak_mb": _peak_mb(), "heads": heads, "set_aside": set_aside}
    out.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
