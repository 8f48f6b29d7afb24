"""The catalogue of base models: the rows of `catalog.yaml`, and the memory that each model takes.

To add a model, add a row to `catalog.yaml`; its head says where each value stands. To try a model that has none, name
its folder in `select.model`.
"""

import importlib.util
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field

from llmops.frame.machine import GIB

SERVING_CACHE_TOKENS = 16 * 1024  #: tokens in the caches that `serving_gib` counts: 16 requests of 1,024

_NF4_BITS = 4.127  #: per weight with double quantisation (QLoRA, arXiv:2305.14314, section 3)


class CatalogueEntry(BaseModel):
    """One base model; see `catalog.yaml` for units."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    revision: str = Field("", pattern=r"^([0-9a-f]{40})?$")
    licence: str
    gated: bool
    languages: tuple[str, ...]
    context: int
    parameters: float
    embedding: float
    layers: int
    kv: int
    package: str = ""
    file: str = ""

    @property
    def weights_gib(self) -> float:
        """Return the memory of the weights in GiB: NF4, embedding and output layer in bfloat16."""
        return ((self.parameters - self.embedding) * _NF4_BITS / 8 + self.embedding * 2) * 1e9 / GIB

    @property
    def training_gib(self) -> float:
        """Return the memory for training in 4 bits, in GiB.

        It is the weights, and 1 GiB plus 0.25 GiB per billion parameters for adapters, optimiser and activations.
        """
        return self.weights_gib + 1 + 0.25 * self.parameters

    @property
    def evaluation_gib(self) -> float:
        """Return the memory of compress and evaluate in GiB: the weights in bfloat16, and 1 GiB for activations."""
        return self.parameters * 2 * 1e9 / GIB + 1

    @property
    def serving_gib(self) -> float:
        """Return the memory for serving, in GiB.

        It is the weights in bfloat16, 0.5 GiB for activations, and the keys and values of 16 requests of 1,024 tokens.
        A compressed form takes less, but maybe none is good enough to be chosen.
        """
        return self.parameters * 2 * 1e9 / GIB + 0.5 + SERVING_CACHE_TOKENS * self.layers * self.kv * 2 * 2 / GIB

    def find_packaged_file(self) -> Path | None:
        """Return the GGUF file of the package that carries this model, if it is installed (nothing is imported)."""
        spec = importlib.util.find_spec(self.package) if self.package else None
        if spec is None or not spec.submodule_search_locations:
            return None
        path = Path(spec.submodule_search_locations[0]) / self.file
        return path if path.is_file() else None


def read_catalogue() -> list[CatalogueEntry]:
    """Return all rows, in file order."""
    rows = yaml.safe_load(Path(__file__).with_name("catalog.yaml").read_text(encoding="utf-8"))
    return [CatalogueEntry(**row) for row in rows]
