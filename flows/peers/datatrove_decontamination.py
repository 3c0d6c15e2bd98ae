"""datatrove's n-gram decontamination on one corpus, in an environment of its own: datatrove[processing].

Usage: python datatrove_decontamination.py INPUT, a JSON file {"items": [...], "documents": [...]}. Prints
{"seconds": processor seconds, "flagged": documents}. The hashes of the items are written as its indexer writes them,
with its own functions; the indexer itself imports a module that lighteval no longer has.
"""

import json
import struct
import sys
import tempfile
import time
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.decont import NGramsDecontConfig, NGramsDecontFilter
from datatrove.utils.hashing import HashConfig, create_hash_func
from datatrove.utils.text import TextNormConfig, ngrams, simplify_text
from datatrove.utils.word_tokenizers import load_word_tokenizer

given = json.loads(Path(sys.argv[1]).read_text())
config = NGramsDecontConfig(find_query_ngrams=False, find_overlap_ngrams=False)
hash_func = create_hash_func(config.hash_config if hasattr(config, "hash_config") else HashConfig())
norm = getattr(config, "norm_config", None) or TextNormConfig()
tokenizer = load_word_tokenizer("en")
with tempfile.TemporaryDirectory() as folder:
    hashes = set()
    for item in given["items"]:
        words = tokenizer.word_tokenize(simplify_text(item, norm))
        hashes.update(hash_func(" ".join(gram)) for gram in ngrams(words, config.n_grams))
    with open(f"{folder}/items.index.hashes", "wb") as stream:
        for value in sorted(hashes):
            stream.write(struct.pack("<Q", value))
    step = NGramsDecontFilter(folder, config=config)
    documents = [Document(text=text, id=str(number)) for number, text in enumerate(given["documents"])]
    step.filter(documents[0])  # loads the index and the tokenizer
    began = time.process_time()
    flagged = sum(step.filter(document) is not True for document in documents)
    print(json.dumps({"seconds": time.process_time() - began, "flagged": flagged}))
