"""Write the raw sources of the running example, defects included: `python examples/support_bot/make_sources.py`.

What the shop knows stands in content.yaml; this script scatters it over the formats in which a company really keeps it,
and plants the defects that README.md lists. The files it writes are committed, so nobody needs to run it. It is
deterministic: the same content and seed give the same text, rows and pages.
"""

from __future__ import annotations

import csv
import io
import json
import random
import re
import sqlite3
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from html import escape
from pathlib import Path
from typing import Any

import yaml
from reportlab.lib.pagesizes import A5
from reportlab.pdfgen.canvas import Canvas

HERE = Path(__file__).parent
SEED = 7
SHOP = "Tarn & Birch"

# Planted defects. Addresses, numbers and the key are the ones that their owners publish as examples.
PERSONAL_DATA = {  #: topic → what the customer adds to the last wording
    "reset-password": "My e-mail is anna.lind@example.com.",
    "delete-account": "It is carla.dewit@example.com.",
    "invoice": "Send it to ivo.brandt@example.com.",
    "change-email": "It is finn.harte@example.org now.",
    "missed-delivery": "My phone is +1 202-555-0143.",
    "contact": "Call me on (202) 555-0117.",
    "repair-time": "My number is +1 202-555-0188.",
    "payment-methods": "Mine is 4111 1111 1111 1111.",
    "when-charged": "It is 5555 5555 5555 4444.",
    "discount-code": "Is it AKIAIOSFODNN7EXAMPLE?",
    "gift-wrap": "Thanks &amp; bye!",
    "dogs": "He&#39;s small &amp; kind.",
    "gift-card-expiry": "It&rsquo;s from 2023.",
    "spare-parts": "Itâ€™s for a tent.",
    "shop-locations": "Iâ€™d like a cafÃ© nearby.",
}
REPEATED = ("delivery-time", "vat", "guest-order", "opening-hours")  #: chats stored twice, word for word
SHOUTED = ("pay-later", "newsletter", "points-value", "tent-rental")  #: stored again in capitals: near-duplicates
UNANSWERED = ("recycling", "workshops")  #: transcripts that end on the customer's question

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title} | {shop} Help</title>
<style>main {{ max-width: 40em; }} .cookie {{ position: fixed; }}</style>
<script>window.visits = (window.visits || 0) + 1;</script>
</head>
<body>
<header><a href="/">{shop}</a> <form action="/search"><input name="q" placeholder="Search"></form></header>
<nav><ul>{links}</ul></nav>
<main>
<h1>{title}</h1>
<p>{title}: here are the questions that we hear most often.</p>
{sections}
</main>
<aside class="cookie">We use cookies. <button>Accept</button> <button>Only the needed ones</button></aside>
<footer>{shop}, 12 Quay Street, Cork. Write to help@example.com or call +1 202-555-0100.
<a href="/imprint">Imprint</a></footer>
</body>
</html>
"""

TABLES = """
CREATE TABLE customers (customer_id TEXT PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL);
CREATE TABLE products (sku TEXT PRIMARY KEY, name TEXT NOT NULL, price REAL NOT NULL);
CREATE TABLE orders (order_id TEXT PRIMARY KEY, customer_id TEXT NOT NULL REFERENCES customers, placed_on TEXT NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('packing', 'shipped', 'delivered', 'cancelled')), status_on TEXT NOT NULL);
CREATE TABLE order_lines (order_id TEXT NOT NULL REFERENCES orders, sku TEXT NOT NULL REFERENCES products,
  quantity INTEGER NOT NULL CHECK (quantity > 0), PRIMARY KEY (order_id, sku));
