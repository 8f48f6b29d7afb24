"""Every command line of the README, docs/ and the DAGs' pages is run as it stands, or listed with why it is not."""

import itertools
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmops import cli
from tests.e2e.commands import AIRFLOW, FIRST, MEANT, NAMED, PARSED, RUN, SERVE

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "dags").glob("*.py"))]
PROGRAM = re.compile(
    r"^(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?(?:llmops|airflow|make|python3?|pip|docker|kubectl|curl|uv) \S"
)


@pytest.fixture(scope="module")
def commands() -> list[str]:
    """Return each command line once: of blocks of shell, and of code in a sentence that begins with a program."""
    commands: dict[str, None] = {}
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".py":
            text = text.split('"""')[1]
        blocks = [
            code
            for language, code in re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S)
            if language in ("sh", "bash")
        ]
        text = re.sub(r"^```.*?^```\n", "", text, flags=re.M | re.S)
        blocks += [re.sub("^    ", "", b, flags=re.M) for b in re.findall(r"(?<=\n\n)(?:    .*\n)+", text)]
        text = re.sub(r"^    .*\n", "", text, flags=re.M)
        for block in blocks:
            commands |= dict.fromkeys(split(block))
        inline = (code.replace(r"\|", "|") for code in re.findall(r"`([^`\n]+)`", text))
        commands |= dict.fromkeys(code for code in inline if PROGRAM.match(code))
    return list(commands)


def split(block: str) -> Iterator[str]:
    """Return the commands of a block of shell: lines, put together until bash finds them whole."""
    whole = ""
    for line in block.replace("\\\n", "").splitlines():
        whole += line + "\n"
        checked = subprocess.run(["bash", "-n", "-c", whole], capture_output=True)
        if checked.returncode == 0:
            yield re.sub(r"\s+# .*| +(?=  )", "", whole.strip())
            whole = ""
    assert not whole, f"bash does not understand {whole!r}"


def understood(line: list[str]) -> bool:
    """Tell if `llmops` takes the words of a command; one that is only named is asked for its help."""
    program, *words = line
    if program not in ("llmops", ".venv/bin/llmops"):
        return False
    try:
        cli._make_parser().parse_args([*words, "--help"] if words in NAMED else words)
    except SystemExit as end:
        return end.code == 0
    return True


def test_every_command_of_the_docs_is_listed_or_understood_and_every_list_is_of_the_docs(commands: list[str]) -> None:
    """Every form of a synopsis counts: each of what bars part, with and without what is in brackets."""
    listed = {FIRST, AIRFLOW, SERVE, *RUN}
    rest = [c for c in commands if c not in listed and not any(c.startswith(begin) for begin in PARSED)]
    lines = []
    for command in rest:
        short, long = re.sub(r" \[[^]]*\]", "", command), command.replace("[", "").replace("]", "")
        for form in {short, long}:
            words = [word.split("|") for word in shlex.split(form)]
            lines += [[MEANT.get(word, word) for word in words_of_one] for words_of_one in itertools.product(*words)]
    assert [" ".join(line) for line in lines if not understood(line)] == []
    gone = [command for command in listed if command not in commands]
    gone += [begin for begin in PARSED if not any(command.startswith(begin) for command in commands)]
    assert gone == []


def test_what_is_not_run_is_at_least_grammar(commands: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in commands:
        if not any(command.startswith(begin) for begin in PARSED):
            continue
        subprocess.run(["bash", "-n", "-c", command], check=True)
        if command.startswith("make "):
            assert re.search(rf"^{command.split()[1]}:", makefile, re.MULTILINE), command
        if match := re.match(r"(?:\S+=\S+ )*((?:\.venv/bin/)?llmops .*)", command):
            assert understood(match[1].split()), command
