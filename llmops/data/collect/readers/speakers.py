"""Who speaks in a transcript, and on which side: as the source's `speakers` say, else by words and structure.

A label is what stands before a line's first colon, after its time stamp if it has one, in any script. If the source
names who asks and who answers, these and words for roles speak and no others. Else a label speaks

1. if it is the first of its conversation, or has the word for a role in one of several languages (`Customer`, `客服`);
2. if its line has a time stamp, as the conversation's first has; then no others do but those of rule 1. A bare time of
   the day is one only if it lies between those of the turns around it: `10:00 on Monday` may be part of a message;
3. if fewer than two speak by then: the one that stands on the most lines, and looks like a name;
4. if it looks like a name and comes back after somebody else has spoken, or says a sentence between two turns of the
   same speaker.

Everything else is text: `Note: …`, `Price: 10 €`, `size: 42`. Of two speakers, one without a word for a role is on the
side that is lacking; if both are without, the customer is who asks first, an offer of help aside. More than two whose
sides are not all known are an error: the source has to name them.
"""

from __future__ import annotations

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

_ASKS = """
    customer user client caller visitor guest shopper human buyer q question kunde kundin nutzer nutzerin besucher
    anrufer frage acheteur cliente utilisateur usuario usuária usuário utente klant gebruiker kund klient клиент
    клиентка покупатель пользователь клієнт πελάτης müşteri 客户 客戶 顾客 顧客 用户 お客様 ユーザー 고객 사용자
    عميل العميل زبون ग्राहक ลูกค้า
"""
_ANSWERS = """
    agent assistant support bot chatbot advisor adviser representative rep operator staff a answer helpdesk
    kundendienst kundenservice kundenbetreuung kundensupport berater beraterin mitarbeiter mitarbeiterin antwort
    conseiller conseillère agente asesor asesora soporte suporte operador operadora operatore atendente assistente
    medewerker klantenservice kundtjänst kundeservice asiakaspalvelu оператор поддержка техподдержка консультант
    підтримка temsilci 客服 坐席 助手 客户服务 客戶服務 オペレーター 担当者 サポート カスタマーサポート 상담원 고객센터
    الدعم موظف एजेंट พนักงาน
"""
# Beside another word of these they are a role: `Customer Service`, `Servicio al cliente`, `Support team`.
_BESIDE = """
    service services care desk help success team teams relations hotline kunden équipe clients clientèle atención
    atencion servicio atendimento atenção assistência servizio assistenza clienti clientes hizmetleri destek служба
    поддержки obsługa obsluha podpora zákaznická klienta 支持 服务 服務 지원 خدمة العملاء دعم
"""
# What people write before a colon in the middle of a message.
_NO_NAMES = """
    note notes ps p.s nb re fwd subject date time price total sum size colour color order item items product address
    phone tel email e-mail mail fax tip step schritt étape paso passo important warning attention example error
    number id name hinweis preis achtung wichtig betreff datum größe farbe adresse nota remarque prix exemple importante
    precio ejemplo prezzo цена внимание 注意 价格 備考
"""
ASKS, ANSWERS, BESIDE, NO_NAMES = (frozenset(words.split()) for words in (_ASKS, _ANSWERS, _BESIDE, _NO_NAMES))
_PARTICLES = frozenset(["al", "à", "aux", "de", "del", "du", "do", "da", "di", "ao", "of", "for", "a", "q"])
IGNORED = frozenset(["system", "tool", "function", "developer"])

