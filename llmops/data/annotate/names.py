"""What names somebody in the documents that the entries of the split ledger were made of, as keyed hashes.

An entry holds redacted text, which seldom says whose it was, and it stays when the documents and all artifacts made of
them are gone. By these hashes an erasure still finds it. Hashed are the terms (`identity.terms`) of every text of the
documents that the entry does not hold itself: what was redacted, what a template does not show, the rest of the
conversation.

Of each hash 40 bits are kept, so that a term is taken for another once in 10^12. The salt lies in the same database: as
with the list of the forgotten, who has that can test one guess at a time, but no table made once for everybody helps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache

import polars as pl

from llmops.data.text.identity import Shape, location_names, needed, terms
from llmops.data.worktables import WorkTables, batched
from llmops.records import Document, is_key, without_message

SIZE = 5  #: bytes of a hash


def said(compared: str, example: Mapping[str, str] | None) -> str:
    """All that an entry says, in lines; without numbers, such as a row's, that are nobody's."""
    e = example or {}
    texts = (e.get(name, "") for name in ("question", "answer", "context", "group", "location"))
    return "\n".join([compared, *texts, e["position"] if is_key(e.get("position", "")) else ""])


def place_of(document: Document) -> int:
    """A number for the place of a document. Those of one place are one conversation, or one row."""
    place = "\0".join((document.source, document.location, without_message(document.position)))
    digest = hashlib.blake2b(place.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def note(items: pl.DataFrame, documents: Iterable[Document], work: WorkTables, compared: str, salt: bytes) -> None:
    """Note in the table `names` who is named in the documents that items were made of.

    Those are all of the same place: a conversation is one.

    Args:
        items: from `split_items` or `Past.new`.
        documents: all that the run has read.
        work: the tables.
        compared: the text by which a candidate `c` is compared, in SQL.
        salt: of the ledger.
    """
    work.replace("noted", items.select("row", pl.col("split").cast(pl.String)).to_arrow())
    noted = "FROM candidates c JOIN noted USING (row)"
    places = work.frame(f"""SELECT row, place {noted}
        UNION SELECT row, answered_at AS place {noted} WHERE answered_at IS NOT NULL""")
    shown = 'concat_ws(chr(10), c.question, c.answer, c.context, c."group")'
    said = f"""SELECT row, {compared} || CASE WHEN split = 'test' THEN chr(10) || {shown} ELSE '' END AS said
        {noted} JOIN now USING (row)"""
    for some in batched(documents) if len(items) else ():
        at = pl.Series("place", map(place_of, some), dtype=pl.Int64).to_frame().with_row_index("document")
        pairs = at.join(places, "place").select("row", "document")
        work.replace("now", pairs.select("row").unique().to_arrow())
        says = {row["row"]: row["said"] for row in work.rows(said)}
        rows = ((row, _unsaid(some[number], says[row], salt)) for row, number in pairs.iter_rows())
        work.add("named", [{"row": row, "names": names} for row, names in rows if names])
    work.execute("CREATE OR REPLACE TABLE names AS SELECT row, list(names) AS names FROM named GROUP BY row")


def again(items: pl.DataFrame, new: pl.DataFrame, work: WorkTables) -> Callable[[Sequence[str]], Mapping[str, bytes]]:
    """Gives of those ids that a run has again, when `note` has noted its items, the hashes: a row may name more by now.

    Args:
        items: all of the run.
        new: those that are new in it.
        work: the tables.
    """
    work.replace("again", items.join(new, "row", "anti").select("row", "id").to_arrow())

    def of(ids: Sequence[str]) -> Mapping[str, bytes]:
        asked = pl.Series("id", [int(id_, 16) for id_ in ids], dtype=pl.UInt64)
        work.replace("ids", asked.to_frame().to_arrow())
        rows = work.rows("SELECT id, names FROM again JOIN ids USING (id) JOIN names USING (row)")
        return {f"{row['id']:016x}": joined(*row["names"]) for row in rows}

    return of


def hashes(some: Iterable[str], salt: bytes) -> set[bytes]:
    """The hashes of terms."""
    return {_hash(term, salt) for term in some}


def finder(shape: Shape, plain: str, salt: bytes) -> Callable[[bytes, str], bool]:
    """Tells of an entry, by its hashes and what it says, whether the documents behind it named a person.

    Args:
        shape: of the person's identifier, with `plain` as `identity.identifier` gives them.
        plain: the identifier as it is compared.
        salt: of the ledger.
    """
    wanted = [[(term, _hash(term, salt)) for term in alternatives] for alternatives in needed(shape, plain)]

    def named(kept: bytes, text: str) -> bool:
        if not any(digest in kept for alternatives in wanted for _, digest in alternatives):
            return False
        there = _unpacked(kept)
        own = terms(text)
        return all(any(digest in there or term in own for term, digest in some) for some in wanted)

    return named


def _unsaid(document: Document, said: str, salt: bytes) -> bytes:
    """The hashes of what names somebody in a document and is not said, in lines, by an entry that is made of it."""
    texts = [text for text in _texts(document) if f"\n{text}\n" not in f"\n{said}\n"]
    return b"".join(hashes(_terms(texts), salt) | _of_location(document.location, salt))


@lru_cache(1_000)
def _of_location(location: str, salt: bytes) -> set[bytes]:
    return hashes(_terms(location_names(location)), salt)


def _texts(document: Document) -> list[str]:
    """What a document says, as an erasure looks through it."""
    d = document
    fields = "" if d.fields == "{}" else d.fields
    key = d.position if is_key(d.position) else ""
    return [text for text in (d.question, d.answer, d.context, d.same_as, d.group, d.text, fields, key) if text]


def _hash(term: str, salt: bytes) -> bytes:
    return hashlib.blake2b(term.encode("utf-8", "surrogatepass"), digest_size=SIZE, key=salt).digest()


def raised(kept: bytes, before: str, now: str, salt: bytes) -> bytes:
    """The hashes of an entry that says `now` what it said `before`."""
    return joined(kept, b"".join(hashes(terms(before) - terms(now), salt)))


def joined(*some: bytes) -> bytes:
    """The hashes of all, each once."""
    return b"".join(sorted(set[bytes]().union(*map(_unpacked, some))))


def _unpacked(kept: bytes) -> set[bytes]:
    return {kept[start : start + SIZE] for start in range(0, len(kept), SIZE)}


def _terms(texts: Iterable[str]) -> set[str]:
    return set[str]().union(*map(terms, texts))
