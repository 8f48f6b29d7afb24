"""Merge an adapter into its base, layer by layer, and write the result file by file.

It holds one file of the result (`SHARD` bytes) and one layer in float32, however large the model is. A model of 8
billion parameters that is dequantised and cast to float32 as a whole would take 30 GiB.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn.modules import Params4bit
from huggingface_hub import split_torch_state_dict_into_shards
from peft import PeftConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, GenerationConfig
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.auto import AutoHfQuantizer

from llmops.frame.errors import TrainingError
from llmops.model.base.load import Model, device, load_model, load_tokenizer, nf4
from llmops.model.base.memory import SHARD
from llmops.model.base.shape import on_meta
from llmops.model.training.qlora import check_mergeable

Read = Callable[[str], torch.Tensor]  #: a tensor of the base by its name


def save_merged(base: str, adapter: Path, method: str, out: Path) -> None:
    """Write the base with its adapter merged in, and its tokenizer: a plain bfloat16 model folder.

    QLoRA trained the adapter on the base as NF4 holds it, so it is merged into that base, dequantised. Merged into the
    published weights instead, it would no longer correct what it was trained to correct: on 241 examples learned to a
    loss of 0.04, the merged model's was 0.29, and its token F1 on held-out wordings 0.26, not 0.46. The method `lora`
    is for an adapter that was trained on the base as it is. An earlier, interrupted merge in `out` is overwritten.
    """
    out.mkdir(parents=True, exist_ok=True)
    model = on_meta(AutoConfig.from_pretrained(base))
    tied: dict[str, str] = model.all_tied_weights_keys  # a weight that is only another name → that other
    state = model.state_dict()
    rounded = _quantised(model.config) if method == "qlora" else {}
    turned = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, Conv1D)}
    layers = _adapted(model, adapter)
    untied = {name for name in tied if name.removesuffix(".weight") in layers}  # its own from now on
    kept = {name: tensor for name, tensor in state.items() if name not in tied or name in untied}
    shards = split_torch_state_dict_into_shards(kept, max_shard_size=SHARD)
    stored = _stored(base, [tied.get(name, name) for name in kept])
    if stored is None:
        source, rounded = _whole(base, method, turned), {}
    for file, names in shards.filename_to_tensors.items():
        with _reading(Path(base), stored) if stored else _held(source) as read:
            tensors = {}
            for name in names:
                weight = read(tied.get(name, name)).to(torch.bfloat16)
                if name in rounded:
                    weight = _round(weight.T, rounded[name]).T if name in turned else _round(weight, rounded[name])
                layer = layers.get(name.removesuffix(".weight"))
                tensors[name] = (_merged(layer, weight) if layer else weight).contiguous()
            save_file(tensors, out / file, metadata={"format": "pt"})
    if shards.is_sharded:
        index = {"metadata": shards.metadata, "weight_map": shards.tensor_to_filename}
        (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    _save_settings(base, model, bool(untied), out)


def _quantised(config: Any) -> dict[str, Params4bit]:
    """Return the weights that NF4 holds in 4 bits, by name, without their values: transformers decides which."""
    model = on_meta(config)
    AutoHfQuantizer.from_config(nf4(), pre_quantized=False).preprocess_model(
        model=model, dtype=torch.bfloat16, device_map={"": "cpu"}
    )
    return {name: p for name, p in model.named_parameters() if isinstance(p, Params4bit)}


def _adapted(model: Model, adapter: Path) -> dict[str, LoraLayer]:
    """Return the layers of the adapter by name: its weights are real, the base's are not there.

    peft itself would move an adapter to where its base is, and so lose it on the meta device.
    """
    adapted = get_peft_model(model, PeftConfig.from_pretrained(str(adapter)), low_cpu_mem_usage=True)
    stored = load_file(adapter / "adapter_model.safetensors")
    named = {name.replace(".default", ""): name for name, _ in adapted.named_parameters() if "lora_" in name}
    named |= {key.removesuffix(".weight"): name for key, name in named.items() if "lora_magnitude_vector" in key}
    # With an output layer that trains, peft stores the frozen embedding beside the adapter.
    if unknown := sorted(set(stored) - set(named) - set(adapted.state_dict())):
        raise TrainingError(f"The adapter {adapter} has {unknown[0]}, which its base does not have.")
    if missing := sorted(set(named.values()) - {named.get(key) for key in stored}):
        raise TrainingError(f"The adapter {adapter} lacks {missing[0]}; it is not whole, so train again.")
    found = {named[key]: value.float() for key, value in stored.items() if key in named}
    adapted.load_state_dict(found, strict=False, assign=True)
    modules = adapted.base_model.model.named_modules()
    layers = {name: layer for name, layer in modules if isinstance(layer, LoraLayer)}
    check_mergeable(layers)
    return layers


def _stored(base: str, names: list[str]) -> dict[str, str] | None:
    """Return name of each tensor → its file; None if the files do not hold all of them under these names."""
    index, single = Path(base) / "model.safetensors.index.json", Path(base) / "model.safetensors"
    where: dict[str, str] = {}
    if index.is_file():
        where = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    elif single.is_file():
        with safe_open(single, framework="pt") as file:
            where = dict.fromkeys(file.keys(), single.name)
    quantised = any(".weight." in name for name in where)  # `weight.absmax` and the like: 4 bits on the disk already
    return None if quantised or not set(names) <= set(where) else where


@contextmanager
def _reading(base: Path, where: Mapping[str, str]) -> Iterator[Read]:
    with ExitStack() as stack:
        files: dict[str, Any] = {}

        def read(name: str) -> torch.Tensor:
            file = where[name]
            if file not in files:
                files[file] = stack.enter_context(safe_open(base / file, framework="pt"))
            tensor: torch.Tensor = files[file].get_tensor(name)
            return tensor

        yield read


def _whole(base: str, method: str, turned: Collection[str]) -> dict[str, torch.Tensor]:
    """Return all tensors of a base whose files have other names than its modules, rounded to NF4 if the training was.

    A `Conv1D` comes back from NF4 as a linear layer, whose weight is the other way round: those are `turned`.
    """
    if method != "qlora":
        return dict(load_model(base).state_dict())
    state = load_model(base, nf4()).dequantize().state_dict()
    return {name: tensor.T if name in turned else tensor for name, tensor in state.items()}


@contextmanager
def _held(source: Mapping[str, torch.Tensor]) -> Iterator[Read]:
    yield lambda name: source[name].cpu()


def _round(weight: torch.Tensor, like: Params4bit) -> torch.Tensor:
    """Round a weight as NF4 does, on the device of the training."""
    packed: Any = Params4bit(weight.to(device()), requires_grad=False, **like.__dict__)
    packed = packed.to(device())  # which packs it
    found: torch.Tensor = dequantize_4bit(packed.data, packed.quant_state)
    return found.to(torch.bfloat16).cpu()


def _merged(layer: Any, weight: torch.Tensor) -> torch.Tensor:
    linear = layer.get_base_layer()
    empty = linear.weight
    linear.weight = torch.nn.Parameter(weight.float(), requires_grad=False)
    layer.merge()
    merged: torch.Tensor = linear.weight.data.to(torch.bfloat16)
    linear.weight = empty
    return merged


def _save_settings(base: str, model: Model, untied: bool, out: Path) -> None:
    config = model.config
    config.architectures, config.dtype = [type(model).__name__], torch.bfloat16
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    if untied:
        config.tie_word_embeddings = False
    config.save_pretrained(out)
    try:
        generation = GenerationConfig.from_pretrained(base)
    except OSError:  # none is stored
        generation = model.generation_config
    generation.save_pretrained(out)
    load_tokenizer(base).save_pretrained(out)
