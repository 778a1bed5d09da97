"""Outputs as pytrees of torch and as containers.

Oracle: ``ModelOutput`` of the installed transformers with the same fields; gradients by ``backward``.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

from tests.model.small_models import random_ids, requested, small_model
from xlm import XLMEncoderDecoderModel, XLMModel, XLMOutput
from xlm.model.transformer import TransformerInputs

IDS = random_ids(2, 5)


def _outputs() -> dict[str, Any]:
    model = small_model()
    body, translator = XLMModel(model.config).eval(), XLMEncoderDecoderModel(model.config).eval()
    return {
        "language model": model(IDS, langs="en", labels=IDS, output_attentions=True),
        "loss alone": model(IDS, langs="en", labels=IDS, return_logits=False),
        "network": body(IDS, langs="en", output_hidden_states=True),
        "translation": translator(IDS, IDS, langs="en", decoder_langs="de", output_attentions=True),
        "transformer": model.transformer(TransformerInputs(input_ids=IDS, position_ids=torch.arange(5)[None])),
    }


@pytest.mark.parametrize("name", ["language model", "loss alone", "network", "translation", "transformer"])
@torch.no_grad()
def test_the_leaves_are_the_tensors_that_are_there(name: str) -> None:
    output = _outputs()[name]
    leaves, structure = pytree.tree_flatten(output)
    assert all(isinstance(leaf, torch.Tensor) for leaf in leaves)
    doubled = pytree.tree_map(lambda tensor: tensor * 2, output)
    assert type(doubled) is type(output)
    assert len(pytree.tree_leaves(doubled)) == len(leaves)
    for one, other in zip(leaves, pytree.tree_leaves(doubled), strict=True):
        assert torch.equal(one * 2, other)
    assert pytree.treespec_loads(pytree.treespec_dumps(structure)) == structure


@torch.no_grad()
def test_as_in_transformers() -> None:
    generic = pytest.importorskip("transformers.modeling_outputs")
    ours = _outputs()["language model"]
    theirs = generic.MaskedLMOutput(loss=ours.loss, logits=ours.logits, attentions=ours.attentions)
    assert len(ours) == len(theirs) == 3
    assert list(ours.keys()) == list(theirs.keys())
    assert ours.to_tuple() == theirs.to_tuple() == tuple(ours)
    assert all(ours[i] is theirs[i] for i in range(3))
    assert all(ours[name] is theirs[name] for name in ours.keys())  # noqa: SIM118
    assert len(pytree.tree_leaves(ours)) == len(pytree.tree_leaves(theirs)) == 4
    paths = [pytree.keystr(path) for path, _ in pytree.tree_flatten_with_path(ours)[0]]
    assert paths == [".loss", ".logits", ".attentions[0]", ".attentions[1]"]


def test_functional_call_and_gradients_of_one_row_at_a_time() -> None:
    """``vmap`` takes a model's output only if it is a pytree of tensors."""
    model = small_model(attn_implementation="eager")
    model.check_inputs = False
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    langs = torch.ones(1, 5, dtype=torch.int64)

    def output(weights: dict[str, torch.Tensor], ids_T: torch.Tensor) -> XLMOutput:
        result = torch.func.functional_call(
            model, weights, (ids_T[None],), {"langs": langs, "labels": ids_T[None], "lengths": torch.tensor([5])}
        )
        assert isinstance(result, XLMOutput)
        return result

    batched = torch.func.vmap(output, in_dims=(None, 0))(parameters, IDS)
    expected = model(IDS, langs="en", labels=IDS)
    torch.testing.assert_close(batched.logits[:, 0], expected.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(requested(batched.loss).mean(), requested(expected.loss))
