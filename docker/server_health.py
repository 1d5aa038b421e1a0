"""Whether the server of this container answers: the image's HEALTHCHECK.

    python3 docker/server_health.py [CMDLINE]

CMDLINE holds the words that the container's first process was started with: /proc/1/cmdline. Any other job
than a server is healthy as long as it runs. Standard library only: it runs twice a minute.
"""

from __future__ import annotations

import re
import sys
import urllib.error
import urllib.request
from itertools import pairwise
from pathlib import Path

TIMEOUT_S = 5
SERVES = re.compile(r"\+{0,2}server=(true|yes|on|1)", re.IGNORECASE)


def address_of(words: list[str]) -> str | None:
    """Where the server of this command line answers, or None if it starts none."""
    # With `docker run --init`, the first process still has the words of the user.
    by_word = any(after == "serve" and before.endswith("entrypoint.sh") for before, after in pairwise(words))
    if not by_word and not any(SERVES.fullmatch(word) for word in words):
        return None
    settings = dict(word.lstrip("+").split("=", 1) for word in words if "=" in word)
    host = settings.get("serving.host", "127.0.0.1")
    if host in ("0.0.0.0", "::", "localhost"):
        host = "127.0.0.1"
    return f"http://{host}:{settings.get('port', '5555')}/health"


def main(arguments: list[str]) -> int:
    """0: healthy; 1: not."""
    cmdline = Path(arguments[0] if arguments else "/proc/1/cmdline").read_bytes()
    address = address_of(cmdline.decode(errors="replace").split("\0"))
    if address is None:
        print("no server runs here")
        return 0
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT_S) as answer:
            print(answer.read().decode())
    except (urllib.error.URLError, OSError) as error:
        print(f"{address}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
