"""Headings: detection of those that ask something, and their numbers.

A heading asks if it ends in a question mark of any script. Without one it may still ask, if it begins like a question
(`How to …`, `Was ist …`, `如何…`) or names a task as help pages do (`Reset your password`, `Returning an item`; English
only), except usual names of pages (`Contact us`, `What's new`). Words that begin questions in one language and
statements in another (Italian `come`, Swedish `var`) are left out: such headings need a question mark.
"""

import re
from collections.abc import Collection, Iterable
from itertools import takewhile

#: Question marks: Latin, wide, Arabic, Greek, reversed, Armenian, Ethiopic, double, Vai.
QUESTION_MARKS = "?？؟\u037e⸮՞፧⁇꘏"
PATH_SEPARATOR = " › "  #: separator of the headings of a path
MAX_PATH_CHARS = 200  #: most characters of a path; headings between the first and the last are dropped first
MAX_QUESTION_CHARS = 200  #: most characters of a heading that asks without a question mark

_TABLE_RULE = re.compile(r"\|(?: *:?-+:? *\|)+")  #: the line below the header of a Markdown table
_CLOSING = r"[\s!！.…\"'”’»)\]）」』*_]*"
_FINAL_QUESTION_MARK = re.compile(rf"[{QUESTION_MARKS};]{_CLOSING}$")
# The Greek question mark may be a semicolon, and NFC turns it into one. It counts if there is a Greek word.
_GREEK = re.compile("[\u0370-\u037d\u037f-\u03ff\u1f00-\u1fff]{2}")

_QUESTION_WORDS = "|".join(
    [
        r"how|what(?:['’]s)?|when|where|which|who|whom|whose|why",
        r"wie|was|wann|wo|woher|wohin|womit|wof[üu]r|wozu|warum|wieso|weshalb|welche[mnrs]?|wer|wen|wem|wessen",
        r"pourquoi|combien|o[ùÙ]|quels?|quelles?|qu['’]est-ce|est-ce|à quoi",
        r"comment(?=\s+(?:[^\W\d_]+(?:er|ir|re|oir)\b|puis-je|s['’]|[scmjtl]['’]|(?:se|me|on|je|les?|la|faire|ça)\s))",
        r"¿.*|cómo|qué|cuándo|dónde|cuál(?:es)?|quién(?:es)?|cuánt[oa]s?|por qué|para qué",
        r"onde|quando|quem|quais|qual|quanto|por que|o que|como",
        r"che cosa|cosa|perché|come(?=\s+(?:si|posso|fare|[^\W\d_]+[aei]re)\b)",
        r"hoe|wanneer|waarom|waar|welke?|hoeveel",
        r"hur|varför|vilken|vilket|vilka|hvordan|hvorfor|hvornår|hvilken|hvilket|hvem|hvor|miten|miksi|milloin",
        r"jak|kiedy|gdzie|dlaczego|ile|proč|kde|kdy|kolik",
        r"как|что|когда|где|куда|откуда|почему|зачем|какой|какая|какое|какие|кто|сколько|як|чому|коли|скільки",
        r"πώς|γιατί|πότε|πού|ποιος|ποια|ποιο|nasıl|neden|hogyan|miért|mikor",
        r"كيف|ماذا|متى|أين|لماذا|هل|איך|מה|מתי|איפה|למה|मैं कैसे|कैसे",
    ]
)
_QUESTION_BEGINNING = re.compile(rf"(?:{_QUESTION_WORDS})[\s,]+\S", re.IGNORECASE)
_UNSPACED_QUESTION = re.compile(
    r"(?:如何|怎么|怎麼|怎样|怎樣|为什么|為什麼|为何|為何|什么|什麼|哪|谁|誰|何时|能否|是否|多少|なぜ|どう|どの|どこ|いつ|"
    r"어떻게|왜|무엇|언제|어디|ทำไม|อย่างไร|วิธี).+|.+(?:吗|嗎|呢|是什么|是什麼|怎么办|ですか|ますか|とは|するには|"
    r"方法|하나요|인가요|습니까|는 방법|อย่างไร|ไหม)"
)
_AUXILIARY = re.compile(
    r"(?:can|could|do|does|did|is|are|was|were|will|would|should|shall|may|must|has|have|am|kann|können|darf|muss|ist|"
    r"sind|gibt|puis-je|peut-on|existe)\s+\S",
    re.IGNORECASE,
)
_VERBS = "|".join(
    [
        "activate|add|avoid|cancel|choose|compile|configure|connect|contact|convert|create|deactivate|delete|disable",
        "disconnect|download|enable|encrypt|find|fix|install|pair|pay|prevent|protect|recover|redeem|register|reinstall",
        "remove|rename|renew|repair|replace|reset|restore|resume|retrieve|send|set up|share|show|solve|start",
        "stop|subscribe|troubleshoot|turn o(?:n|ff)|uninstall|unsubscribe|update|upgrade|verify",
        "log (?:in|out)|sign (?:in|up)",
    ]
)
_DETERMINER = r"(?:an?|the|your|my|our|this|these|all|several|multiple|another)"
_TASK = re.compile(
    rf"(?=[A-Z])(?i:{_VERBS})\s+(?!and\b|or\b)[\w\"'“‘]|(?!During|According|String|Thing|Nothing|Everything)[A-Z][a-z]{{2,}}ing\s+{_DETERMINER}\s\w|"
    rf"(?:Apply|Book|Build|Buy|Change|Check|Claim|Copy|Edit|Exchange|Export|Get|Import|Link|Make|Manage|Merge|Move|Open|"
    rf"Order|Print|Rent|Report|Request|Return|Run|Save|Schedule|Switch|Track|Transfer|Use|View|Withdraw)"
    rf"\s+{_DETERMINER}\s\w",
)
# Usual names of pages and calls to action: they begin like questions or tasks, but ask nothing.
_NO_QUESTION = re.compile(
    r"(?:contact|find|follow|join|visit|connect with|write to) us(?: (?:now|here|online|today|on \w+))?|"
    r"contact(?: the| our)? (?:support|sales|customer (?:service|support|care)|details|form|info(?:rmation)?)|"
    r"(?:show|share|send) (?:more|less|all|this(?: \w+)?|feedback|your feedback)|start here|"
    r"subscribe to (?:the|our) (?:newsletter|blog)|"
    r"what(?:['’]s| is) (?:new|next)|was (?:ist|gibt es) neu(?:es)?|qué hay de nuevo|(?:o )?que há de novo|"
    r"cosa c['’]è di nuovo|что нового|co nowego",
    re.IGNORECASE,
)
_CODE = re.compile(r"[<>=|{}\\_]|--|\w\(|\(\)|\.\.\.|…$")

