"""The corpora that can be downloaded: where they are, how they are read, and their licences.

Repositories, directories and licences are taken from the data sets' own pages; docs/download-data.md lists
what could not be checked.
"""

from dataclasses import dataclass, field
from typing import Literal

from recipes.checks import one_of

LOCAL = "local"

TxtDocuments = Literal["file", "blank-line"]
"""A document is a whole .txt file, or ends at a blank line."""


@dataclass(frozen=True)
class Keys:
    """Where a row's fields are: columns of a table or keys of a JSON object, `a.b` for a key inside another.

    If `id` is None, a document is named after its position, `file:row`. `extra` maps the names of further
    fields in the output to their keys; a row may lack them.
    """

    text: str = "text"
    id: str | None = None
    extra: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CorpusSource:
    """A corpus.

    Args:
        name: what users call it, and the beginning of its files' names.
        page: where it is described.
        licence: as stated on its page.
        repo: the data set on the Hugging Face hub; None for a corpus that is a single file elsewhere.
        directory: the directory inside the repository; empty for all of it.
        pattern: which files in it (fnmatch on the path in the repository, where `*` crosses slashes).
        file_url: the file, if there is no `repo`.
        txt_documents: how a .txt file is divided into documents.
        keys: where a row's fields are.
    """

    name: str
    page: str
    licence: str
    repo: str | None = None
    directory: str = ""
    pattern: str = "*"
    file_url: str = ""
    txt_documents: TxtDocuments = "blank-line"
    keys: Keys = field(default_factory=Keys)


def _wikipedia(language: str) -> CorpusSource:
    return CorpusSource(
        name=f"wikipedia_{language}",
        page="https://huggingface.co/datasets/wikimedia/wikipedia",
        licence="CC-BY-SA-3.0 and GFDL",
        repo="wikimedia/wikipedia",
        directory=f"20231101.{language}",
        pattern="*/train-*.parquet",
        keys=Keys(id="id", extra={"url": "url", "title": "title"}),
    )


_ALL = (
    CorpusSource(
        name="sangraha_hi",
        page="https://huggingface.co/datasets/ai4bharat/sangraha",
        licence="CC-BY-4.0",
        repo="ai4bharat/sangraha",
        directory="verified/hin",
        pattern="*.parquet",
        keys=Keys(id="doc_id", extra={"type": "type"}),
    ),
    CorpusSource(
        name="cc100_hi",
        page="https://data.statmt.org/cc-100/",
        licence="none claimed by its makers; Common Crawl's terms of use",
        file_url="https://data.statmt.org/cc-100/hi.txt.xz",
    ),
    _wikipedia("hi"),
    _wikipedia("en"),
    CorpusSource(
        name="stackexchange",
        page="https://huggingface.co/datasets/common-pile/stackexchange",
        licence="CC-BY-SA (2.5, 3.0 or 4.0, per document)",
        repo="common-pile/stackexchange",
        pattern="*/documents/*.jsonl.gz",
        # No id: the data set's own ids are unique only within a site.
        keys=Keys(extra={"url": "metadata.url", "license": "metadata.license"}),
    ),
    CorpusSource(
        name="hinglish",
        page="https://huggingface.co/datasets/kartikagg98/HINMIX_hi-en",
        licence="Apache-2.0",
        repo="kartikagg98/HINMIX_hi-en",
        directory="lcsalign-hicmrom",
        pattern="*/train-*.parquet",
    ),
)
SOURCES = {source.name: source for source in _ALL}


def find_source(name: str) -> CorpusSource:
    """The corpus of that name; the user's own files are a source without an address.

    Raises:
        UserError: there is none.
    """
    if name == LOCAL:
        return CorpusSource(name=LOCAL, page="", licence="not recorded (local files)", txt_documents="file")
    one_of("source", name, (*SOURCES, LOCAL))
    return SOURCES[name]
