import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ptune.errors import ConfigError
from ptune.nearest import nearest_tokens


@given(st.integers(0, 2**31), st.integers(1, 7), st.integers(1, 40))
def test_nearest_tokens_are_those_of_the_plain_formula(seed, k, rows_at_once):
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(30, 4, generator=generator)
    vectors = torch.randn(3, 4, generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ptune.nearest.ROWS_AT_ONCE", rows_at_once)
        found = nearest_tokens(vectors, table, k)
    for vector, nearest in zip(vectors, found, strict=True):
        cosines = [float(vector @ row / (vector.norm() * row.norm())) for row in table]
        expected = sorted(range(30), key=lambda token: -cosines[token])[:k]
        assert [token for token, _ in nearest] == expected
        assert [c for _, c in nearest] == pytest.approx([cosines[t] for t in expected], abs=1e-5)


def test_a_half_precision_table_is_compared_in_full_precision():
    table = torch.randn(50, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    ((best, _),) = nearest_tokens(table[7:8].float(), table, k=2)
    assert best == (7, pytest.approx(1.0, abs=1e-6))


def test_k_beyond_the_table_gives_all_and_zero_vectors_have_cosine_zero():
    table = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    assert nearest_tokens(torch.tensor([[2.0, 0.0]]), table, k=9) == [[(1, 1.0), (0, 0.0)]]


def test_nearest_tokens_refuse_what_cannot_be_compared():
    with pytest.raises(ConfigError) as error:
        nearest_tokens(torch.ones(1, 2), torch.ones(1, 2), k=0)
    assert str(error.value) == "k = 0: ask for at least 1 token."
    unchecked = getattr(nearest_tokens, "__wrapped__", nearest_tokens)  # as in production
    with pytest.raises(ConfigError) as error:
        unchecked(torch.ones(1, 2), torch.ones(1, 3), k=1)
    assert str(error.value) == (
        "The prompt's vectors have 2 numbers and the tokens 3. "
        "Give the embeddings of the backbone that the prompt was made for."
    )
