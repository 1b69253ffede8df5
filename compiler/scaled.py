"""An array times a factor that is not computed before its elements are read.

Weights that a batch normalization scales are as large as the model. As a product of views they are
laid out, packed and cut like an array, and come into being part by part where they are written; as
arrays they would lie in memory twice, and entering that memory costs more than the product.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Scaled:
    """``array * factor``, element by element; both have one shape and dtype."""

    array: npt.NDArray[Any]
    factor: npt.NDArray[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    @property
    def size(self) -> int:
        return self.array.size

    @property
    def nbytes(self) -> int:
        return self.array.nbytes

    def __getitem__(self, places: Any) -> Scaled:
        """The elements at these places."""
        return Scaled(self.array[places], self.factor[places])

    def moved(self, move: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Scaled:
        """With the elements where a function that only moves them puts them."""
        return Scaled(move(self.array), move(self.factor))

    def computed(self) -> npt.NDArray[Any]:
        """The elements in order."""
        with np.errstate(all="ignore"):  # weights may be infinite
            return np.asarray(np.multiply(self.array, self.factor, order="C"))


__all__ = ["Scaled"]
