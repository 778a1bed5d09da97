"""Heads, which map hidden states to scores of the next word, and log-probabilities computed block by block.

Shapes: B batch, T positions of a row, N positions (of one or more rows), D model width, V vocabulary, K most likely
words. A block of scores has R positions and S words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

from xlm.errors import ConfigError, InputError
from xlm.model.attention import at_least_float32
from xlm.model.config import XLMConfig
from xlm.model.linear import linear
from xlm.model.transformer import Transformer

IGNORED_LABEL = -100
"""Label of a position that the loss ignores, as in torch and ``transformers``."""

_WIDE_BLOCK_ELEMENTS = 6_000_000
"""Number of scores in a block that spans the whole vocabulary: 24 MB in float32. A block then has tens of rows, so that
reading the weights takes little time compared with the multiplication."""

_NARROW_BLOCK_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 26}
"""Number of scores in a block that spans part of the vocabulary, by device type. On a CPU, such a block has 4 MB, which
stay in the processor's cache between the matrix product and the sum over the scores."""

_PACKED_BLOCK_ELEMENTS = 1 << 20
"""Number of scores in a block that spans one piece of packed weights: 4 MB. Blocks of 16 MB are not faster, and take as
much more memory."""

_NARROW_BLOCK_ROWS = 1024
"""Maximum number of positions in a block that spans part of the vocabulary. They share one read of the weights."""

_BELOW_ALL = -1e30
"""Start value for a running maximum: below any score, and finite, because differences of infinities are NaN."""


class LogitBlock(NamedTuple):
    """Scores of some positions for some words.

    Attributes:
        rows: Slice of the positions.
        first: Id of the first word.
        logits: (R, S) scores of the words ``first`` to ``first + S - 1``, in float32 or wider. The receiver may
            overwrite this tensor, and so may the head when it computes the next block.
    """

    rows: slice
    first: int
    logits: Tensor


