"""Questions and numbered headings in plain text, recognised by its layout."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from llmops.data.text.headings import MARKS, asks, depth, ends_as_question, without_number

# Marks of a question and its answer: words, and pairs of letters on consecutive lines.
_QUESTIONS = "|".join(
    [
        r"question|frage|pregunta|pergunta|domanda|vraag|fråga|spørgsmål|spørsmål|kysymys|pytanie|otázka|kérdés|soru",
        r"întrebare|вопрос|питання|ερώτηση|问题|問題|質問|问|問|질문|문|السؤال|سؤال|שאלה|प्रश्न|सवाल|คำถาม|ถาม",
        r"câu hỏi|pertanyaan",
    ]
)
_ANSWERS = "|".join(
    [
        r"answer|antwort|réponse|respuesta|resposta|risposta|antwoord|svar|vastaus|odpowiedź|odpověď|odpoveď|válasz",
        r"cevap|yanıt|răspuns|ответ|відповідь|απάντηση|答案|回答|答え|答|답변|답|الإجابة|الجواب|جواب|תשובה|उत्तर|जवाब|คำตอบ|ตอบ",
        r"trả lời|đáp|jawaban",
    ]
)
_LETTERS = ("QA", "QR", "PR", "DR", "FA", "FS", "SC", "PO", "ВО", "ΕΑ")
_PAIRS = {
    pair: re.compile(rf"^{pair[0]}\d*[^\S\n]?[:)：].+\n\s*{pair[1]}\d*[^\S\n]?[:)：]", re.MULTILINE)
    for pair in _LETTERS
}

HEADING_LINES, HEADING_CHARS = 4, 300  #: most lines and characters of a numbered heading


@dataclass(frozen=True, slots=True)
class Marks:
    """The patterns of a text's marked questions and answers."""

    paragraphs: re.Pattern[str]  #: end of a paragraph: an empty line, or a line with a marked question
    question: re.Pattern[str]
    marked: re.Pattern[str]
    answer: re.Pattern[str]


@dataclass(frozen=True, slots=True)
class Heading:
    """A numbered heading."""

    level: int  #: by its number; 0: not a heading
    title: str  #: without number
    line: str = ""  #: the original, on one line


@dataclass(frozen=True, slots=True)
class Block:
    """A paragraph, or a block that begins with a marked question."""

    start: int  #: position of its beginning in the text
    text: str
    heading: Heading
    above: tuple[Heading, ...]  #: the headings above it, outermost first
    question: str  #: empty if it asks nothing
    rest: str  #: text after the question in the block
    marked: bool  #: as in `Q: …`


def blocks(text: str) -> Iterator[Block]:
    """Yield the blocks of `text`, in order.

    A question is a paragraph of one line that ends in a question mark, a numbered heading that asks (`5.3. How can I
    …`, wrapped or not), or a line marked as in `Q: …` or `Frage: …`.
    """
    marks, body = marks_of(text), text.strip("\n")
    lead, above = len(text) - len(text.lstrip("\n")), tuple[Heading, ...]()
    ends = [(match.start(), match.end()) for match in marks.paragraphs.finditer(body)]
    for (_, start), (end, _) in zip([(0, 0), *ends], [*ends, (len(body), 0)], strict=True):
        paragraph = body[start:end].strip()
        heading = _numbered(paragraph)
        question, rest, marked = _question(paragraph, marks)
        if heading.level:
            above = tuple(outer for outer in above if outer.level < heading.level)
            question, marked = heading.title if asks(heading.title) else "", False
        yield Block(lead + start, body[start:end], heading, above, question, rest, marked)
        if heading.level:
            above = (*above, heading)


def marks_of(text: str) -> Marks:
    """Return the marks that `text` uses."""
    return _marks(next((pair for pair, both in _PAIRS.items() if both.search(text)), _LETTERS[0]))


@cache
def _marks(letters: str) -> Marks:
    asks, answers = (
        rf"(?:{letter}|(?i:{words}))" for letter, words in zip(letters, (_QUESTIONS, _ANSWERS), strict=True)
    )
    bold, end = r"(?:\*\*|__)?", r"[^\S\n]*\d*[^\S\n]?(?:[:：](?:\*\*|__)?|[.)])[^\S\n]*"
    sure = r"[^\S\n]*\d*[^\S\n]?[:：]"  # "Q." may be an initial in a wrapped line
    return Marks(
        re.compile(rf"\n(?:[^\S\n]*\n)+|\n(?={bold}{asks}{sure})"),
        re.compile(rf"(?P<mark>{bold}{asks}{end})?(?P<question>[^\n]{{3,200}}[{MARKS};][!\"'”’»)]*)"),
        re.compile(rf"{bold}{asks}{end}(?P<question>[^\n]{{3,200}})(?:\n(?P<rest>.+))?", re.DOTALL),
        re.compile(rf"{bold}{answers}{end}\s*(?=\S)"),
    )


def _question(paragraph: str, marks: Marks) -> tuple[str, str, bool]:
    """Return a paragraph's question, the rest of it, and True if the question is marked; empty if it has none."""
    if (match := marks.question.fullmatch(paragraph)) and ends_as_question(paragraph):
        return without_number(match["question"]), "", bool(match["mark"])
    if match := marks.marked.fullmatch(paragraph):
        return match["question"], match["rest"] or "", True
    return "", "", False


def _numbered(paragraph: str) -> Heading:
    """Return the numbered heading that a paragraph is.

    A single number (`2. Press the button`) may be a step. Such a line is a heading only after a word such as "Chapter",
    or as a question.
    """
    if not paragraph or len(paragraph) > HEADING_CHARS or paragraph[-1] in ".,;:":
        return Heading(0, "")
    lines, level = paragraph.split("\n"), depth(paragraph)
    step = level == 1 and paragraph[0].isdigit() and not ends_as_question(paragraph)
    if step or len(lines) > HEADING_LINES or any(depth(line.strip()) for line in lines[1:]):
        return Heading(0, "")
    line = " ".join(paragraph.split())
    return Heading(level, without_number(line), line)
