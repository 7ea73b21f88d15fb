"""Prompt encoders: what makes the prompt while training, and folds into a constant afterwards.

    shallow   EmbeddingEncoder  LSTMEncoder  MLPEncoder  ResidualEncoder     slots x width
    deep      PrefixEncoder                                                  slots x floats
    fold      the constant that an encoder computes: what ships

Knows no backbone: widths and shapes come in as numbers, vectors to start from as tensors.
Start with `encoder.py`, then `embedding.py`.
"""

from ptune.encoders.embedding import EmbeddingEncoder
from ptune.encoders.encoder import Encoder, fold
from ptune.encoders.init import random_vectors, sample_vocabulary
from ptune.encoders.lstm import LSTMEncoder
from ptune.encoders.mlp import MLPEncoder
from ptune.encoders.prefix import KeysValues, PrefixEncoder, SiteScale, SiteShape
from ptune.encoders.residual import ResidualEncoder

__all__ = [
    "EmbeddingEncoder",
    "Encoder",
    "KeysValues",
    "LSTMEncoder",
    "MLPEncoder",
    "PrefixEncoder",
    "ResidualEncoder",
    "SiteScale",
    "SiteShape",
    "fold",
    "random_vectors",
    "sample_vocabulary",
]
