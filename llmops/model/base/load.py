"""Load models and tokenizers: bases, quantised or not, and the servable folders that are made of them."""

import gc
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging
from transformers.utils.quantization_config import QuantizationConfigMixin

from llmops.model.gguf.worker import GGUF_FILE, is_gguf
from llmops.prompts.clock import fix_clock
from llmops.prompts.encoder import is_encoder

ADAPTER_FOLDER = "adapter"  #: folder of a LoRA adapter that is not merged, within a servable
Model = Any  #: a transformers model; its classes are built at run time and carry no useful type


def get_device() -> str:
    """Return the device of models: this process's CUDA device, else the CPU."""
    # With its number, since accelerate refuses to train a model in NF4 that is on just "cuda".
    return f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else "cpu"


def make_nf4_config() -> BitsAndBytesConfig:
    """Return the setting of 4-bit NormalFloat with double quantisation, computing in bfloat16 (arXiv:2305.14314)."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder. Without a padding token it pads with its end-of-sequence token.

    The date in its chat template is fixed, so that a saved copy renders prompts as in training.

    Raises:
        ArtifactError: if the date cannot be fixed, or the template uses randomness.
    """
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(path))
    template = tokenizer.chat_template
    if isinstance(template, dict):
        tokenizer.chat_template = {name: fix_clock(text) for name, text in template.items()}
    elif template:
        tokenizer.chat_template = fix_clock(template)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(path: str | Path, quantisation: QuantizationConfigMixin | None = None) -> Model:
    """Load a model in evaluation mode: a causal one in bfloat16 or quantised, from a GGUF file in float32.

    An encoder is loaded in float32, to classify: it is small, and its head decides between scores that are close.
    A folder that was saved quantised (every servable in NF4) comes back quantised without being asked.
    """
    transformers_logging.disable_progress_bar()
    # Passing None would drop the quantisation that the folder's own configuration names.
    arguments: dict[str, Any] = {"quantization_config": quantisation} if quantisation else {}
    arguments |= {"gguf_file": GGUF_FILE, "dtype": torch.float32} if is_gguf(Path(path)) else {"dtype": torch.bfloat16}
    kind: Any = AutoModelForCausalLM
    if is_encoder(path):
        kind, arguments = AutoModelForSequenceClassification, {"dtype": torch.float32}
    model = kind.from_pretrained(str(path), device_map={"": get_device()}, **arguments)
    return model.eval()


def load_servable(path: str | Path) -> tuple[Model, PreTrainedTokenizerBase]:
    """Load model and tokenizer of a servable folder, or of any model folder; with its adapter, if it holds one."""
    model = load_model(path)
    adapter = Path(path) / ADAPTER_FOLDER
    if adapter.is_dir():
        from peft import PeftModel  # not above: it brings bitsandbytes, which a merged model has no use for

        # In float32, as it was trained, every layer would cast back and forth.
        model = PeftModel.from_pretrained(model, str(adapter), autocast_adapter_dtype=False).eval()
    return model, load_tokenizer(path)


def free_memory() -> None:
    """Free the memory of unused models, a GPU's too, because another process may need it next."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
