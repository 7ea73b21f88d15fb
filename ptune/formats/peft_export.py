r"""A prompt -> a PEFT folder that `PeftModel.from_pretrained(base, folder)` loads.

    virtual tokens before everything            PROMPT_TUNING
    keys and values at every attention site     PREFIX_TUNING, without projection

PEFT can say no more than that: virtual tokens inside the text, chosen sites, and ptune's own head
are refused with the reason, so that a folder which is written gives ptune's logits.

PEFT hands a prefix to the model as a cache, so the text begins at position `n` instead of 0. Keys
of rotary models are turned on by as much; where positions are learned, nothing makes up for it.
Of encoder-decoders see `two_sided`.
"""

import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ptune.backbone import Backbone
from ptune.errors import ArtifactError
from ptune.formats.heads import Head, head_to
from ptune.formats.peft_folder import TASKS, write_peft
from ptune.formats.placing import warn_of_windows
from ptune.formats.rotation import moved
from ptune.formats.two_sided import check_words, decoder_sites, from_decoder
from ptune.inject import CACHE_NAMES
from ptune.layout import Layout
from ptune.loading import own_head
from ptune.prompt import SoftPrompt
from ptune.tasks import TASKS as BOUND
from ptune.tasks import TaskOptions, make_task
from ptune.tasks.seq2seq_lm import TwoSided
from ptune.template import Template
from ptune.values import WORDS_FIELD

log = logging.getLogger("ptune")

# The extra tensors of a resumable encoder: PEFT passes over names that it does not know.
ENCODER = "ptune_encoder."
KEEP = "Keep the prompt in ptune."


def export_peft(
    prompt: SoftPrompt,
    backbone: Backbone,
    path: str | Path,
    *,
    encoder: Mapping[str, Tensor] | None = None,
    force: bool = False,
) -> None:
    """Write a prompt as a folder of PEFT's.

    Args:
        backbone: the model that it was made for.
        path: the folder; made with its parents, and replaced where it holds such a folder.
        encoder: tensors of the prompt encoder, to travel beside the prompt; PEFT ignores them.
        force: accept a backbone that the prompt was not made for.
    Raises:
        ArtifactError: PEFT cannot say the prompt, or the folder cannot be written.
    """
    if prompt.backbone_weights:
        raise ArtifactError(
            "The prompt was trained together with weights of its backbone (train_backbone), and a "
            f"prompt of PEFT's brings none. {KEEP}"
        )
    if prompt.prior:
        raise ArtifactError(
            "The prompt is calibrated: what it says of rows without content is taken out of its "
            f"answers, and PEFT has no such thing. {KEEP} Or train without calibration."
        )
    prompt.check(backbone.fingerprint, backbone.name, force=force)
    two_sided = backbone.geometry.two_sided
    task = next((theirs for theirs, ours in TASKS.items() if ours == prompt.task), None)
    if task is None:
        raise ArtifactError(
            f"PEFT has no task for {prompt.task}; it has {', '.join(TASKS)}. {KEEP}"
        )
    if prompt.vectors is not None and prompt.deep:
        raise ArtifactError(
            "The prompt is deep and stands in the text at once, and a prompt of PEFT's is one of "
            f"the two. {KEEP}"
        )
    make = (_deep_two_sided if two_sided else _deep) if prompt.deep else _shallow
    config, table = make(prompt, backbone)
    slots = len(table)
    if two_sided and not prompt.deep:
        # PEFT reserves as many for the decoder, and never reads them.
        table = torch.cat([table, torch.zeros_like(table)])
    head = _head(prompt, backbone)
    config |= {
        "task_type": task,
        "base_model_name_or_path": backbone.name,
        "revision": prompt.settings.get("revision"),
        "inference_mode": True,
        "num_virtual_tokens": slots,
        "num_transformer_submodules": 2 if backbone.geometry.two_sided else 1,
        "modules_to_save": sorted({name.split(".")[0] for name in head}) or None,
    }
    tensors = {"prompt_embeddings": table}
    tensors |= {f"base_model.{name}": tensor for name, tensor in head.items()}
    tensors |= {f"{ENCODER}{name}": tensor for name, tensor in (encoder or {}).items()}
    write_peft(path, config, tensors, _card(prompt, backbone))


