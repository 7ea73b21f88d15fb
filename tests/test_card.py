import pytest
import yaml

from ptune.card import model_card

DOCUMENT = {
    "template": "{soft:2}Tweet text : {text} Label : {label}",
    "task": "causal-lm",
    "slots": 2,
    "labels": ["no complaint", "complaint"],
    "verbalizer": {"complaint": ["yes", "s|í"]},
    "backbone": "example/tiny",
    "settings": {"method": "p-tuning", "encoder": "lstm"},
    "scores": {"test": {"accuracy": 0.87512, "pearson": None}, "rows": 400},
    "trained_parameters": 1234,
    "license": "cc0-1.0",
}


def card(sites=None, **changes):
    return model_card(DOCUMENT | changes, sites=sites or {}, title="Complaints", source="hub:bob/x")


def front_matter(text):
    _, matter, _ = text.split("---\n", 2)
    return yaml.safe_load(matter)


def test_the_whole_card():
    assert card() == (
        """---
library_name: ptune
base_model: "example/tiny"
license: "cc0-1.0"
tags: ["ptune", "soft-prompt", "causal-lm"]
---

# Complaints

A soft prompt for the task `causal-lm`: 2 virtual tokens, made for the frozen model `example/tiny`.
It changes none of that model's weights and works with no other model; `ptune` checks that when it \
is used.

## Template

    {soft:2}Tweet text : {text} Label : {label}

## Labels

| label | answer words |
| --- | --- |
| no complaint | no complaint |
| complaint | yes, s\\|í |

## Scores

| score | value |
| --- | --- |
| test accuracy | 0.8751 |
| test pearson | undefined |
| rows | 400 |

## Use

```python
import ptune

backbone = ptune.Backbone.load("example/tiny")
prompt = ptune.SoftPrompt.load("hub:bob/x")
rows = [{"text": "..."}]
print(backbone.predict(rows, prompt))
```

## Training

Trained parameters: 1,234 (method p-tuning, encoder lstm).
"""
    )


def test_the_front_matter_is_yaml_that_the_hub_reads():
    assert front_matter(card()) == {
        "library_name": "ptune",
        "base_model": "example/tiny",
        "license": "cc0-1.0",
        "tags": ["ptune", "soft-prompt", "causal-lm"],
    }


@pytest.mark.parametrize("license", [None, ""])
def test_no_license_is_made_up(license):
    assert "license" not in front_matter(card(license=license))
    assert "license" not in card(license=license)


@pytest.mark.parametrize("backbone", ["./tiny", "a/b/c", "two words", "../tiny", ".."])
def test_a_folder_is_no_model_of_the_hub(backbone):
    text = card(backbone=backbone)
    assert "base_model" not in front_matter(text)
    assert f"the frozen model `{backbone}`" in text


@pytest.mark.parametrize("backbone", ["gpt2", "BAAI/bge-m3.v1"])
def test_a_model_of_the_hub_is_linked(backbone):
    assert front_matter(card(backbone=backbone))["base_model"] == backbone


@pytest.mark.parametrize(
    ("slots", "sites", "what"),
    [
        (1, {}, "1 virtual token, made"),
        (0, {5: 1}, "keys and values for 1 position at 1 attention site, made"),
        (
            2,
            {0: 20, 1: 20},
            "2 virtual tokens and keys and values for 20 positions at 2 attention sites, made",
        ),
        (0, {}, "a template alone, made"),
    ],
)
def test_the_card_says_what_was_trained(slots, sites, what):
    assert f"for the task `causal-lm`: {what} for the frozen" in card(sites, slots=slots)


def test_the_example_has_the_columns_of_the_rows():
    settings = DOCUMENT["settings"] | {"columns": {"text": "Tweet text"}}
    assert 'rows = [{"Tweet text": "..."}]' in card(settings=settings)
    settings = DOCUMENT["settings"] | {"reader": "superglue/multirc"}
    assert 'rows = "FILE"' in card(settings=settings)


def test_what_there_is_none_of_has_no_heading():
    text = card(labels=[], scores={}, settings={})
    assert "## Labels" not in text
    assert "## Scores" not in text
    assert text.endswith("\n\nTrained parameters: 1,234.\n")


def test_a_template_cannot_end_its_code_block():
    text = card(template="{premise}\n```\n# Not a heading {hypothesis} {label}")
    assert "    {premise}\n    ```\n    # Not a heading {hypothesis} {label}\n" in text
    assert 'rows = [{"premise": "...", "hypothesis": "..."}]' in text


def test_a_label_cannot_end_its_table_row():
    text = card(labels=["a\n| b", "c\\"], verbalizer={})
    assert "| a \\| b | a \\| b |\n| c\\\\ | c\\\\ |\n" in text


def test_the_embedded_model_is_no_model_of_the_hub():
    assert "base_model" not in card(backbone="ptune-tiny")
    assert 'base_model: "owner/model"' in card(backbone="owner/model")
