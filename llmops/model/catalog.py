"""The catalogue of base models: data in `catalog.yaml`, and what follows from it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict

GIB = 2**30


class Entry(BaseModel):
    """One base model; see `catalog.yaml` for units."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    licence: str
    parameters: float
    embedding: float
    context: int
    languages: tuple[str, ...]
    gated: bool
    revision: str = "main"
    package: str = ""
    file: str = ""

    @property
    def training_gib(self) -> float:
        """Memory for 4-bit training, GiB: NF4 weights with double quantisation (4.127 bits, QLoRA section 3), embedding
        and output in bfloat16, and 1 GiB plus 0.25 GiB per billion for adapters, optimiser and activations."""
        weights = (self.parameters - self.embedding) * 4.127 / 8 + self.embedding * 2
        return weights * 1e9 / GIB + 1 + 0.25 * self.parameters

    def packaged(self) -> Path | None:
        """The GGUF file of the package that carries this model, if it is installed (nothing is imported)."""
        spec = importlib.util.find_spec(self.package) if self.package else None
        if spec is None or not spec.submodule_search_locations:
            return None
        path = Path(spec.submodule_search_locations[0]) / self.file
        return path if path.is_file() else None


def catalogue() -> list[Entry]:
    """All rows, in file order."""
    rows = yaml.safe_load(Path(__file__).with_name("catalog.yaml").read_text(encoding="utf-8"))
    return [Entry(**row) for row in rows]
