"""English paragraphs of LibreOffice's help with their German and French translations, as Parquet.

    apt-get download libreoffice-help-en-us libreoffice-help-de libreoffice-help-fr
    for package in *.deb; do dpkg-deb -x "$package" help; done
    python pairs.py help

Writes train.parquet and, of a tenth of the pages, test.parquet, in which no German text of the others is.
"""

import html
import random
import re
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

LANGUAGES = {"en": "en-US", "de": "de", "fr": "fr"}
PARAGRAPH = re.compile(r'<(p|h[1-6]|td)[^>]*\bid="((?:par|hd|tit|bm)_[^"]+)"[^>]*>(.*?)</\1>', re.DOTALL)
TESTED = 2000


def paragraphs(page: Path) -> dict[str, str]:
    """The text of each paragraph of a page, by its id, which translations share."""
    found: dict[str, str] = {}
    for _, name, body in PARAGRAPH.findall(page.read_text(encoding="utf-8")) if page.exists() else ():
        if text := " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split()):
            found.setdefault(name, text)
    return found


def main(folder: str) -> None:
    roots = {language: Path(folder, "usr/share/libreoffice/help", name, "text") for language, name in LANGUAGES.items()}
    pairs: dict[str, list[dict[str, str | None]]] = {}
    seen = set()
    for page in sorted(roots["en"].rglob("*.html")):
        name = page.relative_to(roots["en"])
        texts = {language: paragraphs(root / name) for language, root in roots.items()}
        for key, english in texts["en"].items():
            german, french = texts["de"].get(key), texts["fr"].get(key)
            if german and german != english and 3 <= len(english.split()) <= 60 and english not in seen:
                seen.add(english)
                row = {"en": english, "de": german, "fr": None if french == english else french}
                pairs.setdefault(str(name), []).append(row)
    pages = sorted(pairs)
    random.Random(0).shuffle(pages)
    count = len(pages) // 10
    train = [row for page in sorted(pages[count:]) for row in pairs[page]]
    known = {row["de"] for row in train}
    test = [row for page in sorted(pages[:count]) for row in pairs[page] if row["de"] not in known]
    test = [row for row in test if len(str(row["en"]).split()) >= 5][:TESTED]
    for split, rows in (("train", train), ("test", test)):
        pq.write_table(pa.Table.from_pylist(rows), f"{split}.parquet")
        print(f"{split}: {len(rows):,} rows")


if __name__ == "__main__":
    main(sys.argv[1])
