"""A strictly typed program that uses the library from outside, for type checkers; it is not run."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import assert_type

from xlm import (
    DecodingOptions,
    XLMConfig,
    XLMEncoderDecoderModel,
    XLMEncoderDecoderOutput,
    XLMModel,
    XLMModelOutput,
    XLMOutput,
    XLMWithLMHeadModel,
    linear_cross_entropy,
)
from xlm.model.attention import Attention
from xlm.model.head import LinearHead
from xlm.model.transformer import Layer

config = XLMConfig(vocab_size=61, emb_dim=24, n_layers=2, n_heads=3).replace(attn_implementation="eager")
ids = torch.tensor([[1, 20, 21]])

model = XLMWithLMHeadModel.from_pretrained("xlm-clm-ende-small", attn_implementation="sdpa")
output = assert_type(model(ids, langs="en", labels=ids), XLMOutput)
assert_type(output.loss, Tensor | None)
assert_type(output.logits, Tensor)
assert_type(output.hidden_states, tuple[Tensor, ...] | None)
if output.loss is not None:
    torch.autograd.backward(output.loss)
assert_type(model(inputs_embeds=torch.zeros(1, 3, 24), reduction="none", return_logits=False).loss, Tensor | None)

batch: dict[str, Tensor] = {"input_ids": ids, "labels": ids}
assert_type(model(**batch), XLMOutput)

for layer in model.transformer.layers:
    assert_type(layer, Layer)
assert_type(model.transformer.layers[0].attention, Attention)
assert_type(model.transformer.layers[0].attention.query, nn.Linear)
assert_type(model.transformer.layers[-1].ffn.down.weight, Tensor)
assert_type(model.transformer.embeddings.word.weight, Tensor)
assert_type(model.transformer.layers[:1][0].ffn_norm, nn.LayerNorm)
if isinstance(model.head, LinearHead):
    assert_type(model.head(model.hidden(ids)), Tensor)
    assert_type(linear_cross_entropy(torch.zeros(2, 24), model.head.projection, model.head.bias, ids[0, :2]), Tensor)
assert_type(model.generate(ids, langs="en", options=DecodingOptions(max_new_tokens=3)), Tensor)
assert_type(model.train(), XLMWithLMHeadModel)


class Classifier(nn.Module):
    """The network below a layer of one's own."""

    def __init__(self, config: XLMConfig, labels: int) -> None:
        super().__init__()
        self.body = XLMModel(config)
        self.classify = nn.Linear(config.emb_dim, labels)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the scores of the labels."""
        output = assert_type(self.body(ids, langs="en"), XLMModelOutput)
        scores: Tensor = self.classify(output.last_hidden_state[:, 0])
        return scores


class Tagger(XLMModel):
    """A subclass, which ``from_pretrained`` returns."""


assert_type(Tagger.from_pretrained("xlm-clm-ende-small"), Tagger)
translator = XLMEncoderDecoderModel(config)
assert_type(translator(ids, ids, langs="en", decoder_langs="de"), XLMEncoderDecoderOutput)
assert_type(translator.decoder.transformer.layers[0].attention.output, nn.Linear)