class LinearHead(nn.Module):
    """One score per word: ``hidden @ projection.T + bias``.

    Attributes:
        bias: (V,), one number per word.
        weight: (V, D), or ``None`` if the head is tied to the word embeddings.

    Args:
        config: The architecture.

    Source: the original's ``PredLayer``.
    """

    def __init__(self, config: XLMConfig) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.empty(config.vocab_size))
        self.weight = None if config.tied else nn.Parameter(torch.empty(config.vocab_size, config.emb_dim))
        self._bound = config.emb_dim**-0.5

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw a new bias, and a new weight if the head has its own."""
        nn.init.uniform_(self.bias, -self._bound, self._bound)
        if self.weight is not None:
            nn.init.uniform_(self.weight, -self._bound, self._bound)

    def tie_to(self, transformer: Transformer) -> None:
        """Use the word embeddings of a transformer if the head has no weight of its own.

        Args:
            transformer: The transformer. The head looks up its word embeddings at each call, so they may later be
                moved, enlarged or replaced.
        """
        # Bypass the ``__setattr__`` of nn.Module, which would register the transformer's weights as weights of the
        # head.
        self.__dict__["_transformer"] = transformer

    @property
    def projection(self) -> Tensor:
        """The (V, D) weight of the head: its own, or the word embeddings.

        Raises:
            ConfigError: The head is tied, but is not part of a model.
        """
        if self.weight is not None:
            return self.weight
        if "_transformer" not in self.__dict__:
            raise ConfigError(
                "a tied head is used without a model",
                where="LinearHead",
                remedy="assign it to model.head, or use a configuration with share_inout_emb=False",
            )
        transformer: Transformer = self.__dict__["_transformer"]
        return transformer.embeddings.word.weight

    def forward(self, hidden: Tensor) -> Tensor:
        """Return unnormalised scores (…, V) for hidden states (…, D).

        Raises:
            InputError: The weight is on the meta device, and the hidden states are not.
        """
        return linear(hidden, self._present_projection(hidden), self.bias)

    def _present_projection(self, hidden: Tensor) -> Tensor:
        weight = self.projection
        # Torch would compute with whatever is in memory. Libraries that move weights to the meta device between uses
        # bring back those of the module that is called, and the weight of a tied head is that of another module.
        if weight.is_meta and not hidden.is_meta:
            raise InputError(
                "the weight of the head is not in memory",
                where="model.head, whose weight is that of model.transformer.embeddings.word",
                found="a weight on the meta device",
                expected=f"a weight on {hidden.device}",
                remedy="load the weights; with accelerate, offload only model.transformer.layers",
            )
        return weight

    if TYPE_CHECKING:

        def __call__(self, hidden: Tensor) -> Tensor:
            """Call ``forward`` and the hooks of the module."""

    def logit_blocks(self, hidden_ND: Tensor, *, elements: int | None = None) -> Iterator[LogitBlock]:
        """Yield the scores in blocks of positions. Each block has the scores of all words.

        Scores are in float32 even if the weights are in half precision. Rounded to half precision, many words would
        have the same score, and therefore the same rank.

        Args:
            hidden_ND: (N, D) hidden states.
            elements: Maximum number of scores in a block; ``None`` means the fastest size.
        """
        weight_VD = self._present_projection(hidden_ND)
        N, V = len(hidden_ND), len(weight_VD)
        elements = elements or _NARROW_BLOCK_ELEMENTS.get(hidden_ND.device.type, _WIDE_BLOCK_ELEMENTS)
        R = min(N, _NARROW_BLOCK_ROWS, elements)
        S = min(V, _tiled(elements // max(R, 1)))
        wide = torch.promote_types(hidden_ND.dtype, torch.float32)
        on_cpu = hidden_ND.device.type == "cpu"
        buffer = hidden_ND.new_empty(0 if on_cpu else R * S, dtype=wide)
        for start in range(0, N, R or 1):
            rows = slice(start, min(start + R, N))
            hidden_RD = hidden_ND[rows]
            for first in range(0, V, S):
                words = slice(first, min(first + S, V))
                weight_SD, bias_S = weight_VD[words], self.bias[words]
                if on_cpu:
                    logits_RS = linear(hidden_RD.to(wide), weight_SD.to(wide), bias_S.to(wide))
                else:
                    shape = (len(hidden_RD), len(weight_SD))
                    logits_RS = buffer[: shape[0] * shape[1]].view(shape)
                    _write_logits(hidden_RD, weight_SD, bias_S, logits_RS)
                yield LogitBlock(rows, first, logits_RS)


class AdaptiveHead(nn.Module):
    """Adaptive softmax: a full-width part scores frequent words, and narrower clusters score the others. Never tied.

    Source: Grave et al. 2017 through ``torch.nn.AdaptiveLogSoftmaxWithLoss``, as in the original's ``PredLayer``.
    """

    def __init__(self, config: XLMConfig) -> None:
        super().__init__()
        self.adaptive = nn.AdaptiveLogSoftmaxWithLoss(
            config.emb_dim, config.vocab_size, list(config.asm_cutoffs), config.asm_div_value, head_bias=True
        )

    def reset_parameters(self) -> None:
        """Draw new weights."""
        self.adaptive.reset_parameters()

    def forward(self, hidden: Tensor) -> Tensor:
        """Return log-probabilities, (…, V), of hidden states (…, D). This head has no unnormalised scores."""
        logits: Tensor = self.adaptive.log_prob(hidden.reshape(-1, hidden.shape[-1]))
        return logits.view(*hidden.shape[:-1], self.adaptive.n_classes)

    if TYPE_CHECKING:

        def __call__(self, hidden: Tensor) -> Tensor:
            """Call ``forward`` and the hooks of the module."""


def logit_blocks(
    head: nn.Module, hidden_ND: Tensor, *, vocab_size: int, elements: int | None = None
) -> Iterator[LogitBlock]:
    """Yield the scores of any head in blocks.

    For most heads, a block has the scores of all words at some of the positions.

    Args:
        head: Maps hidden states (…, D) to one score per word.
        hidden_ND: (N, D) hidden states.
        vocab_size: V.
        elements: Maximum number of scores in a block; ``None`` means the fastest size.

    Raises:
        InputError: The head does not return one score per word.
    """
    if _has_blocks(head):
        yield from head.logit_blocks(hidden_ND, elements=elements)
        return
    for rows in row_blocks(len(hidden_ND), vocab_size, elements):
        logits_RV = head(hidden_ND[rows])
        check_word_scores(logits_RV, vocab_size)
        logits_RV = at_least_float32(logits_RV)
        # Copy the scores: the receiver may overwrite a block, and a custom head may return its own input or weights.
        yield LogitBlock(rows, 0, logits_RV if isinstance(head, AdaptiveHead) else logits_RV.clone())


def row_blocks(count: int, width: int, elements: int | None, *, whole: bool = True) -> Iterator[slice]:
    """Divide positions into blocks, for a head that computes a fixed number of scores per position.

    Args:
        count: Number of positions.
        width: Number of scores per position.
        elements: Maximum number of scores in a block; ``None`` means the fastest size.
        whole: Whether ``width`` is the whole vocabulary, not a piece of packed weights.
    """
    elements = elements or (_WIDE_BLOCK_ELEMENTS if whole else _PACKED_BLOCK_ELEMENTS)
    rows = min(count, _tiled(elements // width))
    for start in range(0, count, rows or 1):
        yield slice(start, min(start + rows, count))


def check_word_scores(scores: object, vocab_size: int) -> None:
    """Raise ``InputError`` unless a head returned one score for each word of the vocabulary."""
    width = scores.shape[-1] if isinstance(scores, Tensor) and scores.dim() else type(scores).__name__
    if width != vocab_size:
        raise InputError(
            "the model's head does not score the words of its vocabulary",
            where="model.head",
            found=f"{width} scores per position" if isinstance(width, int) else width,
            expected=f"{vocab_size} scores per position, one for each word",
            remedy="call forward, which accepts any head; scoring and generation need one score per word",
        )


def target_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the log-probability of one word per position.

    Args:
        logits: (…, V) scores or log-probabilities.
        targets: (…) int64 ids from 0 to V - 1.

    Returns:
        (…) nats, in float32 or wider.
    """
    # In float32 over 64,699 words on the CPU, the errors of log_softmax and cross_entropy reach 6e-5 nats (torch 2.13),
    # 20 times the error of the rest of the model. The error of logsumexp stays far smaller.
    logits = at_least_float32(logits)
    return logits.gather(-1, targets[..., None])[..., 0] - logits.logsumexp(-1)


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetScores:
    """Scores of the target words.

    Attributes:
        logprobs: (N,) nats, in float32 or wider.
        ranks: (N,) int64, if requested: 1 for the most likely word; words of equal score share the best rank.
        entropies: (N,) nats, if requested: entropy of the whole prediction, from 0 to log V.
        top_ids: (N, K) int64, if requested: the K most likely words, best first; equal scores in any order.
        top_logprobs: (N, K) nats: log-probabilities of ``top_ids``.
    """

    logprobs: Tensor
    ranks: Tensor | None = None
    entropies: Tensor | None = None
    top_ids: Tensor | None = None
    top_logprobs: Tensor | None = None