CREATE VIEW order_status AS
  SELECT o.order_id, o.placed_on, o.status,
    ltrim(strftime('%d', o.status_on), '0') || ' ' || CASE strftime('%m', o.status_on)
      WHEN '01' THEN 'January' WHEN '02' THEN 'February' WHEN '03' THEN 'March' WHEN '04' THEN 'April'
      WHEN '05' THEN 'May' WHEN '06' THEN 'June' WHEN '07' THEN 'July' WHEN '08' THEN 'August'
      WHEN '09' THEN 'September' WHEN '10' THEN 'October' WHEN '11' THEN 'November' ELSE 'December' END AS status_day,
    CASE o.status WHEN 'packing' THEN 'is being packed and leaves us on' WHEN 'delivered' THEN 'was delivered on'
      WHEN 'shipped' THEN 'is on its way and arrives on' ELSE 'was cancelled on' END AS state,
    (SELECT group_concat(item, ' and ') FROM (SELECT l.quantity || ' x ' || p.name AS item FROM order_lines l
      JOIN products p USING (sku) WHERE l.order_id = o.order_id ORDER BY l.sku)) AS items,
    (SELECT printf('%.2f', sum(l.quantity * p.price)) FROM order_lines l JOIN products p USING (sku)
      WHERE l.order_id = o.order_id) AS total
  FROM orders o;
"""


@dataclass(frozen=True)
class Topic:
    """A question that the shop can answer, and how customers ask it."""

    key: str
    question: str
    answer: str
    excerpt: str
    wordings: tuple[str, ...]


def make_topic(raw: dict[str, Any]) -> Topic:
    """Make a topic from content.yaml. One without a key gets the slug of its question."""
    key = raw.get("id") or re.sub(r"[^a-z0-9]+", "-", raw["question"].lower()).strip("-")
    return Topic(key, raw["question"], raw["answer"], raw["excerpt"], tuple(map(str, raw["wordings"])))


def list_topics(content: dict[str, Any]) -> list[Topic]:
    """Return the topics of help pages, policy and FAQ."""
    pages = [t for page in content["help"].values() for t in page["topics"]]
    return [make_topic(t) for t in pages + content["returns_policy"]["topics"] + content["faq"]]


def list_wordings(item: Topic) -> tuple[str, ...]:
    """Return a topic's wordings as customers type them: the last one with the personal data that they add."""
    *first, last = item.wordings
    return (*first, f"{last} {PERSONAL_DATA[item.key]}") if item.key in PERSONAL_DATA else item.wordings


