"""The language model as users meet it.

Its methods stand in the files beside this one by what they do: ``network.py`` computes scores, ``generation.py``
continues prompts; here are those that give the model another form, on disk or in memory.
"""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

import torch

from xlm.model.generation import GeneratingNetwork
from xlm.model.network import XLMOutput

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["XLMOutput", "XLMWithLMHeadModel"]


class XLMWithLMHeadModel(GeneratingNetwork):
    """An XLM language model.

    ``generate`` and scoring compute with the transformer and ``logits``, not through ``forward``: what is to reach them
    too stands in another ``head`` (any module), in an overridden ``logits``, or in hooks on the parts.

    Attributes:
        config: The architecture; it cannot be changed or replaced.
        check_inputs: Whether to check the *values* of inputs: ids, languages, positions, lengths, masks and labels. To
            look at them waits for a GPU. With ``False``, for loops whose inputs are known to be good, nothing in a
            forward waits, and results are the same up to the order of sums; types and shapes are checked all the same.
            Then nobody looks where padding stands: to say it with ``lengths`` keeps the fastest kernels.

    Args:
        config: The architecture. Weights are drawn as the original draws them: embeddings normal with standard
            deviation ``emb_dim ** -0.5``, linear maps by torch's default.

    Source: paper section 3; the original's ``TransformerModel`` with ``PredLayer``.
    """

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | PathLike[str],
        *,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        causal: bool | None = None,
        dropout: float | None = None,
        attention_dropout: float | None = None,
        revision: str | None = None,
        cache_dir: str | PathLike[str] | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
    ) -> Self:
        """Return a model with the weights of a file, in evaluation mode.

        A subclass gets a model of its own class, made by ``cls(config)``. Weights that it adds are not in the file:
        they begin as its ``__init__`` makes them, which a warning says.

        Args:
            name_or_path: A directory in the ``transformers`` layout, a checkpoint of the original (``.pth``), the name
                of a model that comes with the package (``"xlm-clm-ende-small"``), or an id on the Hugging Face hub,
                perhaps with ``@revision``; looked for in that order.
            dtype: Of the weights; ``None`` means float32 whatever the file holds, ``"auto"`` the file's own.
            device: Where the weights go; the CPU when ``None``.
            causal: Overrides what the file says. ``None``: causal, unless the file is known to have been trained
                otherwise (the published configurations' ``causal: false`` does not count, and a warning says so).
            dropout: Probability of dropping an activation in training, from 0 to below 1; the file's when ``None``.
            attention_dropout: Probability of dropping an attention weight in training; likewise.
            revision: Of a model on the hub: a branch, a tag or a commit; ``main`` when ``None``.
            cache_dir: Where fetched files are kept; where ``HF_HOME`` or ``HF_HUB_CACHE`` say when ``None``.
            local_files_only: Whether to take what the cache holds and ask nobody, as ``HF_HUB_OFFLINE=1`` does.
            token: For a model that is not public; when ``None`` it is ``HF_TOKEN`` or what ``hf auth login`` left.

        Raises:
            CheckpointError: What was found is not such a model; nothing in a file is ever executed.
            HubError: It could not be fetched from the hub; one of the above.
            ConfigError: A type or probability that cannot be, or a subclass whose ``__init__`` asks for more.
            InputError: There is no such device, or a name that is none.
        """
        from xlm.checkpoint.hub import HubOptions
        from xlm.checkpoint.load import load_model

        hub = HubOptions(revision=revision, cache_dir=cache_dir, local_files_only=local_files_only, token=token)
        changes = {"dropout": dropout, "attention_dropout": attention_dropout}
        model = load_model(
            name_or_path,
            kind=cls,
            dtype=dtype,
            device=device,
            causal=causal,
            changes={name: value for name, value in changes.items() if value is not None},
            hub=hub,
        )
        assert isinstance(model, cls)
        return model

    def save_pretrained(self, directory: str | PathLike[str]) -> None:
        """Writes ``config.json`` and ``model.safetensors`` in the ``transformers`` layout.

        Args:
            directory: Made when missing; files of the same names in it are replaced, each at once or not at all.

        Raises:
            WriteError: The files could not be written, or ``from_pretrained`` would refuse them; nothing is written
                then, and the message names every tensor and module at fault.
        """
        from xlm.checkpoint.save import save_model

        save_model(self, directory)

    @property
    def weights(self) -> str:
        """Name of the type that the matrices are kept in: ``"float32"``, or ``"int8"`` after ``for_inference``."""
        return str(self.dtype).removeprefix("torch.")

    def for_inference(self, weights: str | None = None) -> XLMWithLMHeadModel:
        """Return the same model with its matrices laid out for speed; for the CPU, and for nothing but inference.

        Only plain layers can be packed: adapters, hooks, other layers or heads, and classes that override a method are
        refused. Subclasses that only add methods are taken, but what comes back does not have these methods.

        Args:
            weights: Type the matrices are kept in: ``"float32"``, ``"bfloat16"``, ``"float16"`` or ``"int8"``;
                ``None`` means this model's own. ``xlm.model.inference`` says what each costs in accuracy.

        Returns:
            A model that stays on the CPU and in these types, and is not saved. Its word embeddings, and in float32 the
            head's weights, are in the same memory as this one's, all else is copied: later changes to this model do
            not reach it, or in part.

        Raises:
            InputError: An unknown type, weights that are not on the CPU, or layers that are not plain.
        """
        from xlm.model.inference import prepare_for_inference

        return prepare_for_inference(self, weights)