LABEL_CHARS, LABEL_WORDS = 40, 4
# The half of the day, or what stands for "o'clock", behind or before a time.
_HALF = (
    r"(?:(?:[APap]\.?\s?[Mm]|[πμ]\.?\s?μ|ص|م|klo|Uhr)\b\.?|Z|UTC|[上下]午|凌晨|清晨|早上|中午|晚上|午[前後]|오[전후])"
)
_DIGITS = r"[\d:./,،\-T年月日년월일 \u200e\u200f]"
# A day whose month is a word, before the time or the year: `31 Dec`, `Wed, December 31st,`, `31 de dic. de`.
_WORD = r"[^\W\d_]{3,10}\.?"
_NTH = r"\d{1,2}(?:\.|st|nd|rd|th)?"
_DAY_OF = (
    rf"(?:{_WORD},?\s)?(?:{_NTH}[\s-](?:de\s)?{_WORD}|{_WORD}\s{_NTH}(?!\d))[\s,-]{{1,2}}(?:de\s)?"
    r"(?:\d{4},?\s(?:at|um|om|kl\.?|à|às|a las|alle|o)\s)?(?=[\d,\s]*\d[:.]\d\d)"
)
_STAMP = (
    rf"[\[(<]?(?=[^\]:：]*\d)(?:{_DAY_OF})?(?:{_HALF}\s?)?{_DIGITS}{{4,25}}"
    rf"(?:\s?{_HALF}(?:\s?{_DIGITS}{{4,12}})?)?[\])>]?"
)
_PHONE = r"\+\d[\d\s()/.\u2011-]{5,20}\d"
_UNSEEN = r"\s\u200e\u200f\u202a-\u202c\u2066-\u2069"  # space, and what messengers write about directions
_LINE = re.compile(
    rf"[{_UNSEEN}*_]*(?:(?P<before>{_STAMP})[{_UNSEEN}–—-]+(?:~[{_UNSEEN}]*)?)?[*_<]*"
    rf"(?P<who>[^\W\d_][^:：<>\[\](){{}}\n]{{0,{LABEL_CHARS - 1}}}?|(?(before){_PHONE}|(?!)))[{_UNSEEN}]*"
    rf"(?:(?P<after>{_STAMP})|\([^)\n]{{0,40}}\))?[*_]*\s*[:：>](?!//)[*_]*[{_UNSEEN}]*(?P<says>.*)",
    re.DOTALL,
)
_NOTICE = re.compile(rf"[{_UNSEEN}]*(?P<before>{_STAMP})[{_UNSEEN}–—-]+\S.*", re.DOTALL)
# What the one who answers says first, in lower case: an offer of help in the first person, never a request for it.
_OFFERS = re.compile(
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
_SENTENCE = re.compile(r"[.!?…。！？؟।][\"'”’»)]*$|(?:\S+\s+){3}\S")
_NUMBER = re.compile(r"[\s#]*\d+$")
_CLOCK = re.compile(r"(\d{1,2})[:.](\d{2})(?:[:.](\d{2}))?\s?(?:([AaPp])\.?[Mm]\.?)?")
_RANGE = re.compile(r"0[:.]0\s?[-–]\s?0[:.]0")
_SMALL = re.compile(r"^\W*[\d:.]+(?:\s?[AaPp]\.?[Mm]\.?)?[^\w\d]+[a-zß-öø-ÿа-яё]")
_DAY = 24 * 3600


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a transcript, taken apart; `who` is empty where it begins with no label."""

    number: int
    text: str
    who: str = ""
    says: str = ""
    stamp: str = ""  #: the form of its time stamp, digits as 0, words as a
    time: int = -1  #: seconds after midnight of a stamp that is a bare time of the day


def taken_apart(number: int, text: str) -> Line:
    """The line with its label, if it has one that may be a speaker's."""
    match = _LINE.fullmatch(text)
    if match and match["who"][0] != "+" and len(match["who"].split()) > LABEL_WORDS:
        match = None
    if not match or not match["before"]:  # `Dec 31, 10:32 - Anna joined` begins with no label
        if notice := _NOTICE.fullmatch(text):
            return Line(number, text, "", "", _form(notice["before"]), _time(notice["before"]))
        if not match:
            return Line(number, text)
    before, who = match["before"] or "", match["who"].strip().casefold()
    return Line(number, text, who, match["says"].strip(), _form(before or match["after"] or ""), _time(before))


def in_time(lines: Sequence[Line], named: Speakers) -> list[Line]:
    """Return the lines of a conversation; those that begin with a time at which they cannot have been said are text.

    That is so only where the first line begins with a bare time of the day. Sure are the times of the first line, of
    known speakers, and of labels that come back; any other has to lie between those around it, past midnight if need
    be. At the end, where none follows, a small letter behind it shows that it is text.
    """
    if not lines or lines[0].time < 0:
        return list(lines)
    timed = Counter(line.who for line in lines if line.who and line.time >= 0)
    known = {who for who, times in timed.items() if times > 1 or known_side(who, named)}
    sure = [i for i, line in enumerate(lines) if not i or (line.time >= 0 and line.who in known)]
    kept = []
    for index, line in enumerate(lines):
        at = bisect_right(sure, index)
        if sure[at - 1] != index and (line.time >= 0 or _RANGE.fullmatch(line.stamp)):
            after = (line.time - lines[sure[at - 1]].time) % _DAY
            next_ = (lines[sure[at]].time - lines[sure[at - 1]].time) % _DAY if at < len(sure) else _DAY // 2
            small = at == len(sure) and not line.who and _SMALL.search(line.text)
            if line.time < 0 or after > next_ or small:
                line = Line(line.number, line.text)
        kept.append(line)
    return kept


def is_notice(line: Line, first: Line) -> bool:
    """Whether a line is the messenger's own (`… joined`): a stamp like that of the first turn, and no label."""
    return bool(first.stamp) and not line.who and line.stamp == first.stamp


def is_sentence(text: str) -> bool:
    """Whether it has the end of a sentence, or several words."""
    return _SENTENCE.search(text) is not None


def _time(stamp: str) -> int:
    if not (match := _CLOCK.fullmatch(stamp.strip())):
        return -1
    hour, minute, second = (int(part or 0) for part in match.groups()[:3])
    half = (match[4] or "").lower()
    return (hour % 12 + 12 * (half == "p") if half else hour) * 3600 + minute * 60 + second


def _form(stamp: str) -> str:
    digits = re.sub(rf"\s?{_HALF}", "", re.sub(r"\d+", "0", stamp)).strip()
    return re.sub(r"[^\W\d_]+\.?", "a", digits)


def sides(lines: Sequence[Line], named: Speakers) -> dict[str, Side]:
    """Return the labels of a conversation that are speakers', and the side of each.

    Raises:
        ValueError: if more than two speak, and it is not known of each who asks and who answers, or if nobody of those
            that the source names speaks.
    """
    labelled = [line for line in lines if line.who]
    known = _known_sides([line.who for line in labelled], named)
    if named.asks and named.answers:
        return known
    speaking = dict.fromkeys(line.who for line in lines[:1] if line.who) | dict.fromkeys(known)
    if labelled and labelled[0].stamp:
        speaking |= dict.fromkeys(line.who for line in labelled if line.stamp)
    else:
        names = Counter(line.who for line in labelled if line.who not in speaking and _is_name(line))
        while len(speaking.keys() - IGNORED) < 2 and names:
            who = max(names, key=lambda name: names[name])  # of equals the first
            speaking[who] = None
            del names[who]
        speaking |= dict.fromkeys(name for name in names if _takes_turns(name, labelled, speaking))
    unknown = [who for who in speaking if who not in known]
    if named.asks or named.answers:
        return known | dict.fromkeys(unknown, _others(named))
    parties = [who for who in speaking if known.get(who) != "ignored"]
    if unknown and len(parties) > 2:
        who = ", ".join(parties)
        raise ValueError(f"{len(parties)} speak ({who}): name in the source's `speakers` who asks and who answers")
    if given := set(known.values()) - {"ignored"}:
        return known | dict.fromkeys(unknown, "answers" if "asks" in given else "asks")
    customer = _asks_first(labelled, unknown)
    return known | {who: "asks" if who == customer else "answers" for who in unknown}


def role_sides(roles: Sequence[str], named: Speakers) -> dict[str, Side]:
    """Return the sides of the roles of messages, in lower case. If the source names both sides, others are ignored.

    Raises:
        ValueError: if nobody of those that the source names speaks.
    """
    return dict.fromkeys(roles, _others(named)) | _known_sides(roles, named)


def _others(named: Speakers) -> Side:
    return "ignored" if named.asks and named.answers else "asks" if named.answers else "answers"


def _known_sides(labels: Sequence[str], named: Speakers) -> dict[str, Side]:
    known: dict[str, Side] = {label: side for label in labels if (side := known_side(label, named))}
    if not labels or (named.asks and "asks" in known.values()) or (named.answers and "answers" in known.values()):
        return known
    if sought := ", ".join([*named.asks, *named.answers]):
        raise ValueError(f"none of the source's `speakers` ({sought}) is among {', '.join(dict.fromkeys(labels))}")
    return known


def known_side(label: str, named: Speakers) -> Side | None:
    """Return the side of a label or role, in lower case: as the source says, else by the words for roles in it.

    Of several words those that answer say more: `customer support` and `human agent` answer, `customer anna` asks.
    """
    sides: dict[Side, tuple[str, ...]] = {"asks": named.asks, "answers": named.answers}
    for side, patterns in sides.items():
        if any(fnmatchcase(label, pattern.casefold()) for pattern in patterns):
            return side
    whole: dict[Side, frozenset[str]] = {"answers": ANSWERS, "ignored": IGNORED, "asks": ASKS}
    if found := [side for side, known in whole.items() if _NUMBER.sub("", label) in known]:
        return found[0]
    words = [word for word in re.split(r"[\s_-]+", label) if word not in _PARTICLES and not word.lstrip("#").isdigit()]
    first, answering = set(words[:2]), ANSWERS | BESIDE
    if len(words) > 1 and first <= ASKS | answering and first & answering:
        return "answers"
    if len(words) > 2 or first & NO_NAMES:  # `Customer number: 12`
        return None
    return next((side for side, known in whole.items() if first & known), None)


def _is_name(line: Line) -> bool:
    """Whether a label may be a name, and what follows something that is said."""
    words = line.text[: line.text.casefold().find(line.who) + len(line.who)].split()[-len(line.who.split()) :]
    capital = all(not word.lstrip("*_<[(")[:1].islower() for word in words) or len(words) == 1
    return capital and _NUMBER.sub("", line.who) not in NO_NAMES and sum(map(str.isalpha, line.says)) > 1


def _takes_turns(name: str, labelled: Sequence[Line], speaking: dict[str, None]) -> bool:
    """Whether a name comes back after another speaker, or says a sentence between two turns of one speaker."""
    order = [line for line in labelled if line.who == name or line.who in speaking]
    turns = [line for index, line in enumerate(order) if index == 0 or order[index - 1].who != line.who]
    between = (
        before.who == after.who and _SENTENCE.search(line.says)
        for before, line, after in zip(turns, turns[1:], turns[2:], strict=False)
        if line.who == name
    )
    return sum(line.who == name for line in turns) > 1 or any(between)


def _asks_first(labelled: Sequence[Line], speakers: Sequence[str]) -> str:
    said = [line for line in labelled if line.who in speakers]
    mine = [line for line in said if not _OFFERS.search(line.says.casefold())] if len(speakers) > 1 else said
    asking = [line for line in mine if has_question_mark(line.says)]
    return next((line.who for line in asking or mine or said), "")
