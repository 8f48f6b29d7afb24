"""Questions and their answers in plain text, where nothing but its layout tells them apart."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass, field
from functools import cache

from llmops.data.text.headings import MARKS, asks, depth, ends_as_question, path, without_number

# What marks a question and its answer: words, and letters that do so where they stand above each other.
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
_INITIAL = re.compile(r"\w\.\s*")  # "A. Smith"
_INDENT = re.compile(r"^[^\S\n]+", re.MULTILINE)

HEADING_LINES, HEADING_CHARS = 4, 300  #: most of a numbered heading that is wrapped


@dataclass(frozen=True, slots=True)
class Marks:
    """Patterns by which a text marks its questions and answers."""

    paragraphs: re.Pattern[str]  #: where one ends: an empty line, or a line that begins with a marked question
    question: re.Pattern[str]
    marked: re.Pattern[str]
    answer: re.Pattern[str]


@dataclass(frozen=True, slots=True)
class Asked:
    """A question that stands in a text."""

    question: str
    marked: bool  #: as in `Q: …`
    depth: int  #: of its section's number; 0 without one
    context: str  #: the path of numbered headings above it
    answer: list[str] = field(default_factory=list)  #: paragraphs


def qa_pairs(text: str) -> list[tuple[str, str, str]]:
    """The questions of `text`, what answers each, and the path of numbered headings that it stands under.

    A question is a paragraph of one line that ends in a question mark, a numbered heading that asks (`5.3. How can I
    …`, wrapped or not), or a line that is marked as in `Q: …` or `Frage: …`. Its answer is all that follows until the
    next question, or until a numbered heading that is not under it. A question that nothing follows
    is left out, as is what comes before the first.
    """
    found: list[Asked] = []
    above: list[tuple[int, str]] = []
    answering = False
    marks = _marks(next((pair for pair, both in _PAIRS.items() if both.search(text)), _LETTERS[0]))
    for block in marks.paragraphs.split(text.strip("\n")):
        paragraph = block.strip()
        level, title = _numbered(paragraph)
        question, rest, marked = _question(paragraph, marks)
        if level:
            above = [(outer, heading) for outer, heading in above if outer < level]
            question, marked = title if asks(title) else "", False
        if question:
            context = path(heading for _, heading in above)
            found.append(Asked(question, marked, level, context, [rest] if rest else []))
            answering = True
        elif level and not (answering and 0 < found[-1].depth < level):
            answering = False
        elif answering:
            before = _INDENT.match(found[-1].answer[-1]) if level and found[-1].answer else None
            found[-1].answer.append(f"{before[0]}{block}" if before else block)
        if level:
            above.append((level, title))
    return [(asked.question, _answer(asked, marks), asked.context) for asked in found if asked.answer]


@cache
def _marks(letters: str) -> Marks:
    """The marks of a text that uses these letters for a question and its answer."""
    asks, answers = (
        rf"(?:{letter}|(?i:{words}))" for letter, words in zip(letters, (_QUESTIONS, _ANSWERS), strict=True)
    )
    bold, end = r"(?:\*\*|__)?", r"[^\S\n]*\d*[^\S\n]?(?:[:：](?:\*\*|__)?|[.)])[^\S\n]*"
    sure = r"[^\S\n]*\d*[^\S\n]?[:：]"  # "Q." may as well be an initial where the line is wrapped
    return Marks(
        re.compile(rf"\n(?:[^\S\n]*\n)+|\n(?={bold}{asks}{sure})"),
        re.compile(rf"(?P<mark>{bold}{asks}{end})?(?P<question>[^\n]{{3,200}}[{MARKS};][!\"'”’»)]*)"),
        re.compile(rf"{bold}{asks}{end}(?P<question>[^\n]{{3,200}})(?:\n(?P<rest>.+))?", re.DOTALL),
        re.compile(rf"{bold}{answers}{end}\s*(?=\S)"),
    )


def _question(paragraph: str, marks: Marks) -> tuple[str, str, bool]:
    """The question that a paragraph is or begins with, what else it says, and whether it is marked; empty if none."""
    if (match := marks.question.fullmatch(paragraph)) and ends_as_question(paragraph):
        return without_number(match["question"]), "", bool(match["mark"])
    if match := marks.marked.fullmatch(paragraph):
        return match["question"], match["rest"] or "", True
    return "", "", False


def _numbered(paragraph: str) -> tuple[int, str]:
    """The depth of the numbered heading that a paragraph is, and the heading; 0 if it is none.

    A single number (`2. Press the button`) may as well be a step: such a line is a heading only after a word such as
    "Chapter", or as a question.
    """
    if not paragraph or len(paragraph) > HEADING_CHARS or paragraph[-1] in ".,;:":
        return 0, ""
    lines, level = paragraph.split("\n"), depth(paragraph)
    step = level == 1 and paragraph[0].isdigit() and not ends_as_question(paragraph)
    if step or len(lines) > HEADING_LINES or any(depth(line.strip()) for line in lines[1:]):
        return 0, ""
    return level, without_number(" ".join(paragraph.split()))


def _answer(asked: Asked, marks: Marks) -> str:
    text = _INDENT.sub(lambda match: " " * len(match[0].expandtabs(4)), "\n\n".join(asked.answer))
    text = textwrap.dedent(text).strip()
    mark = marks.answer.match(text)
    if not mark or (not asked.marked and _INITIAL.fullmatch(mark[0])):
        return text
    return text[mark.end() :]
