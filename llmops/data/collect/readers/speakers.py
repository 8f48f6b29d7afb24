"""Speakers of a transcript and their sides, by the source's `speakers`, or by words and structure.

A label is the text before a line's first colon, after an optional time stamp, in any script. If the source names askers
and answerers, only these and words for roles are speakers. Otherwise a label is a speaker

1. if it is the first of its conversation, or has the word for a role in one of several languages (`Customer`, `客服`);
2. if its line has a time stamp, as the conversation's first line does. Then only these and those of rule 1 are
   speakers. A bare time of the day counts only if it lies between those of the turns around it: `10:00 on Monday` may
   be part of a message;
3. while there are fewer than two: the label of the most lines that looks like a name;
4. if it looks like a name and returns after another speaker, or says a sentence between two turns of one speaker.

All other lines are text: `Note: …`, `Price: 10 €`, `size: 42`. If one of two speakers has no word for a role, it gets
the missing side. If both have none, the customer is the one who asks first (an offer of help does not count). More
than two speakers of unknown sides are an error: the source has to name them.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from llmops.config import Speakers
from llmops.data.text.headings import has_question_mark

Side = Literal["asks", "answers", "ignored"]

_ASKER_WORDS = """
    customer user client caller visitor guest shopper human buyer q question kunde kundin nutzer nutzerin besucher
    anrufer frage acheteur cliente utilisateur usuario usuária usuário utente klant gebruiker kund klient клиент
    клиентка покупатель пользователь клієнт πελάτης müşteri 客户 客戶 顾客 顧客 用户 お客様 ユーザー 고객 사용자
    عميل العميل زبون ग्राहक ลูกค้า
"""
_ANSWERER_WORDS = """
    agent assistant support bot chatbot advisor adviser representative rep operator staff a answer helpdesk
    kundendienst kundenservice kundenbetreuung kundensupport berater beraterin mitarbeiter mitarbeiterin antwort
    conseiller conseillère agente asesor asesora soporte suporte operador operadora operatore atendente assistente
    medewerker klantenservice kundtjänst kundeservice asiakaspalvelu оператор поддержка техподдержка консультант
    підтримка temsilci 客服 坐席 助手 客户服务 客戶服務 オペレーター 担当者 サポート カスタマーサポート 상담원 고객센터
    الدعم موظف एजेंट พนักงาน
"""
# With another of these words they are a role: `Customer Service`, `Servicio al cliente`, `Support team`.
_SERVICE_WORDS = """
    service services care desk help success team teams relations hotline kunden équipe clients clientèle atención
    atencion servicio atendimento atenção assistência servizio assistenza clienti clientes hizmetleri destek служба
    поддержки obsługa obsluha podpora zákaznická klienta 支持 服务 服務 지원 خدمة العملاء دعم
"""
# Words that people write before a colon within a message.
_NON_NAMES = """
    note notes ps p.s nb re fwd subject date time price total sum size colour color order item items product address
    phone tel email e-mail mail fax tip step schritt étape paso passo important warning attention example error
    number id name hinweis preis achtung wichtig betreff datum größe farbe adresse nota remarque prix exemple importante
    precio ejemplo prezzo цена внимание 注意 价格 備考