_WORDS_BEFORE_NUMBER = (
    r"(?:(?:section|chapter|article|part|appendix|kapitel|abschnitt|anhang|chapitre|capítulo|capitolo)\s+|§\s*)"
)
_MONTH = (
    r"(?:jan|feb|mär|mar|apr|ma[ijy]|jun|jul|aug|sep|o[kc]t|nov|de[czs])(?:\.|[a-zä]{0,6}(?:ar|er|il|i|z|t|ust|bre))?"
)
# With a point or bracket it is a section's number, unless a date follows ("1. Mai"); after "Chapter" in any case.
_NUMBER = re.compile(
    rf"(?:{_WORDS_BEFORE_NUMBER}(?:\d{{1,3}}(?:\.\d{{1,3}})*|[A-Z]|[IVXL]+)[.):]?|第\s*\d{{1,3}}\s*[章節节]\s*[.:：]?|"
    rf"\d{{1,3}}(?:\.\d{{1,3}})*[.)](?!\s*{_MONTH}\b)|[A-Z](?:\.\d{{1,3}})+\.?|\((?:\d{{1,2}}|[a-z])\))\s+(?=\S)",
    re.IGNORECASE,
)
# Without a point it may be anything, such as a version; it is a section's number only before a question.
_POSSIBLE_NUMBER = re.compile(
    r"(?:\d{1,3}(?:\.\d{1,3})*|[A-Z][.)]|[IVXL]+[.)]|(?:Q|Question|Frage)\s*\d*\s*[.:)])\s+(?=\S)"
)

_DOTTED_NUMBER = re.compile(r"(\d{1,3}(?:\.\d{1,3})+)\s+(?=[(\"“”„«¿]?[^\W\d_])(?![a-z])")


