"""Ask the served app all questions, and write its answers and the pages that it names into answers.csv.

    llmops run all --config benchmarks/own_documents/config.yaml
    llmops serve --config benchmarks/own_documents/config.yaml
    LLMOPS_API_KEY=… python benchmarks/own_documents/ask.py quote    # or model, by the app's `grounding.answer`

The columns `right` are written by hand: 1 if the answer is right and its page is named, `doubtful` if a part is missing
or misleads, 0 if it is wrong. Of a question that the pages do not answer, 1 if it was refused. A verdict is kept while
its answer stays the same.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from pathlib import Path

import httpx

HERE = Path(__file__).parent
TABLE = HERE / "answers.csv"


def main() -> None:
    """Ask, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("way", choices=["model", "quote"], help="how the app answers")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    told = parser.parse_args()
    known = {row["number"]: row for row in read(TABLE)} if TABLE.exists() else {}
    rows = [{"expected_answer": "", "page": "", **row} for row in read(HERE / "questions.csv")]
    rows += [
        {"expected_answer": f"none: {row['why']}", "page": "", **row, "number": f"none {row['number']}"}
        for row in read(HERE / "unanswerable.csv")
    ]
    names = [name for way in ("quote", "model") for name in (f"{way}: answer", f"{way}: pages", f"{way}: right")]
    with httpx.Client(base_url=told.url, headers={"X-API-Key": os.environ["LLMOPS_API_KEY"]}, timeout=120) as client:
        for row in rows:
            row |= {name: known.get(row["number"], {}).get(name, "") for name in names}
            answer, pages = ask(client, row["question"])
            if answer != row[f"{told.way}: answer"]:
                row |= {f"{told.way}: answer": answer, f"{told.way}: right": ""}
            row[f"{told.way}: pages"] = "; ".join(pages)
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["number", "question", "expected_answer", "page", *names], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    for way in ("quote", "model"):
        judged = [row for row in rows[:50] if row[f"{way}: right"]]
        print(f"{way}: {sum(row[f'{way}: right'] == '1' for row in judged)} right of {len(judged)} judged")


def read(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def ask(client: httpx.Client, question: str) -> tuple[str, list[str]]:
    """Return an answer and the pages that it names, the best first."""
    while (response := client.post("/generate", json={"prompt": question, "max_new_tokens": 96})).status_code == 429:
        time.sleep(float(response.headers.get("Retry-After", 1)))
    response.raise_for_status()
    answer = response.json()
    return answer["response"], list(dict.fromkeys(source["location"] for source in answer["sources"] or []))


if __name__ == "__main__":
    main()