def _shallow(prompt: SoftPrompt, backbone: Backbone) -> tuple[dict[str, Any], Tensor]:
    assert prompt.vectors is not None
    if prompt.offset:
        raise ArtifactError(
            f"The prompt moves the text by {prompt.offset} positions, and PEFT cannot. {KEEP}"
        )
    _check_in_front(prompt, backbone)
    if backbone.geometry.two_sided:
        check_words("The exported folder", backbone)
    config = {"peft_type": "PROMPT_TUNING", "token_dim": backbone.geometry.width}
    return config, prompt.vectors


def _check_in_front(prompt: SoftPrompt, backbone: Backbone) -> None:
    """Refuse virtual tokens anywhere but in front of everything, each once."""
    layout = _layout(prompt, backbone)
    fields = Template.parse(prompt.template).fields
    values: dict[str, object] = {n: ["a"] if n == WORDS_FIELD else "a" for n in fields}
    row = layout.render([values])[0].ids
    if isinstance(layout, TwoSided) and layout.decoder.slots:
        raise ArtifactError(
            "The decoder's template has virtual tokens, and PEFT puts them before the encoder's "
            f"row alone. {KEEP}"
        )
    slots = tuple(-1 - slot for slot in range(prompt.slots))
    if row[: prompt.slots] == slots and min(row[prompt.slots :], default=0) >= 0:
        return
    hint = ""
    if row[0] >= 0 and min(row) < 0 and prompt.template.startswith("{soft"):
        opening = backbone.tokenizer.convert_ids_to_tokens(row[0])
        hint = (
            f" Here {opening} stands before them; a template that begins with "
            f"{{soft:{prompt.slots}}}{{bos}} is trained as PEFT has it."
        )
    raise ArtifactError(
        f'template "{prompt.template}": PEFT puts virtual tokens before everything, each once, '
        f"and here they stand elsewhere.{hint} {KEEP}"
    )


def _layout(prompt: SoftPrompt, backbone: Backbone) -> Layout:
    template = Template.parse(prompt.template)
    if prompt.task not in BOUND:
        return template.bind(backbone.tokenizer, max_tokens=backbone.max_tokens)
    settings = {**prompt.settings, "verbalizer": prompt.verbalizer}
    options = TaskOptions.of(settings, labels=prompt.labels, offset=prompt.offset)
    return make_task(prompt.task, template, backbone, options).layout


def _deep(prompt: SoftPrompt, backbone: Backbone) -> tuple[dict[str, Any], Tensor]:
    sites = backbone.geometry.sites
    _check_sites(prompt, backbone)
    slots = len(prompt.deep[0].keys)
    deep = prompt.deep
    begins = slots if "position_ids" in backbone.geometry.takes else prompt.offset
    if prompt.offset != begins:
        if not backbone.geometry.relative:
            raise ArtifactError(
                f"With a prefix of PEFT's the text begins at position {slots}, and the prompt was "
                f'trained with the text at {prompt.offset}. "{backbone.name}" has learned '
                f"positions, so its answers would change. {KEEP}"
            )
        deep = moved(deep, begins - prompt.offset, backbone)
    warn_of_windows("The exported folder", backbone, "PEFT")
    parts = [part.float() for site in range(len(sites)) for part in deep[site]]
    shape = sites[0].shape
    config = {
        "peft_type": "PREFIX_TUNING",
        "prefix_projection": False,
        "num_layers": len(sites),
        "num_attention_heads": shape.kv_heads,
        "token_dim": shape.kv_heads * shape.key_dim,
    }
    return config, torch.stack(parts, dim=1).flatten(1)