def join_headings(headings: Iterable[str]) -> str:
    """Return headings, outermost first, as one line: `Returns › Refunds`."""
    parts = [heading for heading in headings if heading]
    while len(parts) > 2 and len(PATH_SEPARATOR.join(parts)) > MAX_PATH_CHARS:
        del parts[1]
    return PATH_SEPARATOR.join(parts)


def find_table_header(text: str) -> str:
    """Return the header of the Markdown table that `text` ends in, two lines; empty if it ends in none."""
    rows = [*takewhile(lambda line: line.startswith("|"), reversed(text.split("\n")))]
    return "\n".join(rows[:-3:-1]) if len(rows) > 1 and _TABLE_RULE.fullmatch(rows[-2]) else ""


def is_heading_path(text: str) -> bool:
    """Return True if a text can be a path of headings: one line, and not too long."""
    return "\n" not in text and len(text) <= MAX_PATH_CHARS


def compute_depth(line: str, section_numbers: Collection[str] = ()) -> int:
    """Return the depth of a heading by its number: 2 for `5.3. …`, 1 for `Chapter 2 …`; 0 without a certain number.

    `section_numbers` come from `find_section_numbers`: numbers without a final point that certainly number sections.
    """
    if (match := _DOTTED_NUMBER.match(line)) and match[1] in section_numbers:
        return match[1].count(".") + 1
    match = _NUMBER.match(line)
    return match[0].strip().strip(".").count(".") + 1 if match else 0


def find_section_numbers(headings: Iterable[str]) -> frozenset[str]:
    """Return the section numbers of a document that have no final point, such as `8.2`.

    Their order shows that they are section numbers: after `8.1`, or before `8.3`.
    """
    positions = {
        match[1]: i for i, heading in reversed([*enumerate(headings)]) if (match := _DOTTED_NUMBER.match(heading))
    }
    certain = set()
    for number, i in positions.items():
        above, _, last = number.rpartition(".")
        before, after = f"{above}.{int(last) - 1}", f"{above}.{int(last) + 1}"
        if positions.get(before, i) < i or positions.get(after, i) > i:
            certain.add(number)
    return frozenset(certain)


def remove_number(heading: str, section_numbers: Collection[str] = ()) -> str:
    """Return the heading without its section's number: `5.3. How can I …` is `How can I …`.

    Meaningful numbers stay: `3 ways to pay`, `2FA: how to use it`, `3.13 is out`, `1. Mai`.

    The document's `section_numbers`, from `find_section_numbers`, are removed unless a small letter follows.
    """
    if (match := _DOTTED_NUMBER.match(heading)) and match[1] in section_numbers:
        return heading[match.end() :]
    if match := _NUMBER.match(heading):
        return heading[match.end() :]
    if match := _POSSIBLE_NUMBER.match(heading):
        rest = heading[match.end() :]
        if not rest[0].islower() and (_is_like_question(rest) or _AUXILIARY.match(rest)):
            return rest
    return heading


def has_final_question_mark(line: str) -> bool:
    """Return True if the line ends in a question mark of any script, before quotes and brackets; not for `f(x);`."""
    match = _FINAL_QUESTION_MARK.search(line)
    return match is not None and has_question_mark(match[0], line)


def has_question_mark(text: str, line: str = "") -> bool:
    """Return True if a text, part of a line, contains a question mark of any script."""
    return any(mark in text for mark in QUESTION_MARKS) or (";" in text and bool(_GREEK.search(line or text)))


def is_question(heading: str) -> bool:
    """Return True if a heading, without its number, is a question that the text below it can answer."""
    return has_final_question_mark(heading) or (_is_like_question(heading) and len(heading) <= MAX_QUESTION_CHARS)


def is_task(heading: str) -> bool:
    """Return True if a heading names a task and asks nothing in words: `Reset your password`."""
    return bool(_TASK.match(heading)) and not has_final_question_mark(heading)


def _is_like_question(heading: str) -> bool:
    text = heading.lstrip("\"'“„«»¡(「")
    if heading.endswith((",", ";")) or _CODE.search(heading) or _NO_QUESTION.fullmatch(text.rstrip(" :.!")):
        return False
    return bool(
        _QUESTION_BEGINNING.match(text) or _UNSPACED_QUESTION.fullmatch(text.rstrip(" :：。.")) or _TASK.match(text)
    )
