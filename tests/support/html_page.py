"""A page that the project wrote, checked while it is read."""

from html.parser import HTMLParser
from pathlib import Path

_TEXT = "</pre></style></title><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7 * 7 }}\"'&"
HOSTILE = f"{_TEXT}\x00\u202e"
"""What a stranger might put into any field: markup, template code, control characters."""


class Page(HTMLParser):
    """Checks that tags nest and that nothing on the page can run or load; keeps tags and text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)
        self.close()
        assert self.open == []
        assert not {"script", "img", "link", "iframe", "object", "form", "a", "b"} & {
            tag for tag, _ in self.tags
        }
        assert not any(key.startswith("on") for _, attrs in self.tags for key in attrs)
        assert "http://" not in self.html and "https://" not in self.html and "url(" not in self.html
        assert "default-src 'none'" in self.html
        assert "\x00" not in self.html and "\u202e" not in self.html

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def check_hostile(self, times: int) -> None:
        """HOSTILE is shown so often, as it is but for the control characters."""
        assert self.text.count(f"{_TEXT}\ufffd\ufffd") == times
