"""Small texts to train tokenizers on."""

import json
from pathlib import Path

ENGLISH = (
    "The river rises in the hills and reaches the sea after 1,200 kilometres.\nBoats carry rice and salt."
)
HINDI = "नदी पहाड़ों से निकलती है और १२०० किलोमीटर चलकर समुद्र में मिलती है।\nनावें चावल और नमक ले जाती हैं।"

# Words that share parts, so that there is something to learn.
WORDS = " ".join(
    [
        stem + end
        for stem in ("river", "water", "stream", "bridge", "valley")
        for end in ("s", "side", "ing", "less")
    ]
    + [stem + end for stem in ("नदी", "जल", "पर्वत", "समुद्र", "सेतु") for end in ("मार्ग", "तट", "वासी", "पथ")]
)


def write_jsonl(path: Path, texts: list[str], key: str = "text") -> Path:
    path.write_text("".join(json.dumps({key: text}, ensure_ascii=False) + "\n" for text in texts), "utf-8")
    return path
