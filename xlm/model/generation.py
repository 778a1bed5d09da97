"""Prompts to continuations, as methods of the model.

Shapes: B batch, T positions, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from xlm.model.decoding.generate import TokenStream, continue_prompts, with_prompts
from xlm.model.decoding.options import DecodingKeywords, DecodingOptions, shows_decoding_options
from xlm.model.decoding.prompts import Prompts, prepare_prompts
from xlm.model.decoding.result import Continuation
from xlm.model.inputs import Languages, check_device
from xlm.model.network import Network

if TYPE_CHECKING:
    from typing_extensions import Unpack


class GeneratingNetwork(Network):
    """A network that also continues what it is given."""

    @shows_decoding_options
    def generate(
        self,
        input_ids: Tensor,
        *,
        langs: Languages | None = None,
        lengths: Tensor | None = None,
        attention_mask: Tensor | None = None,
        continuation_langs: Languages | None = None,
        **options: Unpack[DecodingKeywords],
    ) -> Tensor:
        """Prompts with their continuations: greedy, sampled, or the best of a beam search.

        A row stops behind ``</s>``, after ``max_new_tokens`` (64 when not given), or when the model has no position
        left: behind a prompt of P tokens there is room for ``max_position_embeddings - P + 1`` new ones. For which of
        these it was, and for log-probabilities, see ``continuations``.

        A prompt is given as the model saw it in training, ``</s>`` and the tokens, *without* the ``</s>`` at the end,
        behind which a new sentence would begin: ``tokenizer.encode(text, lang=...)[:-1]``.

        Args:
            input_ids: (B, T) int64, ids from 0 to V - 1.
            langs: Language of the prompts, as for ``forward``.
            lengths: (B,) int64, real tokens of each prompt. Without it and ``attention_mask``, ``<pad>`` is padding;
                padding stands on the right.
            attention_mask: (B, T), 0 at padding; instead of ``lengths``.
            continuation_langs: Language of the new tokens: a name or id for all, one a row, or (B, max_new_tokens),
                one for each new token. By default that of each prompt's last token. The first new token is predicted
                from the prompt alone; its own language counts when the second is.
            **options: Attributes of ``DecodingOptions``, by name; it says what each does, and in what it differs from
                the ``transformers`` option of the same name.

        Returns:
            (B * num_return_sequences, T') int64, padded on the right with ``<pad>``; the continuations of prompt i
            begin at row ``i * num_return_sequences``, best first when they are beams.

        Raises:
            InputError: An input or option that is wrong, or a bidirectional model.
            LanguageError: A language that the model does not have.
            XLMError: The model's scores are not finite.
        """
        prompts, chosen = self._prompts(input_ids, langs, lengths, attention_mask, continuation_langs, options)
        continuations = continue_prompts(self, prompts, chosen, with_logprobs=False)
        return with_prompts(prompts, continuations, pad_id=self.config.pad_token_id)

    @shows_decoding_options
    def continuations(
        self,
        input_ids: Tensor,
        *,
        langs: Languages | None = None,
        lengths: Tensor | None = None,
        attention_mask: Tensor | None = None,
        continuation_langs: Languages | None = None,
        **options: Unpack[DecodingKeywords],
    ) -> list[Continuation]:
        """The new tokens alone, with their log-probabilities and why each row stopped; arguments as ``generate``'s.

        Returns:
            B * num_return_sequences of them, in the order of ``generate``'s rows.
        """
        prompts, chosen = self._prompts(input_ids, langs, lengths, attention_mask, continuation_langs, options)
        return continue_prompts(self, prompts, chosen)

    @shows_decoding_options
    def stream(
        self,
        input_ids: Tensor,
        *,
        langs: Languages | None = None,
        lengths: Tensor | None = None,
        attention_mask: Tensor | None = None,
        continuation_langs: Languages | None = None,
        **options: Unpack[DecodingKeywords],
    ) -> TokenStream:
        """The new tokens of one prompt as an iterator of ids, each computed when asked for; not for beam search.

        Args as ``generate``'s, with B = 1. After the last token the iterator's ``continuation`` tells the rest.
        """
        prompts, chosen = self._prompts(input_ids, langs, lengths, attention_mask, continuation_langs, options)
        return TokenStream(self, prompts, chosen)

    def _prompts(
        self,
        input_ids: Tensor,
        langs: Languages | None,
        lengths: Tensor | None,
        attention_mask: Tensor | None,
        continuation_langs: Languages | None,
        options: DecodingKeywords,
    ) -> tuple[Prompts, DecodingOptions]:
        chosen = DecodingOptions.checked(self.config, **options)
        if langs is None:
            self._warn_about_langs(stacklevel=4)
        prompts = prepare_prompts(
            self,
            input_ids,
            langs=langs,
            lengths=lengths,
            attention_mask=attention_mask,
            continuation_langs=continuation_langs,
            options=chosen,
        )
        check_device(prompts.inputs.input_ids, self.device)
        return prompts, chosen
