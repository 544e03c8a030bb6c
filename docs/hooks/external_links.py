# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Request every link to another server that a file of the repository has: pages, notebooks, docstrings, settings.

    python docs/hooks/external_links.py [FILE ...]    # `make links`

The exit code is 1 if a link is broken: 404, 410, no such anchor, or no answer after several attempts. Servers that refuse a
program (401, 403, 429) are listed and do not count as broken. Only Python is needed.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.parse import urldefrag, urlsplit
from urllib.request import Request, urlopen

ROOT = Path(__file__).resolve().parents[2]
SUFFIXES = {".cff", ".html", ".ipynb", ".json", ".md", ".py", ".toml", ".yaml", ".yml"}
LINK = re.compile(r"https?://[^\s<>\"'`\\|{}\[\]]+")
RESERVED = re.compile(r"(^|\.)(example|invalid|localhost|test)$|(^|\.)example\.(com|net|org)$|^127\.|^[^.]*$")
NOT_YET = ("https://pypi.org/project/monai-locor/",)  # exists from the first release on
RESOLVERS = ("doi.org",)  # send everyone on
REFUSED = (401, 403, 429)
GONE = (404, 410)
ATTEMPTS = 3
SECONDS = 20.0
THREADS = 8
AGENT = "Mozilla/5.0 (compatible; monai-locor link check)"  # some servers refuse that of urllib


class Outcome(NamedTuple):
    """What a server answered.

    Attributes:
        kind: ``"ok"``, ``"moved"``, ``"refused"`` or ``"broken"``.
        text: the status, the new address or the error.
    """

    kind: str
    text: str


def files() -> Iterator[Path]:
    """The files of the repository that have links, without the tests, whose addresses do not exist."""
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True).stdout  # noqa: S607
    for name in listed.splitlines():
        path = ROOT / name
        if path.suffix in SUFFIXES and not name.startswith("tests/") and path.is_file():
            yield path


def links(paths: Iterable[Path]) -> dict[str, list[str]]:
    """Every external link with the places ``FILE:LINE`` where it stands. Addresses reserved for examples are left out."""
    found: dict[str, list[str]] = {}
    for path in paths:
        where = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if '"image/png": "' in line:
                continue
            for match in LINK.finditer(line.replace("\\n", " ")):
                url = trimmed(match[0])
                if not (RESERVED.search(_host(url)) or url.endswith("$") or url in NOT_YET):  # "${{ ... }}" is a template
                    found.setdefault(url, []).append(f"{where}:{number}")
    return found


def _host(url: str) -> str:
    """The name of the server, empty if the link has none that is valid."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return "."  # not reserved, so that `fault` sees it


def trimmed(url: str) -> str:
    """A link without what follows it in a sentence: punctuation and the closing parenthesis of Markdown."""
    url = url.rstrip(".,;:!?*_")
    while url.endswith(")") and url.count(")") > url.count("("):
        url = url[:-1].rstrip(".,;:!?*_")
    return url


def fault(url: str) -> str:
    """What is wrong with the form of a link; empty if nothing is."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        return str(error)
    if parts.scheme != "https":
        return "not https"
    if not re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.hostname or ""):
        return "no name of a server"
    if re.search(r"[^\w\-.~:/?#@!$&()*+,;=%]", url):
        return "characters that an address must not have"
    return "two fragments" if url.count("#") > 1 else ""


def ask(url: str, attempts: int = ATTEMPTS, seconds: float = SECONDS, pause: float = 2.0) -> Outcome:
    """Request a link, several times if the server fails or does not answer.

    Args:
        url: http or https.
        attempts: at most so many requests.
        seconds: time limit of a request.
        pause: seconds before the second request, doubled before every further one.
    """
    outcome = Outcome("broken", "not tried")
    for attempt in range(attempts):
        if attempt:
            time.sleep(pause * 2 ** (attempt - 1))
        try:
            return _request(url, seconds)
        except HTTPError as error:
            outcome = Outcome("refused" if error.code in REFUSED else "broken", f"{error.code} {error.reason}")
            if error.code in GONE or error.code in REFUSED[:2]:
                break
        except (OSError, ValueError) as error:  # no connection, time limit, no such name, bad answer
            outcome = Outcome("broken", f"{type(error).__name__}: {error}")
    return outcome


def _request(url: str, seconds: float) -> Outcome:
    address, fragment = urldefrag(url)
    request = Request(address, headers={"User-Agent": AGENT, "Accept": "*/*"})  # noqa: S310
    with urlopen(request, timeout=seconds) as answer:  # noqa: S310
        page = answer.read() if fragment and "html" in answer.headers.get("Content-Type", "") else None
        final, status = answer.url, answer.status
    if page is not None and not re.search(
        rf"""(?:id|name)=["']?(?:user-content-)?{re.escape(fragment)}[\s"'>]""".encode(), page
    ):
        return Outcome("broken", f"no anchor #{fragment}")
    moved = final != address and _host(address) not in RESOLVERS
    return Outcome("moved", final) if moved else Outcome("ok", str(status))


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="by default those of the repository")
    parser.add_argument("--form", action="store_true", help="check the form of the links only, without a network")
    parser.add_argument("--attempts", type=int, default=ATTEMPTS, help="requests of a link that fails (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time limit of a request (default: %(default)s)")
    options = parser.parse_args(arguments)
    found = links(path.resolve() for path in options.files or files())
    outcomes = {url: Outcome("broken", fault(url)) for url in found if fault(url)}
    if not options.form:
        asked = [url for url in found if url not in outcomes]
        with ThreadPoolExecutor(THREADS) as pool:
            answers = pool.map(lambda url: ask(url, options.attempts, options.seconds), asked)
            outcomes |= dict(zip(asked, answers, strict=True))
    for url, outcome in sorted(outcomes.items()):
        if outcome.kind != "ok":
            print(f"{outcome.kind}: {url} ({outcome.text})\n    {', '.join(found[url])}")
    broken = sum(outcome.kind == "broken" for outcome in outcomes.values())
    print(f"{len(found)} links, {broken} broken")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