def chunked_logprobs(
    head: nn.Module,
    hidden_ND: Tensor,
    targets_N: Tensor,
    *,
    vocab_size: int,
    ranks: bool = False,
    entropies: bool = False,
    top: int = 0,
    block_elements: int | None = None,
) -> TargetScores:
    """Score the target words, without holding the scores of all positions and words in memory at once.

    There are no gradients, since each block is overwritten. Torch's fused ``linear_cross_entropy`` (from 2.13) has
    three times the error of this function over 64,699 words, and returns neither ranks nor entropies.

    Args:
        head: Maps hidden states (…, D) to one score per word.
        hidden_ND: (N, D) output of the last layer at the positions before the targets; N may be 0.
        targets_N: (N,) int64 ids from 0 to V - 1.
        vocab_size: V.
        ranks: Whether to compute ranks. For ranks, all scores are computed a second time.
        entropies: Whether to compute entropies. Entropies need memory for a second block.
        top: Number K of most likely words to return; at most V.
        block_elements: Maximum number of scores in memory; ``None`` means the fastest size.

    Raises:
        InputError: The head does not return one score per word.
    """
    N, device = len(targets_N), hidden_ND.device
    wide = torch.promote_types(hidden_ND.dtype, torch.float32)
    target_N = torch.empty(N, dtype=wide, device=device)
    # Running values of each row over the blocks so far: the highest score h, the sum of exp(score - h), and the sum of
    # (score - h) * exp(score - h). They give logsumexp block by block, as accurately as in one pass (see
    # target_logprobs).
    highest_N = torch.full((N,), _BELOW_ALL, dtype=wide, device=device)
    sum_N = torch.zeros(N, dtype=wide, device=device)
    weighted_N = torch.zeros(N, dtype=wide, device=device) if entropies else None
    K = min(top, vocab_size)
    top_NK = torch.full((N, K), _BELOW_ALL, dtype=wide, device=device)
    top_ids_NK = torch.zeros(N, K, dtype=torch.int64, device=device)
    for rows, first, logits_RS in logit_blocks(head, hidden_ND, vocab_size=vocab_size, elements=block_elements):
        if K:
            best = logits_RS.topk(min(K, logits_RS.shape[1]))
            top_NK[rows], chosen_RK = torch.cat([top_NK[rows], best.values], 1).topk(K)
            top_ids_NK[rows] = torch.cat([top_ids_NK[rows], best.indices + first], 1).gather(1, chosen_RK)
        inside_R, of_target_R = at_targets(logits_RS, targets_N[rows] - first)
        target_N[rows] = torch.where(inside_R, of_target_R, target_N[rows])
        highest_R = torch.maximum(highest_N[rows], logits_RS.amax(1))
        step_R = highest_N[rows] - highest_R
        highest_N[rows] = highest_R
        logits_RS.sub_(highest_R[:, None])
        if weighted_N is None:
            sum_N[rows] = sum_N[rows] * step_R.exp() + logits_RS.exp_().sum(1)
            continue
        weights_RS = logits_RS.exp()
        weighted_N[rows] = (weighted_N[rows] + step_R * sum_N[rows]) * step_R.exp()
        sum_N[rows] = sum_N[rows] * step_R.exp() + weights_RS.sum(1)
        weighted_N[rows] += weights_RS.mul_(logits_RS).sum(1)
    ranks_N = None
    if ranks:
        ranks_N = torch.ones(N, dtype=torch.int64, device=device)
        for rows, first, logits_RS in logit_blocks(head, hidden_ND, vocab_size=vocab_size, elements=block_elements):
            above_RS = logits_RS > target_N[rows, None]
            # The second computation of the target's score may differ in the last digits. The target must not count as
            # ranking above itself.
            inside_R, itself_R = at_targets(above_RS, targets_N[rows] - first)
            ranks_N[rows] += above_RS.sum(1) - (inside_R & itself_R).long()
    return TargetScores(
        logprobs=(target_N - highest_N) - sum_N.log(),
        ranks=ranks_N,
        entropies=None if weighted_N is None else sum_N.log() - weighted_N / sum_N,
        top_ids=top_ids_NK if top else None,
        top_logprobs=(top_NK - highest_N[:, None]) - sum_N.log()[:, None] if top else None,
    )


