"""Encoder-decoders, from PEFT and back: PEFT's own logits, and what of them is PEFT's fault."""

import json
import logging

import pytest
import tiny
import torch
import transformers as hf
from oracles import peft_models as oracle
from oracles.naive_two_sided import decoder_states
from safetensors.torch import load_file

from ptune.api import Backbone
from ptune.batch import PromptTensors, TokenSequence
from ptune.encoders import KeysValues
from ptune.errors import ArtifactError
from ptune.formats import export_peft, import_peft
from ptune.formats.two_sided import decoder_sites
from ptune.generation import generate
from ptune.prompt import SoftPrompt
from ptune.run import run

pytestmark = pytest.mark.filterwarnings("ignore")

TASK = "SEQ_2_SEQ_LM"
SAID = (5, 6, 9)
FAMILIES = ["t5", "t5-gated", "mt5", "bart", "mbart", "pegasus", "marian"]
# They scale the words that they look up, and not the vectors that PEFT gives them.
SCALING = ["pegasus", "marian"]
DEEP = ["PREFIX_TUNING", "PREFIX_TUNING projected", "CARTRIDGE"]


def base(name, encoder=3, decoder=3, seed=0):
    """PEFT runs no decoder that is deeper than its encoder, nor a T5 of which heads are narrow."""
    config = tiny.ENCODER_DECODERS[name]()
    if "t5" in name:
        config.d_kv, config.num_layers, config.num_decoder_layers = 8, encoder, decoder
    else:
        config.encoder_layers = config.num_hidden_layers = encoder
        config.decoder_layers = decoder
    torch.manual_seed(seed)
    return hf.AutoModelForSeq2SeqLM.from_config(config).float().eval()


def saved(tmp_path, model, kind):
    made = oracle.wrapped(model, kind, TASK)
    if kind in DEEP and kind != "PREFIX_TUNING projected":
        for name, parameter in made.named_parameters():
            if "prompt_encoder" in name:
                torch.nn.init.normal_(parameter)
    made.save_pretrained(tmp_path / "peft")
    backbone = Backbone.load(made.get_base_model(), tokenizer=tiny.tokenizer())
    return tmp_path / "peft", backbone, theirs(made, backbone)


def theirs(made, backbone):
    return oracle.logits(made, decoder_input_ids=torch.tensor([[backbone.decoder_start, *SAID]]))


def row(backbone, prompt, ids=oracle.IDS, said=SAID, at=0):
    decoded = (backbone.decoder_start, *said)
    virtual = tuple(-1 - slot for slot in range(prompt.slots))
    decoder = TokenSequence(decoded, prompt=at, reads=tuple(range(len(decoded))))
    return TokenSequence((*virtual, *ids), prompt=at, decoder=decoder)


@torch.no_grad()
def ours(backbone, prompt):
    batch = backbone.pack([row(backbone, prompt)])
    return run(backbone, [prompt.tensors()], batch, read="logits")


def assert_same(found, wanted):
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() < 1e-5
    assert wanted.std() > 1e-2  # there is something to agree on


CASES = [(name, "PREFIX_TUNING") for name in FAMILIES]
CASES += [(name, "P_TUNING") for name in FAMILIES if name not in SCALING]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_prompts_say_what_peft_says(tmp_path, name, kind):
    folder, backbone, wanted = saved(tmp_path, base(name), kind)
    prompt = import_peft(folder, backbone)
    assert prompt.task == "seq2seq-lm"
    assert_same(ours(backbone, prompt), wanted)
    prompt.save(tmp_path / "ours")
    assert_same(ours(backbone, SoftPrompt.load(tmp_path / "ours")), wanted)
    without = ours(backbone, SoftPrompt(**bare(backbone)))
    assert (without - wanted).abs().max() > 1e-2  # and the prompt is why


@pytest.mark.parametrize("name", SCALING)
def test_words_that_peft_gives_another_size_are_refused(tmp_path, name):
    """The model's own encoder shows it: ids, and the vectors that are looked up for them."""
    model = base(name)
    ids = torch.tensor([oracle.IDS])
    with torch.no_grad():
        encoder = model.get_encoder()
        right = encoder(input_ids=ids).last_hidden_state
        looked_up = encoder(inputs_embeds=model.get_input_embeddings()(ids)).last_hidden_state
    assert (right - looked_up).abs().max() > 0.1
    folder, backbone, _ = saved(tmp_path, model, "PROMPT_TUNING")
    with pytest.raises(ArtifactError, match="so with virtual tokens PEFT answers to another text"):
        import_peft(folder, backbone)
    assert "PEFT answers to another text" in refused(prompt_of(backbone), backbone, tmp_path)


def bare(backbone, **more):
    parts = {"template": "{text}", "task": "seq2seq-lm", "slots": 0, "vectors": None}
    return parts | {"backbone": backbone.name, "fingerprint": backbone.fingerprint} | more