"""
ASKER_WORDS, ANSWERER_WORDS, SERVICE_WORDS, NON_NAMES = (
    frozenset(words.split()) for words in (_ASKER_WORDS, _ANSWERER_WORDS, _SERVICE_WORDS, _NON_NAMES)
)
_PARTICLES = frozenset(["al", "à", "aux", "de", "del", "du", "do", "da", "di", "ao", "of", "for", "a", "q"])
IGNORED_ROLES = frozenset(["system", "tool", "function", "developer"])

# A line's stamps and label are sought in its head alone: the pattern tries many divisions of a longer text.
LABEL_CHARS, LABEL_WORDS, HEAD_CHARS = 40, 4, 300
# The half of the day, or a word for "o'clock", before or after a time.
_DAY_HALF = (
    r"(?:(?:[APap]\.?\s?[Mm]|[πμ]\.?\s?μ|ص|م|klo|Uhr)\b\.?|Z|UTC|[上下]午|凌晨|清晨|早上|中午|晚上|午[前後]|오[전후])"
)
_STAMP_CHARS = r"[\d:./,،\-T年月日년월일 \u200e\u200f]"
# A date with the month as a word, before the time or the year: `31 Dec`, `Wed, December 31st,`, `31 de dic. de`.
_DATE_WORD = r"[^\W\d_]{3,10}\.?"
_DAY_NUMBER = r"\d{1,2}(?:\.|st|nd|rd|th)?"
_WORDED_DATE = (
    rf"(?:{_DATE_WORD},?\s)?(?:{_DAY_NUMBER}[\s-](?:de\s)?{_DATE_WORD}|{_DATE_WORD}\s{_DAY_NUMBER}(?!\d))[\s,-]{{1,2}}(?:de\s)?"
    r"(?:\d{4},?\s(?:at|um|om|kl\.?|à|às|a las|alle|o)\s)?(?=[\d,\s]*\d[:.]\d\d)"
)
_STAMP = (
    rf"[\[(<]?(?=[^\]:：]*\d)(?:{_WORDED_DATE})?(?:{_DAY_HALF}\s?)?{_STAMP_CHARS}{{4,25}}"
    rf"(?:\s?{_DAY_HALF}(?:\s?{_STAMP_CHARS}{{4,12}})?)?[\])>]?"
)
_PHONE = r"\+\d[\d\s()/.\u2011-]{5,20}\d"
_INVISIBLE = r"\s\u200e\u200f\u202a-\u202c\u2066-\u2069"  # space, and messengers' marks of the writing direction
_LINE = re.compile(
    rf"[{_INVISIBLE}*_]*(?:(?P<before>{_STAMP})[{_INVISIBLE}–—-]+(?:~[{_INVISIBLE}]*)?)?[*_<]*(?P<label>"
    rf"[^\W\d_](?:[^:：<>\[\](){{}}\n]{{0,{LABEL_CHARS - 2}}}?[^\s:：<>\[\](){{}}])??|(?(before){_PHONE}|(?!)))"
    rf"[{_INVISIBLE}]*(?:(?P<after>{_STAMP})|\([^)\n]{{0,40}}\))?[*_]*+\s*+[:：>](?!//)[*_]*[{_INVISIBLE}]*"
)
_NOTICE = re.compile(rf"[{_INVISIBLE}]*(?P<before>{_STAMP})[{_INVISIBLE}–—-]+\S")
# First messages of an answerer, in lower case: an offer of help in the first person, never a request for it.
_HELP_OFFERS = re.compile(
    "|".join(
        [
            r"\b(?:can|may|could|might) (?:i|we) (?:also |best |further )?"
            r"(?:help|assist|support|serve|do for you|be of)\b(?! (?:me|us)\b)",
            r"\b(?:happy|glad|pleased|here) to (?:help|assist)\b(?! (?:me|us)\b)",
            r"\b(?:kann|können|darf|dürfen) (?:ich|wir)\b(?![^.!?]*\b(?:mir|uns)\b)[^.!?]{0,40}"
            r"(?:für (?:sie|dich|euch) tun|helfen|behilflich|dienen)",
            r"\b(?:puis-je|peux-je|pouvons-nous|je peux|nous pouvons|on peut) (?:vous |te |t['’])?"
            r"(?:aider|être utile|renseigner|faire pour vous)",
            r"\b(?:puedo|podemos|podría|podríamos) (?:\w+ )?(?:ayudar|servir|atender|hacer por)(?!(?:me|nos)\b)",
            r"\b(?:posso|podemos|possiamo) (?:\w+ )?(?:ajud|auxiliar|aiutar|útil|util|fazer (?:por|pel)|fare per)"
            r"(?!\w*(?:me|mi|ci|nos)\b)",
            r"\b(?:kan|mag|kunnen) (?:ik|we|wij) [^.!?]{0,20}(?:helpen|van dienst|voor (?:u|je|jou) doen)",
            r"\b(?:kan|får) (?:jag|jeg|vi) [^.!?]{0,20}(?:hjälpa|hjelpe|hjælpe)(?! (?:mig|meg|oss|os)\b)",
            r"\bvoi(?:n|mme|nko|mmeko) (?:\w+ )?(?:auttaa|palvella)|\bmog(?:ę|u) (?:\w+ )?pomóc",
            r"\b(?:mohu|můžu|můžeme) (?:\w+ )?pomo[ct]|\bsegíthet(?:ek|ünk)|\b(?:pot|putem) (?:\w+ )?ajuta",
            r"\b(?:чем|могу|можем|чим|можу|можемо)(?: (?:я|мы|ми|ли|вам|тебе|могу|можем|можу))* (?:помочь|допомогти)",
            r"μπορ(?:ώ|ούμε) να (?:σασ|σε) (?:βοηθ|εξυπηρετ)|yardımcı olabilir(?:im|iz|\s?miyi[mz])",
            r"帮(?:到|助|忙)?[您你]|幫(?:到|助|忙)?[您你]|[为為][您你](?:做|服务|服務|效劳)|什[么麼](?:可以|能)[帮幫]",
            r"どうされ|いかがなさい|どのような?ご用|ご用件|お困りで|手伝い(?:でき|しま|いたし|させ)|도와\s?드[리릴려렸]",
            r"(?:يمكنني|يمكننا|أستطيع|نستطيع|أقدر) (?:\S+ )?(?:مساعدت|أساعد|خدمت)",
            r"आपकी (?:\S+ ){0,2}(?:सहायता|मदद) कर सक",
            r"\bgiúp (?:được )?gì cho|\bbisa (?:saya|kami) bantu|มีอะไรให้.{0,12}ช่วย",
        ]
    )
)
_SENTENCE = re.compile(r"[.!?…。！？؟।][\"'”’»)]*$|(?<!\S)(?:\S++\s++){3}\S")
_NUMBER = re.compile(r"[\s#]*\d+$")
_CLOCK = re.compile(r"(\d{1,2})[:.](\d{2})(?:[:.](\d{2}))?\s?(?:([AaPp])\.?[Mm]\.?)?")
_RANGE = re.compile(r"0[:.]0\s?[-–]\s?0[:.]0")
_LOWERCASE_TEXT = re.compile(r"^\W*[\d:.]+(?:\s?[AaPp]\.?[Mm]\.?)?[^\w\d]+[a-zß-öø-ÿа-яё]")
_DAY_S = 24 * 3600


@dataclass(frozen=True, slots=True)
class TranscriptLine:
    """One parsed line of a transcript; `label` is empty if it has none."""

    number: int
    text: str
    label: str = ""
    message: str = ""
    stamp_form: str = ""  #: form of its time stamp: digits as 0, words as a
    time: int = -1  #: seconds after midnight, if the stamp is a bare time of the day


def parse_transcript_line(number: int, text: str) -> TranscriptLine:
    """Parse a line. It has a label if the text before its first colon may be a speaker."""
    match = _LINE.match(text, 0, HEAD_CHARS)
    if match and match["label"][0] != "+" and len(match["label"].split()) > LABEL_WORDS:
        match = None
    if not match or not match["before"]:  # `Dec 31, 10:32 - Anna joined` has no label
        if notice := _NOTICE.match(text, 0, HEAD_CHARS):
            return TranscriptLine(number, text, "", "", _get_form(notice["before"]), _parse_time(notice["before"]))
        if not match:
            return TranscriptLine(number, text)
    before, label = match["before"] or "", match["label"].strip().casefold()
    stamp_form = _get_form(before or match["after"] or "")
    return TranscriptLine(number, text, label, text[match.end() :].strip(), stamp_form, _parse_time(before))


def discard_impossible_times(lines: Sequence[TranscriptLine], speakers: Speakers) -> list[TranscriptLine]:
    """Return the lines of a conversation. Lines with an impossible time become plain text.

    This applies only if the first line has a bare time of the day. The times of the first line, of known speakers, and
    of repeated labels are reliable. Any other time must lie between the reliable ones around it, across midnight if
    necessary. After the last reliable time, a small letter behind the time shows that the line is text.
    """
    if not lines or lines[0].time < 0:
        return list(lines)
    timed_labels = Counter(line.label for line in lines if line.label and line.time >= 0)
    known = {label for label, times in timed_labels.items() if times > 1 or find_known_side(label, speakers)}
    reliable = [i for i, line in enumerate(lines) if not i or (line.time >= 0 and line.label in known)]
    result = []
    for index, line in enumerate(lines):
        following = bisect_right(reliable, index)
        start, is_last = reliable[following - 1], following == len(reliable)
        if start != index and (line.time >= 0 or _RANGE.fullmatch(line.stamp_form)):
            elapsed = (line.time - lines[start].time) % _DAY_S
            limit = _DAY_S // 2 if is_last else (lines[reliable[following]].time - lines[start].time) % _DAY_S
            is_text = is_last and not line.label and _LOWERCASE_TEXT.search(line.text)
            if line.time < 0 or elapsed > limit or is_text:
                line = TranscriptLine(line.number, line.text)
        result.append(line)
    return result


def is_notice(line: TranscriptLine, first: TranscriptLine) -> bool:
    """Return True for a messenger's notice (`… joined`): it has no label, and a stamp like that of the first turn."""
    return bool(first.stamp_form) and not line.label and line.stamp_form == first.stamp_form


