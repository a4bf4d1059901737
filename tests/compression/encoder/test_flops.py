"""Operations of a network are counted whatever its family gives to its modules."""

import pytest
from transformers import AutoConfig, AutoModelForTokenClassification

from compression.encoder.flops import flops_per_token

HIDDEN, INNER, LAYERS, TOKENS, LABELS = 32, 64, 2, 64, 2
SHAPE = {
    "vocab_size": 60, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "intermediate_size": INNER, "max_position_embeddings": 64,
}  # fmt: skip
RELATIVE = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
}


def counted(family, **shape):
    model = AutoModelForTokenClassification.from_config(
        AutoConfig.for_model(family, **SHAPE, **shape), attn_implementation="eager"
    ).eval()
    found = flops_per_token(model, TOKENS)
    assert all(parameter.requires_grad for parameter in model.parameters())
    return found


def test_every_matrix_product_counts():
    layer = 4 * HIDDEN * HIDDEN + 2 * HIDDEN * INNER + 2 * TOKENS * HIDDEN
    assert counted("bert") == 2 * (LAYERS * layer + HIDDEN * LABELS)


@pytest.mark.parametrize("more", [{}, {"conv_kernel_size": 3}])
def test_a_model_that_gives_a_parameter_to_its_layers_is_counted(more):
    """DeBERTa-v3's table of relative positions."""
    assert counted("deberta-v2", **RELATIVE, **more) > counted("deberta-v2")
