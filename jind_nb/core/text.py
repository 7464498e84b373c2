"""Names and lists as people read them."""

import difflib
import json
import re
import unicodedata
from collections.abc import Iterable

# Characters of no width that copied text brings along.
INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad"))


def as_text(value: object) -> str:
    """Return a batch or label name as text, so that `1`, `1.0` (a column with gaps) and `"1"` are the same batch.

    Letters with accents have one form (NFC), blanks of any kind are one space, and bytes are read as UTF-8.

    >>> as_text(1), as_text(1.0), as_text("1"), as_text(1.5), as_text(b"T cell"), as_text("T\\u00a0 cell")
    ('1', '1', '1', '1.5', 'T cell', 'T cell')
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    if text.isascii() and text.isalnum():
        return text
    return re.sub(r"[^\S\r\n]+", " ", unicodedata.normalize("NFC", text.translate(INVISIBLE))).strip()


def listing(names: Iterable[object], most: int = 20, *, quoted: bool = True) -> str:
    """Return the first few names, and how many more there are.

    >>> listing(["B", "T"]), listing("ABCD", 2, quoted=False)
    ("'B', 'T'", 'A, B and 2 more')
    """
    names = list(names)
    shown = ", ".join(map(repr if quoted else str, names[:most]))
    return shown + (f" and {len(names) - most:,} more" if len(names) > most else "")


def in_yaml(name: str) -> str:
    """Return a name as a map of YAML takes it: with quotes where it holds signs that mean something there.

    >>> print(in_yaml("CD4+ T"), in_yaml("CD8-positive, alpha-beta T cell"))
    CD4+ T "CD8-positive, alpha-beta T cell"
    """
    plain = re.fullmatch(r"[\w(/][\w.+()/ -]*", name)
    return name if plain else json.dumps(name, ensure_ascii=False)


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the known name that is most like a (misspelt) one, None if none is.

    >>> nearest("celtype", ["batch", "celltype"])
    'celltype'
    """
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=cutoff)), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint to put behind a message about a name that is not known, empty if no known one is like it."""
    known = list(known)
    near = next((other for other in known if other.casefold() == name.casefold()), None) or nearest(name, known)
    return f" Did you mean {near!r}?" if near else ""


def plural(n: int, one: str, many: str | None = None) -> str:
    """Return a number and its noun.

    >>> plural(1, "cell"), plural(1200, "cell"), plural(2, "batch", "batches")
    ('1 cell', '1,200 cells', '2 batches')
    """
    return f"{n:,} {one if n == 1 else many or f'{one}s'}"


def percent(share: float) -> str:
    """Return a share (0 to 1) as a percentage with one decimal; what is nearly none or all is not shown as none or all.

    Of two shares of a whole that lie in the middle between two decimals, one is rounded up and one down: they add up to 100 %.

    >>> percent(0.1234), percent(0.0001), percent(0.9999), percent(1559 / 2000), percent(441 / 2000)
    ('12.3 %', '<0.1 %', '>99.9 %', '78.0 %', '22.0 %')
    """
    if 0 < share < 0.0005:
        return "<0.1 %"
    return ">99.9 %" if 0.9995 <= share < 1 else f"{round(round(1000 * share, 6)) / 10:.1f} %"


def about(share: float) -> str:
    """Return an estimated share (0 to 1) in words.

    >>> about(0.1234), about(0.0001)
    ('about 12.3 %', 'less than 0.1 %')
    """
    return "less than 0.1 %" if share < 0.0005 else f"about {percent(share)}"
