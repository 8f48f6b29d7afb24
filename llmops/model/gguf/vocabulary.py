"""Describe a tokenizer in a GGUF file, so completely that llama.cpp and Ollama read and write text as it does."""

import json
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, SpecialVocab, TokenType

#: Regular expression that cuts a text into words → GGUF's name for it.
_LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_CUTS = {_LLAMA: "llama-bpe", _LLAMA.replace("{1,3}", ""): "qwen2"}


def refusal(folder: Path) -> str:
    """Return why GGUF cannot describe the tokenizer of a model folder; empty if it can."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return "its tokenizer is not a tokenizer.json"
    known = json.loads(path.read_text(encoding="utf-8"))
    if known["model"]["type"] != "BPE" or known["model"].get("byte_fallback"):
        return "its tokenizer is not a byte-level BPE"
    return "" if _cut(known) else "its tokenizer cuts text into words in a way that has no name in GGUF"


def add_tokenizer(writer: GGUFWriter, folder: Path, size: int) -> None:
    """Write the tokenizer of a model folder that `refusal` accepts.

    `size` is the number of rows of the embedding. Those without a token are named as unused.
    """
    known = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    added = {token["id"]: token for token in known["added_tokens"]}
    names = {number: token for token, number in known["model"]["vocab"].items()}
    names |= {number: token["content"] for number, token in added.items()}
    kinds = [_kind(number, names, added) for number in range(size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_cut(known))
    writer.add_token_list([names.get(number, f"[PAD{number}]") for number in range(size)])
    writer.add_token_types(kinds)
    SpecialVocab(folder, load_merges=True, n_vocab=size).add_to_gguf(writer, quiet=True)


def _kind(number: int, names: dict[int, str], added: dict[int, Any]) -> TokenType:
    if number in added:
        return TokenType.CONTROL if added[number]["special"] else TokenType.USER_DEFINED
    return TokenType.NORMAL if number in names else TokenType.UNUSED


def _cut(known: dict[str, Any]) -> str:
    """Return the name by which GGUF knows how a `tokenizer.json` cuts text into words; empty if it has none."""
    cuts = known["pre_tokenizer"] or {}
    steps = list(cuts.get("pretokenizers", [cuts]))
    if not steps or steps[-1].get("type") != "ByteLevel" or steps[-1].get("add_prefix_space"):
        return ""
    plain = bool(steps[-1].get("use_regex", True))
    match steps[:-1]:
        case [] if plain:
            return "gpt-2"
        case [{"type": "Digits", "individual_digits": True}] if plain:
            return "smollm"
        case [{"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}] if not plain:
            return _CUTS.get(regex, "")
    return ""
