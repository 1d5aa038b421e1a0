"""A web server that stands in for the Hugging Face hub: listing, files by range, and its bad days."""

from __future__ import annotations

import hashlib
import io
import json
import re
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import huggingface_hub.constants
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

_TEXTS = ["नदी पहाड़ों से निकलती है।\nनावें चलती हैं।", "क़लम \u200d x²", " spaces \t kept \n", "e\u0301 not composed"]
PAGE_ENTRIES = 2  # of a listing, so that every listing has pages


@dataclass
class StandInHub:
    """Serves `repositories[repo][commit][path]` as the hub does, and `web[path]` as any server does.

    Args:
        newest: the newest commit of each repository.
        drops: path -> after how many bytes of each of its next answers the connection is cut.
        refusals: path -> status codes of its next answers.
        seconds_per_answer: how slow it is with files.
        ranges: whether it understands range requests.
        requests: (method, path, headers) of all requests.
    """

    repositories: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    newest: dict[str, str] = field(default_factory=dict)
    web: dict[str, bytes] = field(default_factory=dict)
    drops: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    refusals: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    seconds_per_answer: float = 0.0
    ranges: bool = True
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    url: str = ""

    def add(self, repo: str, files: dict[str, bytes], commit: str = "a" * 40) -> None:
        """Publish a commit, which becomes the newest."""
        self.repositories.setdefault(repo, {})[commit] = files
        self.newest[repo] = commit

    def __enter__(self) -> StandInHub:
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def asked_for(self, name: str) -> int:
        """How often a file was asked for."""
        return sum(path.endswith(name) for _, path, _ in self.requests)


class _Handler(BaseHTTPRequestHandler):
    server_hub: StandInHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, parts = self.server_hub, urlsplit(self.path)
        path = unquote(parts.path)
        hub.requests.append((self.command, path, {key.lower(): value for key, value in self.headers.items()}))
        for ending, codes in hub.refusals.items():
            if path.endswith(ending) and codes:
                self._send(codes.pop(0), b"not now")
                return
        if info := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._info(info[1], info[2])
        elif tree := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/tree/([^/]+)(?:/(.+))?", path):
            self._tree(tree[1], tree[2], tree[3] or "", int(parse_qs(parts.query).get("from", ["0"])[0]))
        elif file := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            commit = hub.newest.get(file[1], "") if file[2] == "main" else file[2]
            self._file(path, hub.repositories.get(file[1], {}).get(commit, {}).get(file[3]), commit)
        else:
            self._file(path, hub.web.get(path), "")

    def _info(self, repo: str, revision: str | None) -> None:
        hub = self.server_hub
        commit = hub.newest.get(repo) if revision in (None, "main") else revision
        if commit not in hub.repositories.get(repo, {}):
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound" if commit is None else "RevisionNotFound"})
            return
        files = hub.repositories[repo][commit]
        siblings = [{"rfilename": name} for name in files]
        self._json(
            {"_id": "0", "id": repo, "sha": commit, "private": False, "tags": [], "siblings": siblings}
        )

    def _tree(self, repo: str, commit: str, directory: str, start: int) -> None:
        files = self.server_hub.repositories.get(repo, {}).get(commit, {})
        prefix = f"{directory}/" if directory else ""
        entries: list[dict[str, Any]] = [
            {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
            for name, content in reversed(files.items())
            if name.startswith(prefix)
        ]
        if not entries:
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            return
        folders = sorted({entry["path"].rpartition("/")[0] for entry in entries} - {""})
        entries += [{"type": "directory", "path": folder, "size": 0, "oid": "1" * 40} for folder in folders]
        following = start + PAGE_ENTRIES
        link = f"<{self.server_hub.url}{urlsplit(self.path).path}?recursive=True&from={following}>"
        headers = {"Link": f'{link}; rel="next"'} if following < len(entries) else {}
        self._json(entries[start:following], headers)

    def _file(self, path: str, content: bytes | None, commit: str) -> None:
        hub = self.server_hub
        if content is None:
            asked_of = re.match(r"/datasets/([^/]+/[^/]+)/", path)
            unknown = asked_of is not None and asked_of[1] not in hub.repositories
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound" if unknown else "EntryNotFound"})
            return
        time.sleep(hub.seconds_per_answer)
        etag = hashlib.sha1(content, usedforsecurity=False).hexdigest()
        headers = {"ETag": f'"{etag}"', "Accept-Ranges": "bytes", "X-Repo-Commit": commit}
        status, asked = 200, re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked and hub.ranges:
            begin, end = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {begin}-{end}/{len(content)}"
            status, content = 206, content[begin : end + 1]
        cuts = next((cuts for ending, cuts in hub.drops.items() if path.endswith(ending) and cuts), None)
        self._send(status, content, headers, cuts.pop(0) if cuts and self.command == "GET" else None)

    def _json(self, value: Any, headers: dict[str, str] | None = None) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _send(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: int | None = None
    ) -> None:
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True


def parquet(rows: list[dict[str, Any]], rows_per_group: int = 3) -> bytes:
    """A table as a file."""
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=rows_per_group)
    return sink.getvalue()


def article(number: int) -> dict[str, str]:
    """A row of Wikipedia's tables."""
    text = f"{_TEXTS[number % len(_TEXTS)]} {number}"
    return {"id": f"{number}", "url": f"https://x/{number}", "title": f"शीर्षक {number}", "text": text}


def use_endpoint(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """What HF_ENDPOINT does when huggingface_hub is imported."""
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