def at_targets(block_RS: Tensor, columns_R: Tensor) -> tuple[Tensor, Tensor]:
    """Return whether each row's target is in the block, and the block's value for it (arbitrary if it is not)."""
    S = block_RS.shape[1]
    return (columns_R >= 0) & (columns_R < S), block_RS.gather(1, columns_R.clamp(0, S - 1)[:, None])[:, 0]


def _has_blocks(head: nn.Module) -> TypeGuard[LinearHead]:
    """Return whether ``head.logit_blocks`` gives the scores that the head returns, unchanged by hooks or overrides."""
    if not isinstance(head, LinearHead) or has_hooks(head):
        return False
    owners = [next(c for c in type(head).__mro__ if name in vars(c)) for name in ("forward", "logit_blocks")]
    return owners[0] is owners[1]


def has_hooks(module: nn.Module) -> bool:
    """Return whether a module has forward hooks, or a ``forward`` of its own."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def _tiled(count: int) -> int:
    """Return the largest multiple of 16 up to ``count``, because kernels work in tiles; if below 16, at least 1."""
    return max(1, count - count % 16 or count)


def _write_logits(hidden_RD: Tensor, weight_SD: Tensor, bias_S: Tensor, out_RS: Tensor) -> None:
    """Write ``hidden @ weight.T + bias`` to ``out_RS``, which is float32 if the inputs are in half precision."""
    if hidden_RD.dtype == out_RS.dtype:
        torch.addmm(bias_S, hidden_RD, weight_SD.T, out=out_RS)
    elif hasattr(torch.ops.aten.mm, "dtype_out"):  # torch 2.8 and newer
        torch.ops.aten.mm.dtype_out(hidden_RD, weight_SD.T, out_RS.dtype, out=out_RS)
        out_RS += bias_S
    else:
        out_RS.copy_(torch.addmm(bias_S, hidden_RD, weight_SD.T))