def is_sentence(text: str) -> bool:
    """Return True if a text has the end of a sentence, or several words."""
    return _SENTENCE.search(text) is not None


def _parse_time(stamp: str) -> int:
    if not (match := _CLOCK.fullmatch(stamp.strip())):
        return -1
    hour, minute, second = (int(part or 0) for part in match.groups()[:3])
    half = (match[4] or "").lower()
    return (hour % 12 + 12 * (half == "p") if half else hour) * 3600 + minute * 60 + second


def _get_form(stamp: str) -> str:
    digits = re.sub(rf"\s?{_DAY_HALF}", "", re.sub(r"\d+", "0", stamp)).strip()
    return re.sub(r"[^\W\d_]+\.?", "a", digits)


def find_sides(lines: Sequence[TranscriptLine], speakers: Speakers) -> dict[str, Side]:
    """Return label → side for the speakers of a conversation.

    Raises:
        ValueError: if there are more than two speakers with unknown sides, or none of the source's speakers appears.
    """
    labelled_lines = [line for line in lines if line.label]
    known = _find_known_sides([line.label for line in labelled_lines], speakers)
    if speakers.asks and speakers.answers:
        return known
    speaking = dict.fromkeys(line.label for line in lines[:1] if line.label) | dict.fromkeys(known)
    if labelled_lines and labelled_lines[0].stamp_form:
        speaking |= dict.fromkeys(line.label for line in labelled_lines if line.stamp_form)
    else:
        names = Counter(line.label for line in labelled_lines if line.label not in speaking and _is_name(line))
        while len(speaking.keys() - IGNORED_ROLES) < 2 and names:
            label = max(names, key=lambda name: names[name])  # the first of equals
            speaking[label] = None
            del names[label]
        speaking |= dict.fromkeys(name for name in names if _has_turns(name, labelled_lines, speaking))
    unknown = [label for label in speaking if label not in known]
    if speakers.asks or speakers.answers:
        return known | dict.fromkeys(unknown, _get_default_side(speakers))
    parties = [label for label in speaking if known.get(label) != "ignored"]
    if unknown and len(parties) > 2:
        listed = ", ".join(parties)
        raise ValueError(f"{len(parties)} speak ({listed}): name in the source's `speakers` who asks and who answers")
    if given_sides := set(known.values()) - {"ignored"}:
        return known | dict.fromkeys(unknown, "answers" if "asks" in given_sides else "asks")
    customer = _find_first_asker(labelled_lines, unknown)
    return known | {label: "asks" if label == customer else "answers" for label in unknown}


