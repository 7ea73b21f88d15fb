"""Models of a known shape with random weights, and measured processes that carry them.

    random_model(bert({"layers": 12, "hidden": 768, "vocabulary": 30_522}), "float32")
    measure(recipe, worker=worker({"kind": "bert", "layers": 12, ...}, threads=2))

What a step costs depends on shapes, not on what the weights have learned. The tokenizer is
ptune-tiny's, whose ids are below the size of every vocabulary here, unless a shape names another.
"""

import copy
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from ptune.bench.measure import Worker
from ptune.bench.process import Line

SEED = 0
HEAD_WIDTH = 64


def worker(shape: Mapping[str, Any], *, threads: int) -> Worker:
    """Starts `ptune.bench` sides on a random model.

    Args:
        shape: kind (a name in `KINDS`), layers, hidden, vocabulary; where they are not float32,
            cpu and ptune-tiny, also dtype, device and tokenizer (a folder).
    """
    return Worker(
        command=(sys.executable, __file__),
        more={"shape": dict(shape)},
        threads=threads,
        environment={"HF_HUB_OFFLINE": "1"},
    )


def bloom(shape: Mapping[str, Any]) -> tuple[Any, Any]:
    """BLOOM's: as 560m with 24 layers of 1024 and a vocabulary of 250,880."""
    import transformers

    config = transformers.BloomConfig(
        vocab_size=shape["vocabulary"],
        hidden_size=shape["hidden"],
        n_layer=shape["layers"],
        n_head=max(1, shape["hidden"] // HEAD_WIDTH),
    )
    return transformers.AutoModelForCausalLM, config


def bert(shape: Mapping[str, Any]) -> tuple[Any, Any]:
    """BERT's, without a head: base has 12 layers of 768 and a vocabulary of 30,522."""
    import transformers

    config = transformers.BertConfig(
        vocab_size=shape["vocabulary"],
        hidden_size=shape["hidden"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=max(1, shape["hidden"] // HEAD_WIDTH),
        intermediate_size=4 * shape["hidden"],
    )
    return transformers.AutoModel, config


def llama(shape: Mapping[str, Any]) -> tuple[Any, Any]:
    """Llama's: rotary positions, gated layers of 2.75 times the width, tied embeddings."""
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=shape["vocabulary"],
        hidden_size=shape["hidden"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=max(1, shape["hidden"] // HEAD_WIDTH),
        intermediate_size=shape["hidden"] * 11 // 4,
        tie_word_embeddings=True,
    )
    return transformers.AutoModelForCausalLM, config


KINDS: Mapping[str, Callable[[Mapping[str, Any]], tuple[Any, Any]]] = {
    "bloom": bloom,
    "bert": bert,
    "llama": llama,
}


def random_model(made: tuple[Any, Any], dtype: str, device: str = "cpu") -> Any:
    """The model, its weights drawn by seed without a moment of more memory than they need.

    A model that is simply made holds a tied head twice until it is tied; the peak would show it.
    """
    import torch

    auto_class, config = made
    with torch.device("meta"):
        model = auto_class.from_config(config, dtype=getattr(torch, dtype))
    model = model.to_empty(device=device)
    model.tie_weights()
    generator = torch.Generator(device).manual_seed(SEED)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.normal_(0.0, config.initializer_range, generator=generator)
            else:
                weight.fill_(1.0 if name.endswith("weight") else 0.0)
    _compute_buffers(model, auto_class, config)
    return model.requires_grad_(False).eval()


def _compute_buffers(model: Any, auto_class: Any, config: Any) -> None:
    """What is computed and not drawn, such as rotary frequencies: as in a small model."""
    small = copy.deepcopy(config)
    small.num_hidden_layers, small.vocab_size = 1, 16
    for name, buffer in auto_class.from_config(small).named_buffers():
        module, _, own = name.rpartition(".")
        setattr(model.get_submodule(module), own, buffer.to(model.device))


def work(job: Line) -> None:
    """Be a measured process: a recipe's side on the model of `job["shape"]`, or the peak."""
    from transformers import AutoTokenizer

    from ptune.backbone import Backbone
    from ptune.bench.process import telling_errors
    from ptune.bench.worker import work_peak, work_side
    from ptune.demo import resolve

    if job["side"] == "peak":
        work_peak(job)
        return
    shape = job["shape"]
    tokenizer = AutoTokenizer.from_pretrained(resolve(shape.get("tokenizer", "ptune-tiny")))
    made = KINDS[shape["kind"]](shape)
    model = random_model(made, shape.get("dtype", "float32"), shape.get("device", "cpu"))
    with telling_errors():
        work_side(job, Backbone(model, tokenizer, f"{shape['kind']}'s shape"))


if __name__ == "__main__":
    work(json.loads(sys.argv[1]))