def _deep_two_sided(prompt: SoftPrompt, backbone: Backbone) -> tuple[dict[str, Any], Tensor]:
    sites = decoder_sites(backbone)
    slots = {len(keys) for keys, _ in prompt.deep.values()}
    reason = ""
    if sorted(prompt.deep) != sites:
        reason = (
            f"it stands at the attention sites {', '.join(map(str, sorted(prompt.deep)))}, and "
            "PEFT's prefixes of an encoder-decoder stand in the self-attention of the decoder, "
            f"{', '.join(map(str, sites))}"
        )
    elif len(slots) > 1:
        reason = "its sites have prompts of different lengths, and PEFT's are of one"
    elif slots != {prompt.offset}:
        reason = (
            f"with a prefix of PEFT's the decoder's text begins at position {max(slots)}, and the "
            f"prompt was trained with it at {prompt.offset}, so its answers would change"
        )
    if reason:
        raise ArtifactError(f"The deep prompt cannot be said in PEFT: {reason}. {KEEP}")
    layers, table = from_decoder(dict(prompt.deep), backbone)
    shape = backbone.geometry.sites[sites[0]].shape
    config = {
        "peft_type": "PREFIX_TUNING",
        "prefix_projection": False,
        "num_layers": layers,
        "num_attention_heads": shape.kv_heads,
        "token_dim": shape.kv_heads * shape.key_dim,
    }
    return config, table


def _check_sites(prompt: SoftPrompt, backbone: Backbone) -> None:
    """Refuse what a cache of keys and values cannot hold."""
    sites = backbone.geometry.sites
    shapes = {site.shape for site in sites}
    takes = inspect.signature(backbone.body.forward).parameters
    reason = ""
    if sorted(prompt.deep) != list(range(len(sites))):
        reason = (
            f"it stands at the attention sites {', '.join(map(str, sorted(prompt.deep)))} of "
            f"{len(sites)}, and PEFT's prefixes stand at all"
        )
    elif len({len(keys) for keys, _ in prompt.deep.values()}) > 1:
        reason = "its sites have prompts of different lengths, and PEFT's are of one"
    elif len(shapes) > 1 or any(shape.key_dim != shape.value_dim for shape in shapes):
        reason = "the keys and values of this backbone are not all of one shape"
    elif not takes.keys() & set(CACHE_NAMES) or len({site.name for site in sites}) < len(sites):
        reason = "this backbone takes no cache, in which PEFT hands a prefix over"
    if reason:
        raise ArtifactError(f"The deep prompt cannot be said in PEFT: {reason}. {KEEP}")


def _head(prompt: SoftPrompt, backbone: Backbone) -> dict[str, Tensor]:
    if not prompt.head:
        return {}
    form = prompt.settings.get("head_form", "normalized")
    if form == "normalized":
        raise ArtifactError(
            "The prompt's head normalises the states first, which no class of transformers does. "
            f"{KEEP} Or train it with head_form: plain (decoders) or tanh."
        )
    head = Head(form, dict(prompt.head))
    if prompt.task == "sequence-classification":
        pooling = str(prompt.settings.get("pooling", "auto"))
        pooling = backbone.pooling if pooling == "auto" else pooling
        return head_to(head, pooling, prompt.vectors is not None, backbone)
    if form != "plain":
        raise ArtifactError(
            f"The prompt's head has the form {form}, and transformers' classes for {prompt.task} "
            f"have a plain one. {KEEP} Or train it with head_form: plain."
        )
    own = own_head(backbone.model.config, len(head.tensors["linear.weight"]), prompt.task)
    if own is None or own.others or not isinstance(own.module, torch.nn.Linear):
        raise ArtifactError(
            f'"{backbone.name}" has no class with a plain head for {prompt.task}. {KEEP}'
        )
    return {name.replace("linear", own.name): tensor for name, tensor in head.tensors.items()}


def _card(prompt: SoftPrompt, backbone: Backbone) -> str:
    text = prompt.template.partition("{bos}")[2] or Template.parse(prompt.template).source
    return (
        f"---\nlibrary_name: peft\nbase_model: {backbone.name}\n---\n\n"
        f"A soft prompt for `{backbone.name}`, exported by ptune. Rows are written as\n\n"
        f"```\n{text}\n```\n\nin ptune's template language; "
        f"labels: {', '.join(_said(label, prompt) for label in prompt.labels) or 'none'}.\n"
    )


def _said(label: str, prompt: SoftPrompt) -> str:
    words = ", ".join(prompt.verbalizer.get(label, ()))
    return f"{label} (said as {words})" if words else label
