"""What makes a question and its answer not worth learning from.

A rule says what is wrong with a pair, or nothing. `RULES` is a list of early returns: the first that speaks decides. To
add one, write such a function and append it. They judge what a model would be taught, so after redaction and cutting,
and only by what is certain: a short answer is no bad answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from llmops.data.text.duplicate_lines import MAX_DUPLICATE_LINES, duplicate_line_share
from llmops.data.text.language import language_of
from llmops.data.text.running_text import running_text
from llmops.data.text.words import UNSPACED, parted

Rule = Callable[[str, str], str]  #: of question and answer; what is wrong, in words, empty if nothing is

# Largest share of characters in 5-grams of words that stood before. Gopher's 0.15 is for web pages: of 446 answers of
# public health agencies it drops 14, all good; the highest among those has 0.24. A text that stands twice has 0.5.
MAX_REPEATED, NGRAM = 0.4, 5
MAX_IN_A_ROW = 4  #: times that the same one to four words may follow each other

_NOT_SAID = re.compile(r"<[A-Z_]+>|(?:https?://|www\.)\S+|\S+@\S+")  # marks of redaction, links, addresses
_WORD = re.compile(r"\w+(?:['’]\w+)*")
# What no sentence ends in: a comma, an opening bracket (but ":(" and "]0, 1["), a colon, which announces what is not
# there (but "drive C:").
_HALF_OPEN = re.compile(r"\][^\[\]]*\[$")
_BREAKS_OFF = re.compile(r"(?:[,，、،：]|(?<!\b[A-Z]):|(?<![:;=-])[({（「『【《]|(?<![:;=-])\[)$")
# Nor in these words of its language: "Rufen Sie uns an" and "en or" are whole in theirs.
_DANGLING = {
    "en": frozenset(["an", "the", "and", "or"]),
    "de": frozenset(["und", "oder"]),
    "fr": frozenset(["et", "ou"]),
}
_UNSPACED = re.compile(f"{UNSPACED}{{2}}")  # who can tell how many words these are
_LAST_WORD = re.compile(r"(?<![\w-])[a-z]+$")


def broken_rule(question: str, answer: str) -> tuple[str, str] | None:
    """The rule by which a pair is dropped and the detail; None for a pair to keep."""
    return next(((name, detail) for name, rule in RULES if (detail := rule(question, answer))), None)


def no_words(question: str, answer: str) -> str:
    """A question or an answer that is only links, addresses, marks of redaction, or symbols."""
    for name, text in (("question", question), ("answer", answer)):
        if not _WORD.search(_NOT_SAID.sub(" ", text)):
            return f"the {name} says nothing besides links, marks and symbols"
    return ""


def echo(question: str, answer: str) -> str:
    """An answer that is the question again."""
    return "the answer only repeats the question" if _words(question) == _words(answer) else ""


def broken_off(question: str, answer: str) -> str:
    """An answer of more than one word that ends where no sentence does."""
    answer = answer.rstrip()
    several = len(_words(answer)) > 1 or _UNSPACED.search(answer)
    match = None if _HALF_OPEN.search(answer) else _BREAKS_OFF.search(answer)
    if not match and (match := _LAST_WORD.search(answer)):
        spoken = [language for language, words in _DANGLING.items() if match[0] in words]
        match = match if spoken and language_of(f"{question} {answer}") in spoken else None
    return f"the answer breaks off after {match[0]!r}" if match and several else ""


def repeated_lines(question: str, answer: str) -> str:
    """An answer many of whose lines stood before."""
    share = duplicate_line_share(answer)
    return f"{share:.0%} of the answer's lines stood before" if share > MAX_DUPLICATE_LINES else ""


def stuttering(question: str, answer: str) -> str:
    """A line that says the same one to four words too many times in a row; numbers, code and tables may repeat."""
    for line in running_text(answer).splitlines():
        words = _split(line)
        for size in range(1, 5):
            run = 0
            for before, after in zip(words, words[size:], strict=False):
                run = run + 1 if before == after and not before.isdigit() else 0
                if run >= size * MAX_IN_A_ROW:
                    times = f"{MAX_IN_A_ROW + 1} times in a row"
                    return f"the answer has the same {size} words, {after!r} among them, {times}"
    return ""


def repeated_phrases(question: str, answer: str) -> str:
    """An answer that to a large part is runs of words that stood before; numbers, code and tables may repeat."""
    words = _words(running_text(answer))
    seen: set[tuple[str, ...]] = set()
    repeated: set[int] = set()
    for start in range(len(words) - NGRAM + 1):
        gram = tuple(words[start : start + NGRAM])
        if gram in seen and not "".join(gram).isdigit():
            repeated.update(range(start, start + NGRAM))
        seen.add(gram)
    share = sum(len(words[index]) for index in repeated) / max(1, sum(map(len, _words(answer))))
    return f"{share:.0%} of the answer repeats what it said before" if share > MAX_REPEATED else ""


@lru_cache(3)  # several rules look at the same question and answer, and at its running text
def _words(text: str) -> list[str]:
    return _split(text)


def _split(text: str) -> list[str]:
    return _WORD.findall(parted(_NOT_SAID.sub(" ", text).casefold()))


# Answers that only name what to read, such as "See the guidance for schools."; in English, German, French, Spanish,
# Dutch, Italian and Portuguese. What it does not know stays.
_MORE = "|".join(
    [
        r"for (?:more|further|additional) (?:information|details?|guidance)\b[^.!?]*[,:]",
        r"pour (?:plus|en savoir plus|de plus amples)\b[^.!?]*,",
        r"para (?:obtener |obter )?(?:más|mais)\b[^.!?]*,",
        r"(?:für|zu) (?:weitere|mehr|nähere|weiteren|näheren)\b[^.!?]*?(?=siehe|besuchen|lesen)",
        r"voor meer\b[^.!?]*?(?=zie|bezoek|raadpleeg)",
        r"per (?:maggiori|ulteriori|altre)\b[^.!?]*,",
        r"please|bitte|veuillez|por favor,?|gelieve",
    ]
)
_VERBS = "|".join(
    [
        r"see|visit|refer to|consult|siehe|besuchen sie|lesen sie",
        r"voir|voyez|consultez|consulter|visitez|visiter|reportez-vous",
        r"véase|vea|consulte|consulta|visite|visita|veja|zie|bezoek|raadpleeg|vedi|vedere|visitate|consultate|si veda",
    ]
)
_POINTS = re.compile(rf"(?:(?:{_MORE})\s*)*(?:{_VERBS})\s", re.IGNORECASE)
# A text: not a shop, a doctor, or a button.
_TEXTS = "|".join(
    [
        r"(?:web ?|home ?)?(?:pages?|sites?)|guid(?:e|es|ance|elines?)|faqs?|recommendations?|documentation|handbook",
        r"manual|chapter|section|article|policy|information|informationen|leitfaden|handbuch|kapitel|abschnitt",
        r"(?:internet|web)?seite|artikel|empfehlungen|pagina|página|manuale|manuel|guía|guia|guida|chapitre|rubrique",
        r"recommandations|capítulo|sección|guías|recomendaciones|capitolo|sezione|raccomandazioni|articolo|artículo",
        r"artigo|seção|secção|recomendações|hoofdstuk|handleiding|richtlijnen|aanbevelingen|sitio|sito",
    ]
)
_TEXT = re.compile(rf"\b(?:{_TEXTS})\b", re.IGNORECASE)
# A sentence that goes on says what to do there.
_LEARN = r"learn|find|read|see|get|understand|know|help|the|a|an|your|our"
_ACTS = "|".join(
    [
        r"(?:and|then|or) (?:then )?(?:click|press|choose|select|enter|tap|fill|log|sign|follow|open|submit|use)",
        r"und (?:dort |dann )?(?:klicken|wählen|drücken|geben|folgen|melden|öffnen|laden)",
        r"et (?:cliquez|choisissez|sélectionnez|appuyez|suivez|remplissez|connectez)",
        r"[ye] (?:haga|elija|pulse|seleccione|siga|clique|escolha|selecione|clicca|scegli|seleziona|segui|premi)",
        r"en (?:klik|kies|druk|selecteer|volg|vul|log)",
        rf"(?<!how )(?<!what )(?<!refer )to (?!(?:{_LEARN})\b)\w+|um .+ zu|pour (?!plus\b)\w+er",
    ]
)
_SAYS = re.compile(rf"[;:](?!\w)|[–—]|\b(?:{_ACTS})\b", re.IGNORECASE)
_SENTENCES = re.compile(r"(?<=[.!?])\s+(?=[^\W\d_])|\n+")
_ASKS_WHERE = re.compile(
    r"\b(?:where|which (?:web ?)?(?:page|site|document|guide|guidance)|links?|websites?|wo|welche seite|où|quelle page|"
    r"dónde|qué página|onde|que página|dove|quale pagina|waar|welke pagina)\b",
    re.IGNORECASE,
)
_ADDRESS = re.compile(
    r"<[A-Z_]+>|https?://|www\.|\S@\S|\b[\w-]+\.(?:com|org|net|gov|edu|eu|de|fr|es|nl|it|pt|uk|io)\b|"
    r"\d(?:[\s()./-]*\d){5}"
)


def pointer_only(question: str, answer: str) -> str:
    """An answer that only names what to read, without an address, to a question that does not ask where it stands.

    Every sentence begins as such pointers do, names a kind of text, and does not go on to say what to do there.
    """
    if _ADDRESS.search(answer) or _ASKS_WHERE.search(question):
        return ""
    sentences = _SENTENCES.split(answer.strip())
    if all(_POINTS.match(s) and _TEXT.search(s) and not _SAYS.search(s) for s in sentences):
        return "the answer only names what to read, without an address"
    return ""


RULES: tuple[tuple[str, Rule], ...] = (
    ("no_words", no_words),
    ("echo", echo),
    ("broken_off", broken_off),
    ("pointer_only", pointer_only),
    ("repeated_lines", repeated_lines),
    ("stuttering", stuttering),
    ("repeated_phrases", repeated_phrases),
)