@pytest.mark.parametrize("name", ["t5", "bart"])
@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "P_TUNING LSTM", *DEEP[1:]])
def test_so_do_the_other_kinds(tmp_path, name, kind):
    folder, backbone, wanted = saved(tmp_path, base(name), kind)
    assert_same(ours(backbone, import_peft(folder, backbone)), wanted)


@pytest.mark.parametrize("name", ["t5", "bart"])
@pytest.mark.parametrize(("encoder", "decoder"), [(2, 2), (3, 2), (4, 4), (5, 3)])
def test_every_layer_gets_what_peft_gives_it(tmp_path, caplog, name, encoder, decoder):
    folder, backbone, wanted = saved(tmp_path, base(name, encoder, decoder), "PREFIX_TUNING")
    with caplog.at_level(logging.WARNING, logger="ptune"):
        prompt = import_peft(folder, backbone)
    assert_same(ours(backbone, prompt), wanted)
    shared = f"of {encoder} layers, layer i and layer i + {encoder // 2}" in caplog.text
    keys = [prompt.deep[site].keys for site in decoder_sites(backbone)]
    assert shared == any(torch.equal(keys[0], other) for other in keys[1:])
    assert shared == (encoder % 2 == 0)


# --- a prompt that moves the decoder's tokens -----------------------------------------------------


def deep(backbone, slots=4, *, moves=True, seed=3, sites=None):
    generator = torch.Generator().manual_seed(seed)
    pairs = {}
    for at in decoder_sites(backbone) if sites is None else sites:
        heads, dim, _ = backbone.geometry.sites[at].shape
        draw = [torch.randn(slots, heads, dim, generator=generator) for _ in range(2)]
        pairs[at] = KeysValues(*draw)
    return PromptTensors(deep=pairs, offset=slots if moves else 0)


@pytest.mark.parametrize("name", ["t5-untied", "bart", "marian"])
def test_rows_of_prompts_that_move_them_and_not_are_as_alone(name):
    """Two lengths, one prompt that leaves the text where it is, one of virtual tokens."""
    b = tiny.backbone(name)
    torch.manual_seed(4)
    for part, table in b.model.named_parameters():
        if "relative_attention_bias" in part:  # so that where a key stands decides what is said
            torch.nn.init.normal_(table, std=3)
    prompts = [deep(b), deep(b, 2, seed=5), deep(b, 3, moves=False)]
    prompts.append(PromptTensors(vectors=torch.randn(2, b.geometry.width)))
    tokens = [SoftPrompt(**bare(b, slots=s, vectors=torch.zeros(s, 1))) for s in (0, 0, 0, 2)]
    lengths = [((7, 9, 11, 13, 8), (5, 6, 9)), ((15, 6), (4,)), ((8, 9, 3), ()), ((7, 9), (5, 6))]
    rows = [row(b, tokens[at], *lengths[at], at=at) for at in range(4)]
    with torch.no_grad():
        mixed = run(b, prompts, b.pack(rows))
        alone = [run(b, [prompts[at]], b.pack([rows[at].of(0)])) for at in range(4)]
    torch.testing.assert_close(mixed, torch.cat(alone), rtol=1e-4, atol=1e-4)
    asked = [row(b, tokens[at], lengths[at][0], (), at=at) for at in range(4)]
    found = generate(b, prompts, asked, max_new_tokens=5)
    assert found == [greedy(b, prompts[at], asked[at].of(0)) for at in range(4)]
    beams = generate(b, prompts, asked, max_new_tokens=4, beams=2)
    for at in range(4):
        assert generate(b, [prompts[at]], [asked[at].of(0)], max_new_tokens=4, beams=2) == [
            beams[at]
        ]


def greedy(b, prompt, asked, most=5):
    """Step by step: one whole pass of the row and of what was said so far."""
    said = []
    for _ in range(most):
        ids = (*asked.decoder.ids, *said)
        whole = TokenSequence(asked.ids, decoder=TokenSequence(ids, reads=(len(ids) - 1,)))
        step = int(run(b, [prompt], b.pack([whole]), read="logits").argmax())
        if step == b.tokenizer.eos_token_id:
            break
        said.append(step)
    return said


@pytest.mark.parametrize("name", ["t5", "bart"])
@pytest.mark.parametrize("kind", ["P_TUNING", "PREFIX_TUNING"])
def test_generated_tokens_are_pefts_own(tmp_path, name, kind):
    if kind == "PREFIX_TUNING":
        oracle.need_prefixes()
    folder, backbone, _ = saved(tmp_path, base(name), kind)
    made = oracle.loaded(base(name), folder)
    ids = torch.tensor([oracle.IDS])
    wanted = made.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        decoder_start_token_id=backbone.decoder_start,
        max_new_tokens=5,
        do_sample=False,
        num_beams=1,
        forced_bos_token_id=None,
        forced_eos_token_id=None,
    )[0, 1:].tolist()
    end = backbone.tokenizer.eos_token_id
    wanted = wanted[: wanted.index(end)] if end in wanted else wanted
    prompt = import_peft(folder, backbone)
    asked = row(backbone, prompt, said=())
    assert generate(backbone, [prompt.tensors()], [asked], max_new_tokens=5) == [wanted]


