"""Which tokens of which requests one forward pass takes, and which of them attend together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

_SPARE = 65_536  #: keys, of one head, that are read for nothing rather than starting another attention kernel


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens that follow each other in one request: a part of its prompt, or the token said last."""

    slot: int
    start: int  #: position of the first
    count: int

    @property
    def end(self) -> int:
        """How many keys the last of the tokens sees."""
        return self.start + self.count


@dataclass(slots=True)
class Run:
    """Pieces of one token each, in slots near each other, which attend in one go."""

    pieces: list[Piece]  #: by slot
    device: torch.device
    _masks: dict[int, torch.Tensor] = field(init=False, default_factory=dict)
    _places: torch.Tensor | None = field(init=False, default=None)

    @property
    def first(self) -> int:
        """The lowest slot."""
        return self.pieces[0].slot

    @property
    def height(self) -> int:
        """Slots from the lowest to the highest, those between that take no part included."""
        return self.pieces[-1].slot - self.pieces[0].slot + 1

    @property
    def longest(self) -> int:
        """Most keys that one of the tokens sees."""
        return max(piece.end for piece in self.pieces)

    @property
    def places(self) -> torch.Tensor | None:
        """(tokens,): where among the slots from `first` each token's is; None if there is none between them."""
        if self._places is None and self.height > len(self.pieces):
            self._places = torch.tensor([piece.slot - self.first for piece in self.pieces], device=self.device)
        return self._places

    def takes(self, piece: Piece) -> bool:
        """Whether this piece, of a higher slot, had better attend with these than alone."""
        area = (piece.slot - self.first + 1) * max(self.longest, piece.end)
        return area - self.height * self.longest - piece.end <= _SPARE

    def mask(self, window: int) -> torch.Tensor | None:
        """(height, 1, 1, longest): the keys that each token sees; None if all see the same.

        Args:
            window: how far back a token sees; 0: to the first.
        """
        if all(piece.end == self.longest for piece in self.pieces):
            return None
        if window not in self._masks:
            lengths = torch.ones(self.height, 1, dtype=torch.long)
            for piece in self.pieces:
                lengths[piece.slot - self.first] = piece.end
            keys = torch.arange(self.longest)
            seen = (keys < lengths) & (keys >= lengths - (window or self.longest))
            self._masks[window] = seen[:, None, None].to(self.device)
        return self._masks[window]


class Step:
    """Where the tokens of one forward pass belong.

    Args:
        pieces: in the order of the tokens: those of one token first, by slot.
        window: places of each slot.
        device: where the model is.
    """

    def __init__(self, pieces: Sequence[Piece], window: int, device: torch.device) -> None:
        self._turn: tuple[torch.Tensor, torch.Tensor] | None = None
        positions = [n for piece in pieces for n in range(piece.start, piece.end)]
        places = [piece.slot * window + n for piece in pieces for n in range(piece.start, piece.end)]
        self.places = torch.tensor(places, device=device)  #: (tokens,): among those of all slots
        self.positions = torch.tensor(positions, device=device)  #: (tokens,)
        self.longer = [piece for piece in pieces if piece.count > 1]
        ones = list(pieces[: len(pieces) - len(self.longer)])
        #: Pieces of one token that attend each for itself. On a CPU all of them: its kernel rounds by how many keys it
        #: is given, and an answer must be that of the model alone, whoever else is in the batch.
        self.alone = ones if device.type == "cpu" else []
        self.runs: list[Run] = []  #: the others
        for piece in ones[len(self.alone) :]:
            if self.runs and self.runs[-1].takes(piece):
                self.runs[-1].pieces.append(piece)
            else:
                self.runs.append(Run([piece], device))

    def turn(self, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What tokens' heads, and their halves swapped, are multiplied with to be rotated; each (tokens, 1, width).

        Args:
            cos: (1, tokens, width), the same in all layers.
            sin: see cos.
        """
        if self._turn is None:
            left, right = sin[0].chunk(2, -1)
            self._turn = cos[0][:, None], torch.cat((-left, right), -1)[:, None]
        return self._turn
