"""Questions and numbered headings in plain text, recognised by its layout."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from llmops.data.text.headings import QUESTION_MARKS, compute_depth, has_final_question_mark, is_question, remove_number

# Marks of a question and its answer: words, and pairs of letters on consecutive lines.
_QUESTION_WORDS = "|".join(
    [
        r"question|frage|pregunta|pergunta|domanda|vraag|fråga|spørgsmål|spørsmål|kysymys|pytanie|otázka|kérdés|soru",
        r"întrebare|вопрос|питання|ερώτηση|问题|問題|質問|问|問|질문|문|السؤال|سؤال|שאלה|प्रश्न|सवाल|คำถาม|ถาม",
        r"câu hỏi|pertanyaan",
    ]
)
_ANSWER_WORDS = "|".join(
    [
        r"answer|antwort|réponse|respuesta|resposta|risposta|antwoord|svar|vastaus|odpowiedź|odpověď|odpoveď|válasz",
        r"cevap|yanıt|răspuns|ответ|відповідь|απάντηση|答案|回答|答え|答|답변|답|الإجابة|الجواب|جواب|תשובה|उत्तर|जवाब|คำตอบ|ตอบ",
        r"trả lời|đáp|jawaban",
    ]
)
_LETTER_PAIRS = ("QA", "QR", "PR", "DR", "FA", "FS", "SC", "PO", "ВО", "ΕΑ")
_PAIR_PATTERNS = {
    pair: re.compile(rf"^{pair[0]}\d*[^\S\n]?[:)：].+\n\s*{pair[1]}\d*[^\S\n]?[:)：]", re.MULTILINE)
    for pair in _LETTER_PAIRS
}

MAX_HEADING_LINES, MAX_HEADING_CHARS = 4, 300  #: most lines and characters of a numbered heading


@dataclass(frozen=True, slots=True)
class MarkPatterns:
    """The patterns of a text's marked questions and answers."""

    paragraph_end: re.Pattern[str]  #: end of a paragraph: an empty line, or a line with a marked question
    question: re.Pattern[str]  #: a line that ends in a question mark, marked or not
    marked_question: re.Pattern[str]  #: a line marked as in `Q: …`, and the text below it
    answer: re.Pattern[str]  #: the mark of an answer


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
    outer_headings: tuple[Heading, ...]  #: the headings above it, outermost first
    question: str  #: empty if the block contains no question
    rest: str  #: text after the question in the block
    marked: bool  #: True if the question is marked, as in `Q: …`


def split_blocks(text: str) -> Iterator[Block]:
    """Yield the blocks of `text`, in order.

    A question is a paragraph of one line that ends in a question mark, a numbered heading that asks (`5.3. How can I
    …`, wrapped or not), or a line marked as in `Q: …` or `Frage: …`.
    """
    marks, body = find_marks(text), text.strip("\n")
    lead, outer_headings = len(text) - len(text.lstrip("\n")), tuple[Heading, ...]()
    ends = [(match.start(), match.end()) for match in marks.paragraph_end.finditer(body)]
    for (_, start), (end, _) in zip([(0, 0), *ends], [*ends, (len(body), 0)], strict=True):
        paragraph = body[start:end].strip()
        heading = _parse_heading(paragraph)
        question, rest, marked = _extract_question(paragraph, marks)
        if heading.level:
            outer_headings = tuple(outer for outer in outer_headings if outer.level < heading.level)
            question, marked = heading.title if is_question(heading.title) else "", False
        yield Block(lead + start, body[start:end], heading, outer_headings, question, rest, marked)
        if heading.level:
            outer_headings = (*outer_headings, heading)


def find_marks(text: str) -> MarkPatterns:
    """Return the patterns of the question and answer marks that `text` uses."""
    return _compile_marks(next((pair for pair, both in _PAIR_PATTERNS.items() if both.search(text)), _LETTER_PAIRS[0]))


@cache
def _compile_marks(letters: str) -> MarkPatterns:
    question, answer = (
        rf"(?:{letter}|(?i:{words}))" for letter, words in zip(letters, (_QUESTION_WORDS, _ANSWER_WORDS), strict=True)
    )
    bold, end = r"(?:\*\*|__)?", r"[^\S\n]*\d*[^\S\n]?(?:[:：](?:\*\*|__)?|[.)])[^\S\n]*"
    colon = r"[^\S\n]*\d*[^\S\n]?[:：]"  # "Q." may be an initial in a wrapped line
    return MarkPatterns(
        re.compile(rf"\n(?:[^\S\n]*\n)+|\n(?={bold}{question}{colon})"),
        re.compile(rf"(?P<mark>{bold}{question}{end})?(?P<question>[^\n]{{3,200}}[{QUESTION_MARKS};][!\"'”’»)]*)"),
        re.compile(rf"{bold}{question}{end}(?P<question>[^\n]{{3,200}})(?:\n(?P<rest>.+))?", re.DOTALL),
        re.compile(rf"{bold}{answer}{end}\s*(?=\S)"),
    )


def _extract_question(paragraph: str, marks: MarkPatterns) -> tuple[str, str, bool]:
    """Return a paragraph's question, the rest of it, and True if the question is marked; empty if it has none."""
    if (match := marks.question.fullmatch(paragraph)) and has_final_question_mark(paragraph):
        return remove_number(match["question"]), "", bool(match["mark"])
    if match := marks.marked_question.fullmatch(paragraph):
        return match["question"], match["rest"] or "", True
    return "", "", False


def _parse_heading(paragraph: str) -> Heading:
    """Return the numbered heading that a paragraph is.

    A single number (`2. Press the button`) may be a step. Such a line is a heading only after a word such as "Chapter",
    or as a question.
    """
    if not paragraph or len(paragraph) > MAX_HEADING_CHARS or paragraph[-1] in ".,;:":
        return Heading(0, "")
    lines, level = paragraph.split("\n"), compute_depth(paragraph)
    step = level == 1 and paragraph[0].isdigit() and not has_final_question_mark(paragraph)
    if step or len(lines) > MAX_HEADING_LINES or any(compute_depth(line.strip()) for line in lines[1:]):
        return Heading(0, "")
    line = " ".join(paragraph.split())
    return Heading(level, remove_number(line), line)
