"""The key-value cache of the tokens that a model has already processed.

Shapes: B batch, N heads, S cache slots, H head width, T new positions, L layers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xlm.errors import InputError
from xlm.model.config import XLMConfig, check_config


class XLMCache:
    """Preallocated keys and values that ``forward`` reads and extends.

    Each row has its own length, so rows of different lengths can share one cache. If a row has ``n`` real tokens among
    the ``T`` positions of a forward pass, the pass extends that row by ``n``. Slots beyond a row's length are never
    attended to.

    Args:
        config: Configuration of the model.
        batch_size: Number of rows B.
        capacity: Number of slots S in each row, one for each token; ``None`` means the model's longest input.
        dtype: Type of keys and values; use the model's type.
        device: Device of keys and values; use the model's device.

    Attributes:
        keys: (L, B, N, S, H).
        values: (L, B, N, S, H).
        lengths: (B,) int64 number of tokens in each row.

    Raises:
        InputError: ``batch_size`` or ``capacity`` is out of range, or the cache cannot be allocated.
    """

    def __init__(
        self,
        config: XLMConfig,
        batch_size: int,
        *,
        capacity: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        check_config(config, where="XLMCache")
        capacity = config.max_position_embeddings if capacity is None else capacity
        sizes_are_ints = all(isinstance(size, int) and not isinstance(size, bool) for size in (batch_size, capacity))
        if not sizes_are_ints or batch_size < 1 or not 1 <= capacity <= config.max_position_embeddings:
            raise InputError(
                "invalid cache size",
                where="XLMCache",
                found=f"batch_size = {batch_size!r}, capacity = {capacity!r}",
                expected=f"batch_size of at least 1, capacity from 1 to {config.max_position_embeddings} tokens",
            )
        shape = (config.n_layers, batch_size, config.n_heads, capacity, config.head_dim)
        try:
            # Fill with zeros: a masked slot enters the weighted sum with weight 0, and 0 * NaN would be NaN.
            self.keys = torch.zeros(shape, dtype=dtype, device=device)
            self.values = torch.zeros(shape, dtype=dtype, device=device)
            self.lengths = torch.zeros(batch_size, dtype=torch.int64, device=device)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, ValueError) as error:
            raise InputError(
                "the cache cannot be allocated",
                where="XLMCache",
                found=str(error).partition("\n")[0],
                expected=f"memory for keys and values of shape {' x '.join(map(str, shape))} and type {dtype}",
            ) from error
        # The common length of all rows, or None if the lengths differ. With a common length, writes are slices, which
        # do not wait for a GPU.
        self.uniform_length: int | None = 0
        # An upper bound on the length of the longest row, exact if no forward pass had padding or right after
        # ``measure``. Computing the exact length each time would mean waiting for the device.
        self.longest = 0
        self._fixed = False

    @property
    def batch_size(self) -> int:
        """Number of rows B."""
        return self.keys.shape[1]

    @property
    def capacity(self) -> int:
        """Number of slots S in each row; a slot holds one token."""
        return self.keys.shape[3]

    def fix_shapes(self) -> None:
        """From now on, attend to all slots under a mask, so that shapes do not depend on the lengths of the rows."""
        self._fixed = True
        self.uniform_length = None

    def slots(self, new: int) -> int:
        """Return the number of slots S' that a forward pass over ``new`` more tokens per row attends to."""
        return self.capacity if self._fixed else min(self.longest + new, self.capacity)

    def write(self, layer: int, key_BNTH: Tensor, value_BNTH: Tensor) -> tuple[Tensor, Tensor]:
        """Append new keys and values to each row, and return all keys and values in use.

        Args:
            layer: Index of the layer.
            key_BNTH: New keys.
            value_BNTH: New values.

        Returns:
            All keys and values in use after the write, each (B, N, S', H), converted to the type of the new ones.
        """
        new = key_BNTH.shape[2]
        end = self.slots(new)
        keys_BNSH, values_BNSH = self.keys[layer], self.values[layer]
        if self.uniform_length is not None:
            keys_BNSH[:, :, self.uniform_length : end] = key_BNTH
            values_BNSH[:, :, self.uniform_length : end] = value_BNTH
        else:
            rows_B = torch.arange(len(self.lengths), device=self.lengths.device)
            slots_BT = self.lengths[:, None] + torch.arange(new, device=self.lengths.device)
            # Assignment through index tensors does not convert types, unlike assignment to a slice. Under autocast, the
            # new keys and values have a lower-precision type than the cache.
            keys_BNSH[rows_B[:, None], :, slots_BT] = key_BNTH.transpose(1, 2).to(keys_BNSH.dtype)
            values_BNSH[rows_B[:, None], :, slots_BT] = value_BNTH.transpose(1, 2).to(values_BNSH.dtype)
        return keys_BNSH[:, :, :end].type_as(key_BNTH), values_BNSH[:, :, :end].type_as(value_BNTH)

    def advance(self, positions: int, counts_B: Tensor | None) -> None:
        """Extend the lengths of the rows, after every layer has written its keys and values.

        Args:
            positions: Number of positions T written to every row.
            counts_B: (B,) int64 number of real positions in each row; ``None`` means T.
        """
        if counts_B is None:
            self.lengths += positions
            if self.uniform_length is not None:
                self.uniform_length += positions
        else:
            self.lengths += counts_B
            self.uniform_length = None
        self.longest = min(self.longest + positions, self.capacity)

    def put_rows(self, rows_R: Tensor, part: XLMCache) -> None:
        """Copy row i of another cache to row ``rows_R[i]`` of this cache.

        Args:
            rows_R: (R,) int64 rows of this cache, without duplicates.
            part: A cache of R rows of the same model; its capacity is not larger.
        """
        self.keys[:, rows_R, :, : part.capacity] = part.keys
        self.values[:, rows_R, :, : part.capacity] = part.values
        self.lengths[rows_R] = part.lengths
        self.measure()

    def select_rows(self, rows_R: Tensor, *, shared: int = 0) -> None:
        """Put the present row ``rows_R[i]`` in the place of row i; rows may be omitted or repeated.

        Args:
            rows_R: (R,) int64 current rows of the cache.
            shared: Number of leading slots that rows i and ``rows_R[i]`` have in common. If above 0, both rows must
                have the same length, and R must be the batch size. Only the slots after the shared ones are copied.
        """
        if shared > 0:
            moved_M = (rows_R != torch.arange(len(rows_R), device=rows_R.device)).nonzero()[:, 0]
            # On a CPU, this takes an eighth of the time of selecting from all layers at once.
            for layer_BNSH in (*self.keys, *self.values):
                changing = layer_BNSH[:, :, shared : self.longest]
                changing.index_copy_(0, moved_M, changing.index_select(0, rows_R[moved_M]))
            return
        self.keys, self.values = self.keys.index_select(1, rows_R), self.values.index_select(1, rows_R)
        self.lengths = self.lengths[rows_R]
        if self.uniform_length is None:
            self.measure()

    def measure(self) -> None:
        """Update ``longest`` and ``uniform_length`` from the lengths of the rows; this waits for the device."""
        shortest, self.longest = torch.stack(torch.aminmax(self.lengths)).tolist()
        self.uniform_length = self.longest if shortest == self.longest and not self._fixed else None
