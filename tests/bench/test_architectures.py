"""The families of docs/architectures.md: the quick ones here, all by the script itself."""

import pytest

# One of every kind: own interface, window, soft-cap, sinks, latent keys, ids read twice, stand-ins,
# state spaces, hybrids, both ways.
QUICK = (
    "gpt2",
    "gemma4 (text)",
    "gpt_oss (window)",
    "deepseek_v3 (MLA)",
    "falcon (new, grouped)",
    "mpt",
    "mamba",
    "lfm2 (hybrid)",
    "deberta-v2",
    "mpnet",
    "mt5",
    "pegasus",
)


@pytest.mark.parametrize("name", QUICK)
def test_nothing_is_broken_in_a_family(name):
    import architectures

    found = architectures.of_ptune(name)
    assert found["broken"] == []
    assert [one["outcome"] for one in found["findings"][:2]] == ["holds", "holds"]


@pytest.mark.parametrize(
    ("name", "method", "said"),
    [
        ("bert", "PREFIX_TUNING", "right"),
        ("llama", "PROMPT_TUNING", "left-padded row differs by"),
        ("mistral (window)", "PREFIX_TUNING", "positions do not see the prompt"),
        ("mpt", "PROMPT_TUNING", "fails: ValueError: Please specify `num_attention_heads`"),
        ("mt5", "PREFIX_TUNING", "fails: RuntimeError: Sizes of tensors must match"),
        ("bart", "PROMPT_TUNING", "no gradient in part"),
    ],
)
def test_what_the_peer_does_is_said_in_a_few_words(name, method, said):
    import architectures

    pytest.importorskip("peft")
    assert said in architectures.of_peft(name, method)


def test_the_table_has_a_row_a_family_with_the_last_result():
    import architectures

    def line(outcome):
        findings = [
            {"truth": "no prompt", "outcome": "holds"},
            {"truth": "shallow prompts", "outcome": outcome},
            {"truth": "deep prompts", "outcome": "refused"},
            {"truth": "generate", "outcome": "not examined"},
        ]
        return {
            "family": "gpt2",
            "date": "2020-01-01",
            "ptune": {"sites": [{"sites": [0, 1]}], "layers": 3, "batches": "packed: no padding",
                      "findings": findings},
            "peft": {"PROMPT_TUNING": "right", "PREFIX_TUNING": "fails: TypeError: no"},
            "machine": {"ptune": "1", "peft": "2", "transformers": "3"},
        }  # fmt: skip

    table = architectures.table([line("holds"), line("broken")])
    assert "| gpt2 | 2 of 3, packed | **broken** | refused |  |  |  |  | right | fails:" in table
    assert "1 families, tiny random models in float32; 2020-01-01; ptune 1, peft 2" in table
