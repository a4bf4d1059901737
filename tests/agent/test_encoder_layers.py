"""The layers of encoders are found in the models of transformers, and nothing is taken for layers that is not."""

import pytest
from transformers import AutoConfig, AutoModel

from agent.encoder_layers import find_layers

SMALL = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}
DISTIL = {"vocab_size": 20, "dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 16}


@pytest.mark.parametrize(
    ("family", "options", "name"),
    [
        ("bert", SMALL, "encoder.layer"),
        ("roberta", SMALL, "encoder.layer"),
        ("electra", SMALL | {"embedding_size": 16}, "encoder.layer"),
        ("distilbert", DISTIL, "transformer.layer"),
        ("modernbert", SMALL | {"pad_token_id": 0}, "layers"),
    ],
)
def test_the_list_of_layers_is_found_with_its_name(family, options, name):
    model = AutoModel.from_config(AutoConfig.for_model(family, **options))
    found, layers = find_layers(model)
    assert (found, len(layers)) == (name, 3)
    assert model.get_submodule(name) is layers


def test_layers_that_share_their_weights_are_no_list_of_layers():
    options = SMALL | {"embedding_size": 16}
    assert find_layers(AutoModel.from_config(AutoConfig.for_model("albert", **options))) is None
