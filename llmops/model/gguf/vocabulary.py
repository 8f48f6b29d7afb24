"""The description of a tokenizer in a GGUF file, complete enough for llama.cpp and Ollama to use the same tokens."""

import json
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, SpecialVocab, TokenType

#: regular expression that splits a text into words → GGUF's name for it
_LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_PRETOKENIZERS = {_LLAMA: "llama-bpe", _LLAMA.replace("{1,3}", ""): "qwen2"}


def explain_unsupported(folder: Path) -> str:
    """Return the reason why GGUF cannot describe the tokenizer of a model folder; empty if it can."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return "its tokenizer is not a tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    if tokenizer["model"]["type"] != "BPE" or tokenizer["model"].get("byte_fallback"):
        return "its tokenizer is not a byte-level BPE"
    return "" if _name_pretokenizer(tokenizer) else "GGUF has no name for the rules by which its tokenizer splits words"


def add_tokenizer(writer: GGUFWriter, folder: Path, size: int) -> None:
    """Write the tokenizer of a model folder that `explain_unsupported` accepts.

    `size` is the number of rows of the embedding. Rows without a token are marked as unused.
    """
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    added = {token["id"]: token for token in tokenizer["added_tokens"]}
    names = {number: token for token, number in tokenizer["model"]["vocab"].items()}
    names |= {number: token["content"] for number, token in added.items()}
    kinds = [_classify_token(number, names, added) for number in range(size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_name_pretokenizer(tokenizer))
    writer.add_token_list([names.get(number, f"[PAD{number}]") for number in range(size)])
    writer.add_token_types(kinds)
    SpecialVocab(folder, load_merges=True, n_vocab=size).add_to_gguf(writer, quiet=True)


def _classify_token(number: int, names: dict[int, str], added: dict[int, Any]) -> TokenType:
    if number in added:
        return TokenType.CONTROL if added[number]["special"] else TokenType.USER_DEFINED
    return TokenType.NORMAL if number in names else TokenType.UNUSED


def _name_pretokenizer(tokenizer: dict[str, Any]) -> str:
    """Return GGUF's name for the rules by which a `tokenizer.json` splits text into words; empty if it has none."""
    rules = tokenizer["pre_tokenizer"] or {}
    steps = list(rules.get("pretokenizers", [rules]))
    if not steps or steps[-1].get("type") != "ByteLevel" or steps[-1].get("add_prefix_space"):
        return ""
    plain = bool(steps[-1].get("use_regex", True))
    match steps[:-1]:
        case [] if plain:
            return "gpt-2"
        case [{"type": "Digits", "individual_digits": True}] if plain:
            return "smollm"
        case [{"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}] if not plain:
            return _PRETOKENIZERS.get(regex, "")
    return ""
