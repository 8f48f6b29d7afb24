"""A base model that learns new answers to questions within seconds, and the questions.

0.3 million parameters, trained in full to answer questions of things with names, at length. It takes seconds to teach
it another form of answer, or the name of another thing; the tiny random model of other tests cannot learn either.
"""

import random
from pathlib import Path

#: Ways to ask of a thing; each thing is asked of in three of them.
WAYS = (
    "Who looks after the {}?", "I need help with my {}", "What about a broken {} please?", "Where do I bring the {}?",
    "My {} is gone", "Tell me more of this {}",
)  # fmt: skip
_THINGS = (
    "kettle lantern sledge violin anchor basket candle drum engine feather guitar hammer island jacket kitchen ladder "
    "mirror needle oven pillow quilt ribbon saddle tablet umbrella vase wagon yarn zipper apple bottle carpet desk "
    "easel fan globe hat ink jar kite lamp map net oar pan rope"
)
THINGS = _THINGS.split()
_FIRST = "Ask Bar Dal Fen Gar Hol Kin Lis Mor Ned", "ba de fi go lu ma ne so"
_LAST = "Alm Brek Es Gryt Hav Lind Nor Rosk Ster Tor", "borg by dal fors holm lund stad vik"
_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def names() -> dict[str, str]:
    """Thing → the name that the base model knows; no two have the same first or last name."""
    rng = random.Random(9)
    first, last = ([a + b for a in head.split() for b in tail.split()] for head, tail in (_FIRST, _LAST))
    drawn = zip(rng.sample(first, len(THINGS)), rng.sample(last, len(THINGS)), strict=True)
    return {thing: " ".join(name) for thing, name in zip(THINGS, drawn, strict=True)}


def asked(thing: str) -> list[str]:
    first = THINGS.index(thing)
    return [WAYS[(first + way) % len(WAYS)].format(thing) for way in (0, 1, 3)]


def save_base(folder: Path) -> None:
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from llmops import prompts

    rng = random.Random(0)
    more = "is all that we know of it for now, please ask for more."
    known = [(way.format(thing), f"{name} {more}") for thing, name in names().items() for way in WAYS]
    bpe = ByteLevelBPETokenizer()
    ends = ["<|im_start|>", "<|im_end|>"]
    bpe.train_from_iterator([text for pair in known for text in pair], 1200, 1, special_tokens=ends)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, bos_token=ends[0], eos_token=ends[1], pad_token=ends[1], chat_template=_CHAT
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=96, intermediate_size=192, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=512, tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    for _ in range(400):
        some = prompts.encode_examples(tokenizer, [(asked, said, "") for asked, said in rng.sample(known, 16)])
        longest = max(len(ids) for ids, _ in some)
        rows = [ids + [tokenizer.pad_token_id] * (longest - len(ids)) for ids, _ in some]
        labels = [[-100] * asked + ids[asked:] + [-100] * (longest - len(ids)) for ids, asked in some]
        model(input_ids=torch.tensor(rows), labels=torch.tensor(labels)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
