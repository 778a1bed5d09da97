"""Texts to log-probabilities.

To follow a batch of texts from the call to the numbers: ``score`` (``score.py``) groups texts of similar length,
``Scorer.score_documents`` (``scorer.py``) encodes them, ``score_sequences`` (``logprobs.py``) forms batches and runs
the model, and ``chunked_logprobs`` (``xlm/model/head.py``) computes the log-probabilities from its hidden states.
"""