# --- and back -------------------------------------------------------------------------------------


def prompt_of(backbone, **more):
    torch.manual_seed(3)
    vectors = torch.randn(4, backbone.geometry.width)
    parts = {"template": "{soft:4}{bos}{text}", "slots": 4, "vectors": vectors}
    return SoftPrompt(**bare(backbone) | parts | more)


def deep_prompt(backbone, **more):
    made = deep(backbone)
    return SoftPrompt(**bare(backbone) | {"deep": made.deep, "offset": made.offset} | more)


@pytest.mark.parametrize("name", ["t5", "bart"])
@pytest.mark.parametrize("make", [prompt_of, deep_prompt])
@pytest.mark.parametrize("layers", [2, 3])
def test_a_folder_gives_the_same_in_peft(tmp_path, name, make, layers):
    """Also of two layers, where PEFT's own prefixes would share their keys."""
    backbone = Backbone.load(base(name, layers, layers), tokenizer=tiny.tokenizer())
    prompt = make(backbone)
    export_peft(prompt, backbone, tmp_path / "peft")
    found = theirs(oracle.loaded(base(name, layers, layers), tmp_path / "peft"), backbone)
    assert_same(ours(backbone, prompt), found)


def test_a_t5_of_narrow_heads_tells_peft_their_width(tmp_path):
    backbone = tiny.backbone("t5")
    prompt = deep_prompt(backbone)
    export_peft(prompt, backbone, tmp_path / "peft")
    found = theirs(oracle.loaded(tiny.model("t5"), tmp_path / "peft"), backbone)
    assert_same(ours(backbone, prompt), found)


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "PREFIX_TUNING"])
def test_there_and_back_again_keeps_what_peft_reads(tmp_path, kind):
    folder, backbone, wanted = saved(tmp_path, base("t5"), kind)
    export_peft(import_peft(folder, backbone), backbone, tmp_path / "two")
    assert torch.equal(theirs(oracle.loaded(base("t5"), tmp_path / "two"), backbone), wanted)
    file, name = "adapter_model.safetensors", "prompt_embeddings"
    one, two = (load_file(tmp_path / at / file)[name] for at in ("peft", "two"))
    assert one.shape == two.shape
    assert torch.equal(one[:4], two[:4])


# --- what cannot be said --------------------------------------------------------------------------


def refused(prompt, backbone, tmp_path):
    with pytest.raises(ArtifactError) as error:
        export_peft(prompt, backbone, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    return str(error.value)


def test_what_peft_cannot_say_is_refused(tmp_path):
    b = tiny.backbone("t5")
    sides = {"settings": {"decoder_template": "{soft:2}{label}"}, "template": "{soft:2}{bos}{text}"}
    said = refused(prompt_of(b, **sides), b, tmp_path)
    assert "virtual tokens, and PEFT puts them before the encoder's row alone." in said
    every = deep(b, sites=range(len(b.geometry.sites)))
    said = refused(deep_prompt(b, deep=every.deep), b, tmp_path)
    assert "PEFT's prefixes of an encoder-decoder stand in the self-attention of the dec" in said
    said = refused(deep_prompt(b, offset=0), b, tmp_path)
    assert "text begins at position 4, and the prompt was trained with it at 0" in said
    one, *rest = decoder_sites(b)
    mixed = deep(b, 2, sites=[one]).deep | deep(b, sites=rest).deep
    said = refused(deep_prompt(b, deep=mixed), b, tmp_path)
    assert "its sites have prompts of different lengths" in said


def test_what_does_not_fit_is_not_imported(tmp_path):
    folder, backbone, _ = saved(tmp_path, base("t5"), "PREFIX_TUNING")
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text())
    for layers, said in [
        (None, '"num_layers": None, and a prefix of an encoder-decoder needs it'),
        (2, "192 numbers a virtual token for 2 layers, and the decoder"),
    ]:
        file.write_text(json.dumps(config | {"num_layers": layers}))
        with pytest.raises(ArtifactError) as error:
            import_peft(folder, backbone)
        assert said in str(error.value)
    file.write_text(json.dumps(config | {"peft_type": "MULTITASK_PROMPT_TUNING"}))
    with pytest.raises(ArtifactError, match="before the decoder's start token, and generates with"):
        import_peft(folder, backbone)


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_a_moved_decoder_is_as_a_naive_one(name):
    """PEFT's prefix is the cache of a text: real keys in front, by attention written with loops.

    BART's naive rows stand further on in the table of positions; T5's bias is by distance.
    """
    b = tiny.backbone(name)
    prompt = deep(b)
    layers = [prompt.deep[site] for site in decoder_sites(b)]
    decoded = (b.decoder_start, *SAID)
    wanted = decoder_states(b.model, oracle.IDS, decoded, {"decoder": layers}, begins=4)
    with torch.no_grad():
        found = run(b, [prompt], b.pack([row(b, SoftPrompt(**bare(b)))]))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
