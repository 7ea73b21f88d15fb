"""Injection: the one seam between ptune and transformers' models.

embedding   virtual ids          hooks on the input embedding
attention   deep prompts, packs  one attention function, registered with transformers
varlen      a whole pack in one call of a GPU's kernel
masks       what a model hides by its masks alone
shims       families whose attention needs a stand-in
probe       what a model is, found by running it
head        the language-model head as a function
words       what it is asked: at few positions, of few words
sides       the encoder and the decoder of a model that has both
dropout     the model's own: off, or on for a pass
session     all of these put into a model for the time of a context
turns       threads that use one model wait for each other
layers      a pass through the lower or the upper layers only
"""

from ptune.inject.call import Call as Call
from ptune.inject.devices import device_of as device_of
from ptune.inject.devices import stored as stored
from ptune.inject.head import LanguageHead as LanguageHead
from ptune.inject.layers import Cut as Cut
from ptune.inject.layers import Entering as Entering
from ptune.inject.probe import probe as probe
from ptune.inject.session import Injection as Injection
from ptune.inject.session import injected as injected
from ptune.inject.session import layers as layers
from ptune.inject.sides import input_embeddings as input_embeddings
from ptune.inject.sides import is_two_sided as is_two_sided
from ptune.inject.sides import run_body as run_body
from ptune.inject.sites import CACHE_NAMES as CACHE_NAMES
from ptune.inject.sites import Geometry as Geometry
from ptune.inject.sites import Site as Site
from ptune.inject.words import Words as Words
