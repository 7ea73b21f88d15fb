r"""Batches: rows without padding, each naming its prompt, sharing what is equal.

    two rows, one prompt of 3 virtual tokens, a causal model, labels "yes" and "no":

    segment 0   P P P Question :        the shared prefix: equal in both rows, computed once
    segment 1     how far is it ? A :   row 0, sees segment 0
    segment 2     who won ? A :         row 1, sees segment 0
    segment 3       yes                 a continuation of row 0, sees segments 0 and 1
    segment 4       no                  another one; the two do not see each other

A pack is this forest laid out in one line of tokens. Attention is the only place where tokens of a
transformer meet, so the linear layers may see the line as it is, and attention (`ptune.inject`)
follows the `Group`s made here: which tokens ask, and which tokens they may see.

Where a model mixes tokens outside attention, `pack(..., padded=True)` lays every sequence out on
its own padded line, with the same groups; nothing else in ptune knows the difference.

An encoder-decoder has two lines, one for each side. What the decoder reads is a tree of its own,
whose tokens also see every token of their row's encoder side (`Batch.decoder`, `Batch.cross`).

Knows numbers only: no tokenizer, no model, no prompt's tensors.
Next: `ptune.run` feeds a batch to a backbone.
"""

from ptune.batch.packing import count_tokens as count_tokens
from ptune.batch.packing import pack as pack
from ptune.batch.shapes import Batch as Batch
from ptune.batch.shapes import Branch as Branch
from ptune.batch.shapes import Group as Group
from ptune.batch.shapes import PromptTensors as PromptTensors
from ptune.batch.shapes import TokenSequence as TokenSequence