def find_role_sides(roles: Sequence[str], speakers: Speakers) -> dict[str, Side]:
    """Return role → side, in lower case. If the source names both sides, other roles are ignored.

    Raises:
        ValueError: if none of the source's speakers appears.
    """
    return dict.fromkeys(roles, _get_default_side(speakers)) | _find_known_sides(roles, speakers)


def _get_default_side(speakers: Speakers) -> Side:
    return "ignored" if speakers.asks and speakers.answers else "asks" if speakers.answers else "answers"


def _find_known_sides(labels: Sequence[str], speakers: Speakers) -> dict[str, Side]:
    known: dict[str, Side] = {label: side for label in labels if (side := find_known_side(label, speakers))}
    if not labels or (speakers.asks and "asks" in known.values()) or (speakers.answers and "answers" in known.values()):
        return known
    if sought := ", ".join([*speakers.asks, *speakers.answers]):
        raise ValueError(f"none of the source's `speakers` ({sought}) is among {', '.join(dict.fromkeys(labels))}")
    return known


def find_known_side(label: str, speakers: Speakers) -> Side | None:
    """Return the side of a label or role, in lower case: by the source, else by the words for roles in it.

    Words for answerers have priority: `customer support` and `human agent` answer, `customer anna` asks.
    """
    patterns_by_side: dict[Side, tuple[str, ...]] = {"asks": speakers.asks, "answers": speakers.answers}
    for side, patterns in patterns_by_side.items():
        if any(fnmatchcase(label, pattern.casefold()) for pattern in patterns):
            return side
    role_words: dict[Side, frozenset[str]] = {"answers": ANSWERER_WORDS, "ignored": IGNORED_ROLES, "asks": ASKER_WORDS}
    if exact_sides := [side for side, known in role_words.items() if _NUMBER.sub("", label) in known]:
        return exact_sides[0]
    words = [word for word in re.split(r"[\s_-]+", label) if word not in _PARTICLES and not word.lstrip("#").isdigit()]
    first, answering = set(words[:2]), ANSWERER_WORDS | SERVICE_WORDS
    if len(words) > 1 and first <= ASKER_WORDS | answering and first & answering:
        return "answers"
    if len(words) > 2 or first & NON_NAMES:  # `Customer number: 12`
        return None
    return next((side for side, known in role_words.items() if first & known), None)


