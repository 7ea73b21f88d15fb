import pytest
import tiny
import torch
import transformers as hf
from torch import nn

from ptune.backbone import Backbone
from ptune.batch import PromptTensors, TokenSequence
from ptune.run import run

SCALED = hf.CohereConfig(**tiny.SMALL, logit_scale=0.3)  # its logits are scaled behind the matrix
MASKED = hf.BertConfig(**tiny.SMALL)  # a dense layer, GELU and a norm stand before the matrix


def backbone_of(kind):
    if kind == "cohere":
        torch.manual_seed(0)
        return Backbone.load(hf.CohereForCausalLM(SCALED), tokenizer=tiny.tokenizer())
    if kind == "bert, masked":
        torch.manual_seed(0)
        return Backbone.load(hf.BertForMaskedLM(MASKED), tokenizer=tiny.tokenizer())
    return tiny.backbone(kind)


KINDS = [*tiny.DECODERS, "cohere", "bert, masked"]
ROW = TokenSequence((9, 10, 11, 12, 13, 14), reads=(1, 3, 4, 5))


def words_of(backbone):
    return run(backbone, [PromptTensors()], backbone.pack([ROW]), read="words")


def native(backbone):
    """Oracle: the whole model, every logit."""
    with torch.no_grad():
        return backbone.model(input_ids=torch.tensor([ROW.ids])).logits[0, list(ROW.reads)]


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_model(kind):
    backbone = backbone_of(kind)
    expected = native(backbone)
    torch.testing.assert_close(words_of(backbone).logits(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_of_some_words_are_made_from_their_rows_of_the_matrix_alone(kind):
    backbone = backbone_of(kind)
    words, expected = words_of(backbone), native(backbone)
    reads, tokens = [3, 0], [5, 40, 6]
    words.logits_of([1], [7])  # the first time it is compared with the whole head
    sizes = []
    inner = words.head.model.get_output_embeddings()
    hook = nn.functional.linear
    try:
        nn.functional.linear = lambda x, w, b=None: sizes.append(len(w)) or hook(x, w, b)
        got = words.logits_of(reads, tokens)
    finally:
        nn.functional.linear = hook
    torch.testing.assert_close(got, expected[reads][:, tokens], rtol=1e-4, atol=1e-5)
    assert sizes[-1] == 3
    assert len(inner.weight) not in sizes
    assert all("forward" not in module.__dict__ for module in backbone.model.modules())


def test_a_model_that_counts_on_all_of_its_logits_is_read_whole():
    class Counting(hf.LlamaForCausalLM):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits[..., tiny.VOCABULARY - 1] = -100.0
            return output

    torch.manual_seed(0)
    backbone = Backbone.load(Counting(tiny.DECODERS["llama"]()), tokenizer=tiny.tokenizer())
    tokens = [5, 40, 6]
    got = words_of(backbone).logits_of(range(4), tokens)
    torch.testing.assert_close(got, native(backbone)[:, tokens], rtol=1e-4, atol=1e-5)


def test_the_way_through_the_head_does_not_depend_on_the_rows_of_a_run(monkeypatch):
    tried = []
    backbone = backbone_of("llama")
    words = words_of(backbone)
    matrix = backbone.model.lm_head
    hook = matrix.register_forward_hook(lambda m, inputs, out: tried.append(inputs[0].clone()))
    words.logits_of(range(4), [5, 40, 6])
    words.head._narrows = None
    words[1:3].logits_of(range(2), [7])
    hook.remove()
    assert torch.equal(tried[0], tried[1])


class Centred(nn.Linear):
    """A head whose logits depend on each other: no row of its matrix means anything alone."""

    def forward(self, states):
        logits = super().forward(states)
        return logits - logits.mean(-1, keepdim=True) * logits[..., :1]


def test_a_head_whose_logits_depend_on_each_other_is_computed_whole():
    backbone = backbone_of("llama")
    backbone.model.lm_head = Centred(32, tiny.VOCABULARY, bias=False)
    reads, tokens = range(4), [5, 40, 6]
    got = words_of(backbone).logits_of(reads, tokens)
    torch.testing.assert_close(got, native(backbone)[:, tokens], rtol=1e-4, atol=1e-5)


def test_a_model_that_mixes_logits_behind_its_matrix_is_found_out_by_trying():
    class Mixing(hf.LlamaForCausalLM):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits = output.logits - output.logits[..., :1]
            return output

    torch.manual_seed(0)
    model = Mixing(tiny.DECODERS["llama"]())
    backbone = Backbone.load(model, tokenizer=tiny.tokenizer())
    tokens = [5, 40, 6]
    got = words_of(backbone).logits_of(range(4), tokens)
    torch.testing.assert_close(got, native(backbone)[:, tokens], rtol=1e-4, atol=1e-5)
