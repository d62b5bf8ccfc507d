"""A cross-encoder is loaded as it is published: safetensors, one score, no code of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_models import make_tiny_model
from training.audit import estimate_noise_by_cross_encoder
from training.cross_encoder import PairScorer
from training.errors import ModelNotFound, ModelUnsupported
from training.pairs import Pair


def _tiny_cross_encoder(folder: Path, *, n_labels: int = 1) -> Path:
    """A BERT with random weights and a head, saved as the library saves one."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    base = make_tiny_model(folder / "base", dim=16)
    config = BertConfig.from_pretrained(base, num_labels=n_labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertForSequenceClassification(config).save_pretrained(folder / "cross")
    AutoTokenizer.from_pretrained(base).save_pretrained(folder / "cross")
    return folder / "cross"


def test_pairs_of_texts_get_a_score_each(tmp_path: Path) -> None:
    scorer = PairScorer(str(_tiny_cross_encoder(tmp_path)), device="cpu")
    texts = [("apple tree", "green apple"), ("river", "market town"), ("apple tree", "green apple")]
    scores = scorer.scores(texts)
    assert scores[0] == pytest.approx(scores[2], abs=1e-5)
    assert scores[0] != pytest.approx(scores[1], abs=1e-5)


def test_a_model_that_knows_nothing_calls_everything_noise(tmp_path: Path) -> None:
    scorer = PairScorer(str(_tiny_cross_encoder(tmp_path)), device="cpu")
    words = ("apple", "river", "engine", "metal", "village", "music", "winter", "market", "horse")
    pairs = [
        Pair(anchor=f"{one} {other}", positive=f"the {other} of the {one} is here")
        for one in words
        for other in words
        if one != other
    ]
    assert estimate_noise_by_cross_encoder(scorer.scores, pairs, sampled=60).is_high


def test_a_model_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        PairScorer(str(tmp_path / "nothing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelUnsupported, match=r"no config\.json"):
        PairScorer(str(tmp_path / "empty"))
    cross = _tiny_cross_encoder(tmp_path, n_labels=3)
    with pytest.raises(ModelUnsupported, match="gives 3 scores for a pair, expected one"):
        PairScorer(str(cross), device="cpu")
    (cross / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(ModelUnsupported, match="cannot be loaded as a cross-encoder"):
        PairScorer(str(cross), device="cpu")


def test_an_encoder_does_not_get_a_head_of_random_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelUnsupported, match="is no cross-encoder: found BertModel"):
        PairScorer(str(make_tiny_model(tmp_path / "encoder")), device="cpu")