def _is_name(line: TranscriptLine) -> bool:
    words = line.text[: line.text.casefold().find(line.label) + len(line.label)].split()[-len(line.label.split()) :]
    capitalized = all(not word.lstrip("*_<[(")[:1].islower() for word in words) or len(words) == 1
    return capitalized and _NUMBER.sub("", line.label) not in NON_NAMES and sum(map(str.isalpha, line.message)) > 1


def _has_turns(name: str, labelled: Sequence[TranscriptLine], speaking: dict[str, None]) -> bool:
    """Return True if a name returns after another speaker, or says a sentence between two turns of one speaker."""
    order = [line for line in labelled if line.label == name or line.label in speaking]
    turns = [line for index, line in enumerate(order) if index == 0 or order[index - 1].label != line.label]
    between = (
        before.label == after.label and _SENTENCE.search(line.message)
        for before, line, after in zip(turns, turns[1:], turns[2:], strict=False)
        if line.label == name
    )
    return sum(line.label == name for line in turns) > 1 or any(between)


def _find_first_asker(labelled: Sequence[TranscriptLine], speakers: Sequence[str]) -> str:
    lines = [line for line in labelled if line.label in speakers]
    requests = [line for line in lines if len(speakers) < 2 or not _HELP_OFFERS.search(line.message.casefold())]
    questions = [line for line in requests if has_question_mark(line.message)]
    return next((line.label for line in questions or requests or lines), "")
