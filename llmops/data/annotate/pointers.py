"""Answers that only name what to read, such as "See the guidance for schools.": a rule of `quality`.

It knows English, German, French, Spanish, Dutch, Italian and Portuguese. Other answers are kept.
"""

import re

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
    """Detect an answer that only names a text to read, without an address; return the detail, or "" for a good pair.

    Each sentence must begin like such a pointer, name a kind of text, and not say what to do there. The question must
    not ask where something is found.
    """
    if _ADDRESS.search(answer) or _ASKS_WHERE.search(question):
        return ""
    sentences = _SENTENCES.split(answer.strip())
    if all(_POINTS.match(s) and _TEXT.search(s) and not _SAYS.search(s) for s in sentences):
        return "the answer only names what to read, without an address"
    return ""