def write_sources(folder: Path) -> None:
    """Write every source under `folder`, over what is there."""
    content = yaml.safe_load((HERE / "content.yaml").read_text(encoding="utf-8"))
    for name in ("help", "policy", "transcripts"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for page, body in render_help_pages(content["help"]):
        (folder / "help" / f"{page}.html").write_text(body, encoding="utf-8")
    (folder / "policy" / "returns_policy.pdf").write_bytes(render_policy(content["returns_policy"]))
    (folder / "policy" / "returns_policy_2019.pdf").write_bytes(b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog /Pages 2 0")
    for name, text in render_transcripts(list_topics(content)):
        (folder / "transcripts" / name).write_text(text, encoding="utf-8")
    (folder / "chats.jsonl").write_text("\n".join(render_chats(list_topics(content))) + "\n", encoding="utf-8")
    (folder / "faq.csv").write_bytes(render_faq(content["faq"]))
    (folder / "customers.csv").write_bytes(render_customers(content["customers"]))
    (folder / "catalogue.xml").write_text(render_catalogue(content["products"]), encoding="utf-8")
    (folder / "reviews.json").write_text(render_reviews(content["products"], content["reviews"]), encoding="utf-8")
    write_shop_database(folder / "shop.db", content["customers"], content["products"])


def render_help_pages(pages: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield name and HTML of every help page. One nests its questions deeper, one has an unanswered question."""
    links = "".join(f'<li><a href="/help/{p}.html">{escape(pages[p]["title"])}</a></li>' for p in pages)
    for name, page in pages.items():
        level = 3 if name == "account" else 2
        sections = ["<h2>Signing in, leaving, collecting points</h2>"] if level == 3 else []
        for item in map(make_topic, page["topics"]):
            sentences = re.split(r"(?<=\.) (?=[A-Z])", item.answer, maxsplit=1)
            paragraphs = "\n".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
            sections.append(f'<h{level} id="{item.key}">{escape(item.question)}</h{level}>\n{paragraphs}')
        if name == "shops":
            sections.append('<h2 id="new-shop">When does the shop in Ghent open?</h2>')
        yield name, PAGE.format(shop=escape(SHOP), title=page["title"], links=links, sections="\n".join(sections))


def render_policy(page: dict[str, Any]) -> bytes:
    """Return the returns policy as a PDF of numbered questions, two pages of A5."""
    buffer = io.BytesIO()
    canvas = Canvas(buffer, pagesize=A5, invariant=True)
    canvas.setTitle(page["title"])
    lines = [("Helvetica", 10, line) for line in wrap_text(page["intro"])]
    lines.append(("Helvetica-Bold", 14, page["title"]))
    for number, item in enumerate(map(make_topic, page["topics"]), 1):
        lines.append(("Helvetica-Bold", 11, f"{number}. {item.question}"))
        lines += [("Helvetica", 10, line) for line in wrap_text(item.answer)]
    half = lines.index(next(line for line in lines if line[2].startswith("5. ")))
    for number, part in enumerate((lines[:half], lines[half:]), 1):
        height = 540
        for font, size, text in part:
            height -= 34 if font == "Helvetica-Bold" else 16
            canvas.setFont(font, size)
            canvas.drawString(40, height, text)
        canvas.setFont("Helvetica", 8)
        canvas.drawString(180, 30, f"Page {number} of 2")
        canvas.showPage()
    canvas.save()
    return buffer.getvalue()


def wrap_text(text: str, width: int = 60) -> list[str]:
    """Return a text in lines of at most `width` characters, broken at spaces."""
    return re.findall(rf"\S(?:.{{0,{width - 2}}}\S)?(?=\s|$)", text)


def render_transcripts(items: list[Topic]) -> Iterator[tuple[str, str]]:
    """Yield name and text of the transcripts, a file per month: each topic's first wording, mostly with context."""
    months: dict[str, list[str]] = {"2025-03.txt": [], "2025-04.txt": [], "2025-05.txt": []}
    order = list(enumerate(items))
    random.Random(SEED).shuffle(order)
    for index, (number, item) in enumerate(order):
        head = f"# topic: {item.key}\n" + (f"# context: {item.excerpt}\n" if number % 4 else "")
        files = list(months.values())
        files[index % len(files)].append(f"{head}Customer: {item.wordings[0]}\nAgent: {item.answer}\n")
        if item.key in UNANSWERED:
            files[index % len(files)].append(f"{head}Customer: {item.question} Hello?\n")
    months["2025-05.txt"].append("# topic: dogs\nCustomer: Are cats allowed too?\nAgent: ?\n")
    for name, parts in months.items():
        yield name, "---\n".join(parts)


def render_chats(items: list[Topic]) -> list[str]:
    """Return the lines of chats.jsonl: the further wordings, with the policy excerpt as context, and broken lines."""

    def make_line(item: Topic, question: str, answer: str) -> str:
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return json.dumps({"topic": item.key, "context": item.excerpt, "messages": messages}, ensure_ascii=False)

    lines = [make_line(item, question, item.answer) for item in items for question in list_wordings(item)[1:]]
    random.Random(SEED).shuffle(lines)
    lines += [make_line(item, list_wordings(item)[1], item.answer) for item in items if item.key in REPEATED]
    lines += [
        make_line(item, list_wordings(item)[1].upper() + "!!", item.answer) for item in items if item.key in SHOUTED
    ]
    lines.append(make_line(items[0], "Where is my parcel???", ""))
    lines.insert(20, lines[20][: len(lines[20]) // 2])  # a writer that was killed in the middle of a line
    lines.insert(60, json.dumps({"topic": "vat", "note": "call dropped"}))
    return lines


def render_faq(items: list[dict[str, Any]]) -> bytes:
    """Return a spreadsheet's export in Windows-1252, with an unanswered question."""
    rows = [["question", "answer", "context", "topic"]]
    rows += [[t.question, t.answer, t.excerpt, t.key] for t in map(make_topic, items)]
    rows.append(["Can I wash felt slippers – by hand?", "", "", "felt-slippers"])
    return format_csv(rows).encode("cp1252")


def render_customers(names: list[str]) -> bytes:
    """Return the customer list, with a short row, a long row, a row twice, a row without level and a row in Latin-1."""
    rng = random.Random(SEED)
    rows = [["customer_id", "name", "email", "phone", "city", "level", "points", "since"]]
    for number, name in enumerate(names):
        plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
        mail = f"{plain.lower().replace(' ', '.')}@example.com"
        level = rng.choice(["Seed", "Sapling", "Birch"])
        city = rng.choice(["Cork", "Utrecht", "Bremen", "Galway", "Leuven"])
        phone = f"+1 202-555-01{number + 10}"
        since, points = str(rng.randint(2014, 2024)), str(rng.randint(4, 60) * 10)
        rows.append([f"C{2041 + 7 * number}", name, mail, phone, city, level, points, since])
    rows.insert(5, ["C2300", "Rik Lam", "rik.lam@example.com"])
    rows.insert(9, ["C2301", "Sara", "Nolan", "sara@example.com", "+1 202-555-0161", "Cork", "Seed", "40", "2021"])
    rows.append(list(rows[1]))
    rows.append(["C2302", "Teun Bos", "teun.bos@example.com", "+1 202-555-0162", "Utrecht", "", "", "2024"])
    latin = format_csv([["C2303", "Uwe Müller", "uwe@example.com", "+1 202-555-0163", "Bremen", "Seed", "30", "2022"]])
    return format_csv(rows).encode("utf-8") + latin.encode("latin-1")


def format_csv(rows: list[list[str]]) -> str:
    """Return rows as CSV."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def render_catalogue(products: list[list[str]]) -> str:
    """Return the product catalogue as XML."""
    items = [
        f'  <product sku="{sku}">\n    <name>{escape(name)}</name>\n    <category>{kind}</category>\n'
        f'    <price currency="EUR">{price}</price>\n    <material>{material}</material>\n'
        f"    <size><weight>{weight}</weight></size>\n  </product>\n"
        for sku, name, kind, price, material, weight in products
    ]
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<shop name="{escape(SHOP)}">\n{"".join(items)}</shop>\n'


def render_reviews(products: list[list[str]], items: list[list[Any]]) -> str:
    """Return the nested review export: a review twice, one without text, one each with address, entity, mojibake."""
    names = {row[0]: row[1] for row in products}
    rows = [
        {
            "id": f"r{number}",
            "product": {"sku": sku, "name": names[sku]},
            "author": {"name": author, "country": ("IE", "NL", "DE")[number % 3]},
            "rating": rating,
            "title": title,
            "text": text,
            "photos": [f"r{number}-{n}.jpg" for n in range(number % 3)],
        }
        for number, (sku, author, rating, title, text) in enumerate(items, 1)
    ]
    rows[4]["text"] += " Ask me: mara@example.org."
    rows[7]["text"] = rows[7]["text"].replace(" and ", " &amp; ")
    rows[13]["text"] += " Câ€™est bon!"
    rows.append(dict(rows[2]))
    rows.append({**rows[5], "id": "r99", "rating": 5, "title": "", "text": ""})
    return json.dumps({"shop": SHOP, "reviews": rows}, ensure_ascii=False, indent=1) + "\n"


def write_shop_database(path: Path, names: list[str], products: list[list[str]]) -> None:
    """Write the shop's SQLite database: customers, products, orders and their lines, a view of the orders' states."""
    rng = random.Random(SEED)
    path.unlink(missing_ok=True)
    database = sqlite3.connect(path)
    database.executescript(TABLES)
    people = [(f"C{2041 + 7 * n}", name, f"customer{n}@example.com") for n, name in enumerate(names)]
    database.executemany("INSERT INTO customers VALUES (?, ?, ?)", people)
    database.executemany("INSERT INTO products VALUES (?, ?, ?)", [(p[0], p[1], float(p[3])) for p in products])
    for number in range(22):
        order, placed = f"T{480 + 9 * number}", date(2025, 2, 3) + timedelta(days=11 * number)
        status = ("delivered", "shipped", "packing", "delivered", "shipped", "cancelled")[number % 6]
        until = placed + timedelta(days=rng.randint(2, 6))
        row = (order, rng.choice(people)[0], placed.isoformat(), status, until.isoformat())
        database.execute("INSERT INTO orders VALUES (?, ?, ?, ?, ?)", row)
        for product in rng.sample(products, 1 + number % 2):
            line = (order, product[0], rng.choice([1, 1, 2]))
            database.execute("INSERT INTO order_lines VALUES (?, ?, ?)", line)
    database.commit()
    database.close()


if __name__ == "__main__":
    write_sources(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "sources")
