r"""Templates of probing, made to fit a masked or a causal language model.

    shape 3,3,3, subject first  {soft:3} {subject}{soft:3} {mask}{soft:3}        the paper
                 mask first     {soft:3} {mask}{soft:3} {subject}{soft:3}        its code
    manual                      [X] was born in [Y] .                            LAMA's
    any text                    {soft:4}{subject} : {mask}

Source: P-tuning (arXiv:2103.10385, and LAMA/p_tuning/modeling.py of its code). The code puts the
mask before the subject, the paper behind it; its authors say that this makes no difference (issues
40 and 46 of THUDM/P-tuning). Where the shape ends in 0, the code writes a full stop in its place.

A causal model says its answer as the next token, so its template ends there: text behind the answer
is dropped, as that code does for GPT-2, and what could be lost by that is refused.

Reads strings; knows no model.
"""

import re
from dataclasses import dataclass
from typing import Literal

from ptune.errors import ConfigError, TemplateError
from ptune.parts import Anchor, Field, Label, Mask, Part, Separator, Soft
from ptune.template import Template

Order = Literal["subject-first", "mask-first"]
MANUAL = "manual"
SUBJECT = "subject"
_SHAPE = re.compile(r"\(?\s*(\d{1,4})\s*,\s*(\d{1,4})\s*,\s*(\d{1,4})\s*\)?")


@dataclass(frozen=True, slots=True)
class Wish:
    """The template that is asked for.

    Args:
        text: a shape, "manual", or a template; None is the default of the method.
        order: of mask and subject in a shape.
    """

    text: str | None = None
    order: Order = "subject-first"

    def check(self, *, causal: bool) -> None:
        """Refuse, before anything is trained, what can be in no relation.

        Raises:
            TemplateError, ConfigError: as `template_for`.
        """
        if self.text is not None and self.text != MANUAL:
            fitted(self._written(self.text), causal=causal)
        if causal and self.order == "mask-first":
            raise ConfigError(
                "--mask-first: a causal model says its answer behind the subject. "
                "Leave it out, or take a masked language model."
            )

    def template_for(self, method: str, manual: str | None, *, causal: bool) -> Template:
        """The template of a relation.

        Args:
            method: "manual" trains nothing.
            manual: LAMA's template of the relation, if there is one.
        Raises:
            TemplateError: it has no subject or no mask, or does not fit a causal model.
        """
        text = self.text
        if method == MANUAL and (text is None or "{soft" in text or _SHAPE.fullmatch(text)):
            text = MANUAL
        if text is None:  # a deep prompt needs no virtual tokens in the text
            text = "0,0,0" if method == "p-tuning-v2" else "3,3,0" if causal else "3,3,3"
        if text == MANUAL:
            return fitted(_of_lama(manual), causal=causal)
        return fitted(self._written(text), causal=causal)

    def _written(self, text: str) -> str:
        shape = _SHAPE.fullmatch(text)
        if shape is None:
            return text
        return shaped((int(shape[1]), int(shape[2]), int(shape[3])), self.order)


def shaped(shape: tuple[int, int, int], order: Order) -> str:
    """The template of a shape: how many virtual tokens stand first, between, and last.

    >>> shaped((3, 3, 3), "subject-first")
    '{soft:3} {subject}{soft:3} {mask}{soft:3}'
    >>> shaped((2, 0, 0), "mask-first")
    '{soft:2} {mask} {subject} .'
    """
    first, between, last = (f"{{soft:{count}}}" if count else "" for count in shape)
    fields = ["{subject}", "{mask}"]
    one, two = fields if order == "subject-first" else reversed(fields)
    return f"{first} {one}{between} {two}{last or ' .'}".lstrip()


def fitted(source: str, *, causal: bool) -> Template:
    """Parse a template and let its answer stand as the model says it: `{mask}`, or `{label}` last.

    Raises:
        TemplateError: it has no subject or no mask, or cannot be read by a causal model.

    >>> fitted("{soft:3} {subject} was born in {mask} .", causal=True).source
    '{soft:3} {subject} was born in {label}'
    """
    template = Template.parse(source)
    answers = [at for at, part in enumerate(template.parts) if isinstance(part, Mask | Label)]
    if SUBJECT not in template.fields:
        raise TemplateError(
            f'template "{source}": there is no {{subject}}, so nothing is asked about any fact. '
            'For example: "{soft:3} {subject} was born in {mask} .".'
        )
    if len(answers) != 1 or getattr(template.parts[answers[0]], "count", 1) != 1:
        found = "no place" if not answers else "more than one place"
        raise TemplateError(
            f'template "{source}": there is {found} for the object. Write {{mask}} (or {{label}}) '
            "once: the object is one token."
        )
    at = answers[0]
    before, behind = template.parts[:at], template.parts[at + 1 :]
    if causal:
        _refuse_unseen(source, before, behind)
        return Template.parse("".join(map(str, before)) + "{label}")
    return Template.parse("".join(map(str, before)) + "{mask}" + "".join(map(str, behind)))


def _refuse_unseen(source: str, before: tuple[Part, ...], behind: tuple[Part, ...]) -> None:
    unseen = next((part for part in behind if not isinstance(part, Anchor | Separator)), None)
    if unseen is None:
        return
    advice = "Put it before the answer"
    if isinstance(unseen, Soft):
        advice = "End the shape in 0, as 3,3,0"
    if isinstance(unseen, Field) and any(str(part) == str(unseen) for part in before):
        advice = "Leave it out there"
    raise TemplateError(
        f'template "{source}": a causal model never sees {unseen}, which stands behind the answer. '
        f"{advice}, or take a masked language model."
    )


def _of_lama(text: str | None) -> str:
    """LAMA's template in ptune's language.

    >>> _of_lama("[X] was born in [Y] .")
    '{subject} was born in {mask} .'
    """
    if text is None:
        raise TemplateError(
            "the relation has no manual template. Add it to relations.jsonl, or name that file "
            "with --templates."
        )
    plain = text.replace("{", "{{").replace("}", "}}")
    return plain.replace("[X]", "{subject}").replace("[Y]", "{mask}")
