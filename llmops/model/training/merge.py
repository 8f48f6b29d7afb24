"""Merge an adapter into its base, layer by layer, and write the result file by file.

It holds one file of the result (`SHARD_BYTES`) and one layer in float32, however large the model is. A model of 8
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
from peft import PeftConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, GenerationConfig
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.auto import AutoHfQuantizer

from llmops.frame.errors import TrainingError
from llmops.model.base.load import Model, get_device, load_model, load_tokenizer, make_nf4_config
from llmops.model.base.memory import SHARD_BYTES
from llmops.model.base.shape import build_on_meta_device
from llmops.model.training.qlora import check_mergeable
from llmops.prompts.encoder import is_encoder

ReadTensor = Callable[[str], torch.Tensor]  #: name of a tensor of the base → the tensor


def save_merged(base: str, adapter: Path, method: str, out: Path) -> None:
    """Write the base with its adapter merged in, and its tokenizer: a plain bfloat16 model folder.

    An encoder is written in float32 and without its tokenizer.

    QLoRA trained the adapter on the base as NF4 holds it, so it is merged into that base, dequantised. Merged into the
    published weights instead, it would no longer correct what it was trained to correct: on 241 examples learned to a
    loss of 0.04, the merged model's was 0.29, and its token F1 on held-out wordings 0.26, not 0.46. The method `lora`
    is for an adapter that was trained on the base as it is. An earlier, interrupted merge in `out` is overwritten.
    """
    out.mkdir(parents=True, exist_ok=True)
    if is_encoder(base):  # small enough to be merged as a whole, and its head is trained, too
        PeftModel.from_pretrained(load_model(base), str(adapter)).merge_and_unload().save_pretrained(out)
        return
    model = build_on_meta_device(AutoConfig.from_pretrained(base))
    tied: dict[str, str] = model.all_tied_weights_keys  # a weight that is only another name → that other
    state = model.state_dict()
    rounded = _find_quantised_weights(model.config) if method == "qlora" else {}
    transposed = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, Conv1D)}
    layers = _load_adapter_layers(model, adapter)
    untied = {name for name in tied if name.removesuffix(".weight") in layers}  # its own from now on
    saved_tensors = {name: tensor for name, tensor in state.items() if name not in tied or name in untied}
    shards = split_torch_state_dict_into_shards(saved_tensors, max_shard_size=SHARD_BYTES)
    tensor_files = _find_tensor_files(base, [tied.get(name, name) for name in saved_tensors])
    if tensor_files is None:
        source, rounded = _load_all_tensors(base, method, transposed), {}
    for file, names in shards.filename_to_tensors.items():
        with _open_tensor_files(Path(base), tensor_files) if tensor_files else _open_loaded_tensors(source) as read:
            tensors = {}
            for name in names:
                weight = read(tied.get(name, name)).to(torch.bfloat16)
                if name in rounded:
                    turned = weight.T if name in transposed else weight
                    turned = _round_to_nf4(turned, rounded[name])
                    weight = turned.T if name in transposed else turned
                layer = layers.get(name.removesuffix(".weight"))
                tensors[name] = (_merge_layer(layer, weight) if layer else weight).contiguous()
            save_file(tensors, out / file, metadata={"format": "pt"})
    if shards.is_sharded:
        index = {"metadata": shards.metadata, "weight_map": shards.tensor_to_filename}
        (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    _save_settings(base, model, bool(untied), out)


def _find_quantised_weights(config: Any) -> dict[str, Params4bit]:
    """Return the weights that transformers stores in NF4, by name, without their values."""
    model = build_on_meta_device(config)
    AutoHfQuantizer.from_config(make_nf4_config(), pre_quantized=False).preprocess_model(
        model=model, dtype=torch.bfloat16, device_map={"": "cpu"}
    )
    return {name: p for name, p in model.named_parameters() if isinstance(p, Params4bit)}


def _load_adapter_layers(model: Model, adapter: Path) -> dict[str, LoraLayer]:
    """Return the layers with an adapter by name. The adapter's weights are loaded, those of the base are not.

    peft itself would move the adapter to the meta device, where the base is, and so lose its weights.
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
    weights = {named[key]: value.float() for key, value in stored.items() if key in named}
    adapted.load_state_dict(weights, strict=False, assign=True)
    modules = adapted.base_model.model.named_modules()
    layers = {name: layer for name, layer in modules if isinstance(layer, LoraLayer)}
    check_mergeable(layers)
    return layers


def _find_tensor_files(base: str, names: list[str]) -> dict[str, str] | None:
    """Return name of each tensor → its file; None if the files lack some of these names."""
    index, single = Path(base) / "model.safetensors.index.json", Path(base) / "model.safetensors"
    tensor_files: dict[str, str] = {}
    if index.is_file():
        tensor_files = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    elif single.is_file():
        with safe_open(single, framework="pt") as file:
            tensor_files = dict.fromkeys(file.keys(), single.name)
    # Names such as `weight.absmax`: the files have 4 bits already.
    quantised = any(".weight." in name for name in tensor_files)
    return None if quantised or not set(names) <= set(tensor_files) else tensor_files


@contextmanager
def _open_tensor_files(base: Path, tensor_files: Mapping[str, str]) -> Iterator[ReadTensor]:
    with ExitStack() as stack:
        files: dict[str, Any] = {}

        def read(name: str) -> torch.Tensor:
            file = tensor_files[name]
            if file not in files:
                files[file] = stack.enter_context(safe_open(base / file, framework="pt"))
            tensor: torch.Tensor = files[file].get_tensor(name)
            return tensor

        yield read


def _load_all_tensors(base: str, method: str, transposed: Collection[str]) -> dict[str, torch.Tensor]:
    """Load all tensors of a base whose files have other names than its modules. Round them to NF4 for `qlora`.

    NF4 makes a linear layer of a `Conv1D`, with a transposed weight. `transposed` names these weights.
    """
    if method != "qlora":
        return dict(load_model(base).state_dict())
    state = load_model(base, make_nf4_config()).dequantize().state_dict()
    return {name: tensor.T if name in transposed else tensor for name, tensor in state.items()}


@contextmanager
def _open_loaded_tensors(tensors: Mapping[str, torch.Tensor]) -> Iterator[ReadTensor]:
    yield lambda name: tensors[name].cpu()


def _round_to_nf4(weight: torch.Tensor, like: Params4bit) -> torch.Tensor:
    """Round a weight as NF4 does, on the device of the training."""
    packed: Any = Params4bit(weight.to(get_device()), requires_grad=False, **like.__dict__)
    packed = packed.to(get_device())  # this packs it
    rounded: torch.Tensor = dequantize_4bit(packed.data, packed.quant_state)
    return rounded.to(torch.bfloat16).cpu()


def _merge_layer(layer: Any, weight: torch.Tensor) -> torch.Tensor:
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
