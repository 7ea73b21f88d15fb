"""Classification heads of transformers -> ptune's, and back.

    score.weight                                   plain          GPT-2, Llama: no bias
    classifier.weight, .bias                       tanh           BERT: behind the body's own pooler
    classifier.dense.*, classifier.out_proj.*      tanh or gelu   RoBERTa; ELECTRA

Which function bends the states is not told by a model's name but found by running the model's own
module. The body's pooler is frozen and travels with the head: without it the head means nothing.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ptune import loading
from ptune.backbone import Backbone
from ptune.errors import ArtifactError
from ptune.heads import BENDS, HeadForm

# Two functions of states are the same where they agree so well on random ones.
TOLERANCE = 1e-5


class Head(NamedTuple):
    """A head as ptune has it: its form, and tensors of `ptune.heads.ClassificationHead`."""

    form: HeadForm
    tensors: dict[str, Tensor]


class Dense(NamedTuple):
    """A bent linear map, `f(U s + u)`."""

    form: HeadForm
    weight: Float[Tensor, "hidden hidden"]
    bias: Float[Tensor, " hidden"]


ROWS = "sequence-classification"


def head_from(name: str, tensors: Mapping[str, Tensor], backbone: Backbone, task: str) -> Head:
    """Read a head.

    Args:
        name: for messages.
        tensors: named from the head's module on, as "classifier.weight".
        backbone: whose pooler stands before a plain classifier of whole rows.
        task: what the head is for.
    Raises:
        ArtifactError: there is none, or it cannot be the same in ptune.
    """
    module = next((one for one in ("score", "classifier", "qa_outputs") if _has(tensors, one)), "")
    own = {
        n.removeprefix(f"{module}."): t for n, t in tensors.items() if n.startswith(f"{module}.")
    }
    if not module:
        raise ArtifactError(
            f"{name}: has no trained head (classifier, score or qa_outputs), which its task needs. "
            "Save it again with modules_to_save."
        )
    _refuse_others(name, module, len(list(own.values())[-1]), backbone, task)
    if own.keys() <= {"weight", "bias"}:
        dense = pooler_of(name, backbone) if task == ROWS and module == "classifier" else None
        return _head(dense, own["weight"], own.get("bias"))
    if own.keys() == {"dense.weight", "dense.bias", "out_proj.weight", "out_proj.bias"}:
        form = _form_of_native(name, own, backbone)
        return _head(
            Dense(form, own["dense.weight"], own["dense.bias"]),
            own["out_proj.weight"],
            own["out_proj.bias"],
        )
    raise ArtifactError(
        f"{name}: its head has the tensors {', '.join(sorted(own))}, a form that ptune does not "
        "know. Import it without its head by another task, or train again."
    )


def _refuse_others(name: str, module: str, outputs: int, backbone: Backbone, task: str) -> None:
    """Refuse a class that has more weights than body and head: they were drawn and not saved."""
    found = loading.own_head(backbone.model.config, outputs, task)
    if found is not None and found.others:
        raise ArtifactError(
            f'{name}: the class of "{backbone.name}" has {", ".join(found.others)} before its '
            f"{module}, whose weights are not in the file, so its answers cannot be computed "
            "again. Train the head again."
        )


def _has(tensors: Mapping[str, Tensor], module: str) -> bool:
    return any(name.startswith(f"{module}.") for name in tensors)


def _head(dense: Dense | None, weight: Tensor, bias: Tensor | None) -> Head:
    bias = torch.zeros(len(weight)) if bias is None else bias
    tensors = {"linear.weight": weight, "linear.bias": bias}
    if dense is None:
        return Head("plain", tensors)
    return Head(dense.form, tensors | {"dense.weight": dense.weight, "dense.bias": dense.bias})


@torch.no_grad()
def pooler_of(name: str, backbone: Backbone) -> Dense:
    """The body's pooler as one bent linear map.

    Raises:
        ArtifactError: the body has none, or another kind.
    """
    body = backbone.body
    if getattr(body, "pooler", None) is None:
        found = loading.body_with_pooler(backbone.name)
        if found is None:
            raise ArtifactError(
                f'{name}: its classifier stands behind a pooler, and "{backbone.name}" has no '
                "trained one: what the classifier learned from was drawn at random and not saved. "
                "Train the head again."
            )
        body = found
    linear = [m for m in body.pooler.modules() if isinstance(m, nn.Linear)]
    output = body(input_ids=torch.arange(1, 6, device=backbone.device)[None])
    pooled = getattr(output, "pooler_output", None)
    if len(linear) == 1 and pooled is not None:
        state = output.last_hidden_state[:, 0]
        form = _form(lambda bend: bend(linear[0](state)), pooled)
        if form is not None:
            return Dense(form, linear[0].weight.float().cpu(), linear[0].bias.float().cpu())
    raise ArtifactError(
        f'{name}: the pooler of "{backbone.name}" is of a kind that ptune does not know, '
        "so its answers could not be the same. Train the head again."
    )


def _form(made: Callable[[Any], Tensor], wanted: Tensor) -> HeadForm | None:
    """Which bend makes the wanted numbers."""
    forms: tuple[HeadForm, ...] = ("tanh", "gelu")
    for form in forms:
        if torch.allclose(made(BENDS[form]), wanted, atol=TOLERANCE, rtol=TOLERANCE):
            return form
    return None


@torch.no_grad()
def _form_of_native(name: str, own: Mapping[str, Tensor], backbone: Backbone) -> HeadForm:
    found = loading.own_head(backbone.model.config, len(own["out_proj.weight"]), ROWS)
    if found is not None:
        module = found.module
        module.to_empty(device="cpu").load_state_dict(dict(own))
        states = torch.randn(4, 1, own["dense.weight"].shape[1])
        wanted = module.eval().float()(states)
        form = _form(
            lambda bend: (
                bend(states[:, 0] @ own["dense.weight"].T + own["dense.bias"])
                @ own["out_proj.weight"].T
                + own["out_proj.bias"]
            ),
            wanted,
        )
        if form is not None:
            return form
    raise ArtifactError(
        f'{name}: the classification head of "{backbone.name}" is of a kind that ptune does not '
        "know, so its answers could not be the same. Train the head again."
    )


def head_to(head: Head, pooling: str, shallow: bool, backbone: Backbone) -> dict[str, Tensor]:
    """Write a head under the names of the model's own class.

    Args:
        pooling: which states the head sees.
        shallow: the prompt's vectors stand before the text.
    Returns:
        Tensors named from the head's module on.
    Raises:
        ArtifactError: that class computes something else.
    """
    weight, bias = head.tensors["linear.weight"], head.tensors["linear.bias"]
    found = loading.own_head(backbone.model.config, len(weight), ROWS)
    if found is None:
        raise ArtifactError(_cannot(backbone, "transformers has no class of it for that"))
    if found.others:
        reason = f"its class has {', '.join(found.others)} before the head, which PEFT cannot keep"
        raise ArtifactError(_cannot(backbone, reason))
    name, module = found.name, found.module
    read = "last" if backbone.geometry.causal else "virtual" if shallow else "first"
    if pooling != read:
        raise ArtifactError(
            _cannot(backbone, f"PEFT pools {read} there, and the prompt's head {pooling}")
        )
    if isinstance(module, nn.Linear):
        return _linear_to(name, module, head, backbone)
    names = {"dense.weight", "dense.bias", "out_proj.weight", "out_proj.bias"}
    if module.state_dict().keys() != names or head.form not in BENDS:
        raise ArtifactError(_cannot(backbone, f"its head has another form than {head.form}"))
    own = {
        "dense.weight": head.tensors["dense.weight"],
        "dense.bias": head.tensors["dense.bias"],
        "out_proj.weight": weight,
        "out_proj.bias": bias,
    }
    if _form_of_native("the prompt", own, backbone) != head.form:
        raise ArtifactError(_cannot(backbone, f"its head has another form than {head.form}"))
    return {f"{name}.{key}": tensor for key, tensor in own.items()}


def _linear_to(name: str, module: nn.Linear, head: Head, backbone: Backbone) -> dict[str, Tensor]:
    weight, bias = head.tensors["linear.weight"], head.tensors["linear.bias"]
    if name == "score":
        if head.form != "plain":
            raise ArtifactError(_cannot(backbone, f"its head is plain, the prompt's {head.form}"))
        if module.bias is None and bias.count_nonzero():
            raise ArtifactError(_cannot(backbone, "its head has no bias, and the prompt's has one"))
        return {"score.weight": weight} | ({} if module.bias is None else {"score.bias": bias})
    pooler = pooler_of("the prompt", backbone)
    same = head.form == pooler.form and all(
        torch.equal(head.tensors[f"dense.{key}"].float(), getattr(pooler, key))
        for key in ("weight", "bias")
    )
    if not same:
        raise ArtifactError(
            _cannot(
                backbone,
                "its classifier stands behind the model's own frozen pooler, and the prompt's "
                "head does not",
            )
        )
    return {f"{name}.weight": weight, f"{name}.bias": bias}


def _cannot(backbone: Backbone, reason: str) -> str:
    return (
        f'The trained head cannot be said in PEFT on "{backbone.name}": {reason}. Keep the prompt '
        "in ptune; or train it with a head_form and a pooling that the model's class has."
    )
