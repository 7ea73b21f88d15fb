"""Rules about the prompt, the backbone and the training."""

from ptune.config.rules.asked import (
    FROZEN,
    ONLY_DEEP,
    Rule,
    above_the_first,
    encoder_of,
    head,
    no_validation,
    not_deep,
)
from ptune.config.rules.known import BATCH_SIZE, VALIDATION_SHARE

RULES: tuple[Rule, ...] = (
    # prompt
    (
        lambda v: not_deep(v) and v["projection"] is not None,
        f"projection = {{projection}} {ONLY_DEEP}",
    ),
    (lambda v: not_deep(v) and v["layers"] is not None, f"layers = {{layers}} {ONLY_DEEP}"),
    (
        lambda v: not_deep(v) and v["prefix_dropout"] > 0,
        f"prefix_dropout = {{prefix_dropout}} {ONLY_DEEP}",
    ),
    (
        lambda v: (
            v["encoder_hidden"] is not None
            and (v["method"] == "p-tuning-v2" or encoder_of(v) == "embedding")
        ),
        (
            "encoder_hidden = {encoder_hidden} has nothing to set: the prompt of this recipe is a "
            "table. Choose encoder: lstm, mlp or residual, or leave encoder_hidden out."
        ),
    ),
    (
        lambda v: v["encoder_dropout"] > 0 and encoder_of(v) != "lstm",
        (
            "encoder_dropout = {encoder_dropout} goes with encoder = lstm only. "
            "Choose method: p-tuning with encoder: lstm, or leave encoder_dropout out."
        ),
    ),
    (
        lambda v: v["init"] == "text" and v["init_text"] is None,
        "init = text needs init_text, the text to start from.",
    ),
    (
        lambda v: v["init_text"] is not None and v["init"] not in ("auto", "text"),
        (
            "init_text goes with init = text only; init is {init}. Set init: text, or leave "
            "init_text out."
        ),
    ),
    (
        lambda v: not_deep(v) and v["sites"] is not None,
        f"sites = {{sites}} {ONLY_DEEP}",
    ),
    (
        lambda v: v["sites"] is not None and v["layers"] is not None,
        "sites = {sites} and layers = {layers} both choose attention sites. Keep one.",
    ),
    # backbone
    (
        lambda v: v["device_map"] is not None and v["device"] != "auto",
        (
            "device = {device} does not go with device_map, which says where every weight goes. "
            "Leave device out."
        ),
    ),
    (
        lambda v: v["device_map"] is not None and v["quantization"] is not None,
        (
            "quantization = {quantization} does not go with device_map: the layers are made int8 "
            "in memory. Leave one of the two out."
        ),
    ),
    (
        lambda v: v["device_map"] is None and v["offload_folder"] is not None,
        (
            "offload_folder = {offload_folder} goes with device_map only. Set device_map, or leave "
            "offload_folder out."
        ),
    ),
    (
        lambda v: v["device_map"] is not None and v["compile"],
        (
            "compile does not go with device_map, whose weights come and go while a layer runs. "
            "Leave one of the two out."
        ),
    ),
    # training
    (
        lambda v: v["tokens_per_batch"] is not None and v["batch_size"] != BATCH_SIZE,
        (
            "batch_size = {batch_size} and tokens_per_batch = {tokens_per_batch} both say how "
            "large a batch is. Keep one."
        ),
    ),
    (
        lambda v: v["epoch_decay"] is not None and v["schedule"] != "exponential",
        (
            "epoch_decay = {epoch_decay} goes with schedule = exponential only; schedule is "
            "{schedule}. Set schedule: exponential, or epoch_decay: null."
        ),
    ),
    (
        lambda v: (
            v["validation"] is not None and v["validation_share"] not in (0, VALIDATION_SHARE)
        ),
        (
            "validation_share = {validation_share} holds rows of train out, and validation = "
            "{validation} gives others. Keep one."
        ),
    ),
    (
        lambda v: no_validation(v) and v["patience"] is not None,
        "patience = {patience} needs validation rows. Give validation or validation_share.",
    ),
    (
        lambda v: no_validation(v) and v["protocol"] == "paper",
        (
            "protocol = paper reports the best score on validation rows, and there are none. Give "
            "validation or validation_share."
        ),
    ),
    (
        lambda v: v["test"] is not None and v["protocol"] == "paper",
        (
            "protocol = paper reports the best score on the validation rows; test = {test} would "
            "be a second report. Leave test out, or set protocol: strict."
        ),
    ),
    *(
        (
            lambda v, key=key: head(v) and v[key] == "perplexity",
            f"{key} = perplexity goes with tasks that answer in words; task is {{task}}.",
        )
        for key in ("metric", "second_metric")
    ),
    (
        lambda v: v["second_metric"] is not None and no_validation(v),
        (
            "second_metric = {second_metric} needs validation rows. Give validation or "
            "validation_share."
        ),
    ),
    (
        lambda v: v["second_metric"] is not None and v["second_metric"] == v["metric"],
        "second_metric = {second_metric} is metric itself. Leave it out, or choose another score.",
    ),
    (
        lambda v: v["trunk_cache"] not in ("auto", "off") and not above_the_first(v),
        (
            "trunk_cache = {trunk_cache} has nothing to keep: no layer lies beneath the prompt. "
            "Choose method: p-tuning-v2 with layers above the first (layers: upper:4), or leave "
            "trunk_cache out."
        ),
    ),
    (
        lambda v: not head(v) and v["head_lr"] is not None,
        "head_lr = {head_lr} has nothing to train: task = {task} has no head. Leave head_lr out.",
    ),
    (
        lambda v: not v["train_backbone"] and v["backbone_lr"] is not None,
        f"backbone_lr = {{backbone_lr}} {FROZEN}",
    ),
    (
        lambda v: not v["train_backbone"] and v["backbone_weight_decay"] > 0,
        f"backbone_weight_decay = {{backbone_weight_decay}} {FROZEN}",
    ),
    (
        lambda v: v["train_backbone"] and v["quantization"] is not None,
        (
            "quantization = {quantization} does not go with train_backbone: int8 weights cannot "
            "be trained. Leave one of the two out."
        ),
    ),
    (
        lambda v: v["train_backbone"] and v["device_map"] is not None,
        (
            "device_map does not go with train_backbone, which needs all weights on one device. "
            "Leave one of the two out."
        ),
    ),
    (
        lambda v: v["train_backbone"] and v["compile"],
        "compile does not go with train_backbone. Leave one of the two out.",
    ),
    (
        lambda v: v["train_backbone"] and v["trunk_cache"] not in ("auto", "off"),
        (
            "trunk_cache = {trunk_cache} does not go with train_backbone: what its layers compute "
            "changes with every step. Leave trunk_cache out."
        ),
    ),
    (
        lambda v: v["backbone_dropout"] and v["trunk_cache"] not in ("auto", "off"),
        (
            "trunk_cache = {trunk_cache} does not go with backbone_dropout: what its layers "
            "compute is drawn anew at every step. Leave one of the two out."
        ),
    ),
    (
        lambda v: no_validation(v) and v["keep"] != "better",
        "keep = {keep} needs validation rows. Give validation or validation_share.",
    ),
)
