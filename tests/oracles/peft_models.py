"""PEFT's own models on tiny backbones: what an imported or exported prompt is compared with.

PEFT 0.21 hands a prefix to the model as `past_key_values`, which transformers calls `cache` from
5.24 on. Of the two together, a classifier with a prefix is refused by PEFT, and `generate` goes on
without it and without a word; only the plain forward of a language model has it. Tests that need
more of PEFT than works are skipped, with that reason.
"""

import warnings
from functools import cache

import peft
import pytest
import tiny
import torch
import transformers as hf

CLASSES = {
    "CAUSAL_LM": hf.AutoModelForCausalLM,
    "SEQ_2_SEQ_LM": hf.AutoModelForSeq2SeqLM,
    "SEQ_CLS": hf.AutoModelForSequenceClassification,
    "TOKEN_CLS": hf.AutoModelForTokenClassification,
    "QUESTION_ANS": hf.AutoModelForQuestionAnswering,
}
CONFIGS = {
    "PROMPT_TUNING": (peft.PromptTuningConfig, {}),
    "P_TUNING": (peft.PromptEncoderConfig, {"encoder_hidden_size": 16}),
    "P_TUNING LSTM": (
        peft.PromptEncoderConfig,
        {"encoder_hidden_size": 16, "encoder_reparameterization_type": "LSTM"},
    ),
    "PREFIX_TUNING": (peft.PrefixTuningConfig, {}),
    "PREFIX_TUNING projected": (
        peft.PrefixTuningConfig,
        {"prefix_projection": True, "encoder_hidden_size": 16},
    ),
    "CARTRIDGE": (peft.CartridgeConfig, {}),
    "MULTITASK_PROMPT_TUNING": (peft.MultitaskPromptTuningConfig, {"num_tasks": 2, "num_ranks": 1}),
    "CPT": (peft.CPTConfig, {"cpt_token_ids": [5, 6, 7, 8], "cpt_tokens_type_mask": [1, 2, 3, 4]}),
}
SLOTS = 4
IDS = (7, 9, 11, 13, 8)


@cache
def _prefixes_arrive():
    """Whether PEFT's classifiers take a prefix: tried on one, as their versions say nothing."""
    config = peft.PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=SLOTS)
    model = peft.get_peft_model(base("bert", "SEQ_CLS"), config)
    try:
        logits(model)
    except ValueError as error:
        if "does not support past key values" not in str(error):
            raise
        return False
    return True


def _need(kind, task):
    prefix = kind.startswith(("PREFIX", "CARTRIDGE"))
    if prefix and task not in ("CAUSAL_LM", "SEQ_2_SEQ_LM"):
        need_prefixes()


def need_prefixes():
    """Skip where PEFT cannot hand its prefixes to these transformers."""
    if not _prefixes_arrive():
        pytest.skip(
            f"PEFT {peft.__version__} hands prefixes over by a name that transformers "
            f"{hf.__version__} does not have"
        )


def base(name, task, seed=0):
    torch.manual_seed(seed)
    return CLASSES[task].from_config(tiny.ALL[name]()).float().eval()


def wrapped(model, kind, task, **more):
    """A model of PEFT's with a random prompt that moves its answers."""
    _need(kind, task)
    config, own = CONFIGS[kind]
    slots = {} if kind == "CPT" else {"num_virtual_tokens": SLOTS}
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = peft.get_peft_model(model, config(task_type=task, **slots, **own, **more)).eval()
    for name, parameter in made.named_parameters():
        if "prefix_task" in name or "delta" in name:  # they begin so small that they do nothing
            torch.nn.init.normal_(parameter)
    return made


@torch.no_grad()
def logits(model, ids=IDS, **more):
    """Logits of one row; of question answering both, side by side."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        row = torch.tensor([ids])
        out = model(input_ids=row, attention_mask=torch.ones_like(row), **more)
    if "start_logits" in out:
        return torch.stack([out.start_logits[0], out.end_logits[0]], -1)
    return out.logits[0]


def loaded(model, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = peft.PeftModel.from_pretrained(model, str(folder)).eval()
    config = made.peft_config["default"]
    _need(config.peft_type.value, config.task_type)
    return made
