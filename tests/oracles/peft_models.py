"""PEFT's own models on tiny backbones: what an imported or exported prompt is compared with."""

import warnings

import peft
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


def base(name, task, seed=0):
    torch.manual_seed(seed)
    return CLASSES[task].from_config(tiny.ALL[name]()).float().eval()


def wrapped(model, kind, task, **more):
    """A model of PEFT's with a random prompt that moves its answers."""
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
        return peft.PeftModel.from_pretrained(model, str(folder)).eval()
