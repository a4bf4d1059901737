from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import transformers

from agent.errors import ConfigError
from training.model import attention
from training.model.attention import choose_attention, run_packed

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SIZES = {
    "vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
    "intermediate_size": 32, "max_position_embeddings": 40, "pad_token_id": 0, "num_labels": 5, "embedding_size": 24,
    "dim": 24, "n_layers": 2, "n_heads": 4, "hidden_dim": 32, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_inner": 32,
    "true_hidden_size": 24, "intra_bottleneck_size": 24, "eos_token_id": 2, "bos_token_id": 2, "sep_token_id": 2, "cls_token_id": 2,
    "d_model": 24, "d_kv": 6, "d_ff": 32, "num_layers": 2, "num_heads": 4,
}  # fmt: skip
PACKABLE = sorted(attention._POSITIONS_FROM_ZERO)


def tiny(kind, **changes):
    """A random tagger of a family; it drops nothing until `train()` is called."""
    defaults = transformers.AutoConfig.for_model(kind)
    config = transformers.AutoConfig.for_model(
        kind, **{name: size for name, size in SIZES.items() if hasattr(defaults, name)} | changes
    )
    torch.manual_seed(0)
    return transformers.AutoModelForTokenClassification.from_config(config).eval()


def batch(lengths):
    """Random tokens, padded on the right."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor(lengths)
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    return {"input_ids": torch.randint(3, 60, mask.shape, generator=generator) * mask, "attention_mask": mask}


def logits_and_gradients(model, inputs, *, packed=False):
    """Logits at real tokens, and gradients of a loss over them."""
    model.zero_grad()

    def forward(**given):
        return model(**given).logits

    logits = run_packed(forward, inputs) if packed else forward(**inputs)
    real = logits[inputs["attention_mask"].bool()]
    generator = torch.Generator().manual_seed(2)
    (real * torch.randn(real.shape, generator=generator)).sum().backward()
    return real.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(one, other, tolerance=1e-5):
    torch.testing.assert_close(one[0], other[0], rtol=tolerance, atol=tolerance)
    assert one[1].keys() == other[1].keys()
    for name in one[1]:
        scale = float(one[1][name].abs().max().clamp(min=1))
        torch.testing.assert_close(
            one[1][name] / scale, other[1][name] / scale, rtol=tolerance, atol=tolerance, msg=name
        )


def choose(model, wanted, device=CPU, *, half=False, per_token=True):
    return choose_attention(model, wanted, device=device, half=half, per_token=per_token)


@pytest.mark.parametrize("lengths", [(9, 9, 9), (9, 5, 3), (12, 1)])
@pytest.mark.parametrize("kind", sorted(attention._CPU_FAMILIES))
def test_cpu_attention_equals_sdpa_for_every_family_that_auto_gives_it_to(kind, lengths):
    model, inputs = tiny(kind), batch(lengths)
    assert choose(model, "sdpa").name == "sdpa"
    wanted = logits_and_gradients(model, inputs)
    assert choose(model, "auto").name == "cpu"
    assert model.config._attn_implementation == attention._CPU
    assert_same(wanted, logits_and_gradients(model, inputs))


def test_cpu_attention_drops_weights_in_training_only():
    model, inputs = tiny("bert", attention_probs_dropout_prob=0.5, hidden_dropout_prob=0.0), batch((9, 5))
    wanted = model(**inputs).logits
    choose(model, "cpu")
    torch.testing.assert_close(model(**inputs).logits, wanted, rtol=1e-5, atol=1e-5)
    torch.manual_seed(3)
    dropped = model.train()(**inputs).logits
    assert not torch.allclose(dropped, wanted, rtol=1e-4, atol=1e-5)
    torch.manual_seed(3)
    assert model(**inputs).logits.equal(dropped)


def test_cpu_attention_holds_a_row_of_padding_alone():
    model = tiny("bert")
    choose(model, "cpu")
    logits = model(
        input_ids=torch.zeros(1, 1, dtype=torch.long), attention_mask=torch.zeros(1, 1, dtype=torch.long)
    ).logits
    assert logits.isfinite().all()


@pytest.mark.parametrize("lengths", [(9, 9), (9, 5, 3), (1, 12), (7,)])
@pytest.mark.parametrize("kind", PACKABLE)
def test_packed_rows_give_what_padded_rows_give(kind, lengths):
    model, inputs = tiny(kind), batch(lengths)
    choose(model, "sdpa")
    wanted = logits_and_gradients(model, inputs)
    assert attention._set_implementation(model, attention._VARLEN) == ""
    assert_same(wanted, logits_and_gradients(model, inputs, packed=True))


def test_packed_logits_are_zero_at_padding_and_token_types_are_packed_too():
    model, inputs = tiny("bert"), batch((6, 2))
    inputs["token_type_ids"] = (torch.arange(6) > 2).long().expand(2, 6) * inputs["attention_mask"]
    choose(model, "sdpa")
    wanted = logits_and_gradients(model, inputs)
    attention._set_implementation(model, attention._VARLEN)
    assert_same(wanted, logits_and_gradients(model, inputs, packed=True))
    logits = run_packed(lambda **given: model(**given).logits, inputs)
    assert logits.shape == (2, 6, 5)
    assert not logits[1, 2:].any()


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "t5"])
def test_auto_leaves_models_alone_that_need_more_than_plain_products(kind):
    """A causal mask or a bias by position would be lost, and nobody would see it."""
    model, inputs = tiny(kind), batch((9, 9, 9))
    wanted = logits_and_gradients(model, inputs)
    chosen = choose(model, "auto")
    assert chosen.name == model.config._attn_implementation == "sdpa"
    assert kind in chosen.reason
    assert_same(wanted, logits_and_gradients(model, inputs))
    with pytest.raises(ConfigError, match=rf"engine\.attention=cpu, but {kind} models"):
        choose(model, "cpu")


def test_a_bert_that_is_a_decoder_keeps_its_mask():
    model = tiny("bert", is_decoder=True)
    assert choose(model, "auto").name == "sdpa"


def test_a_model_that_takes_no_other_attention_keeps_its_own_and_says_so():
    model = tiny("deberta-v2")
    chosen = choose(model, "auto")
    assert (chosen.name, chosen.packed) == ("eager", False)
    assert "this model's own" in chosen.reason
    with pytest.raises(
        ConfigError, match=r"engine\.attention=sdpa, but deberta-v2 models take no other attention"
    ) as caught:
        choose(model, "sdpa")
    assert "eager" in caught.value.allowed
    assert caught.value.remedy == "set engine.attention=auto"
    assert choose(model, "eager").name == "eager"


@pytest.mark.parametrize("wanted", ["sdpa", "eager", "cpu"])
def test_what_is_configured_is_what_the_model_computes_with(wanted):
    model = tiny("bert")
    chosen = choose(model, wanted)
    assert (chosen.name, chosen.packed) == (wanted, False)
    assert model.config._attn_implementation == {"cpu": attention._CPU}.get(wanted, wanted)


@pytest.mark.parametrize(
    ("obstacle", "kind", "circumstances"),
    [
        ("its kernel needs a GPU", "bert", {"half": True}),
        ("its kernel needs bf16", "bert", {"device": GPU}),
        ("one output for a whole row", "bert", {"device": GPU, "half": True, "per_token": False}),
        ("roberta models were not tried with it", "roberta", {"device": GPU, "half": True}),
    ],
)
def test_varlen_is_refused_with_its_reason_and_auto_tells_the_same(obstacle, kind, circumstances):
    model = tiny(kind)
    with pytest.raises(ConfigError, match=rf"engine\.attention=varlen, but .*{obstacle}"):
        choose(model, "varlen", **circumstances)
    assert model.config._attn_implementation == "sdpa"
    if "device" in circumstances:
        chosen = choose(model, "auto", **circumstances)
        assert chosen.name == "sdpa"
        assert obstacle in chosen.reason
        assert "not varlen" in chosen.reason


def test_auto_is_varlen_on_a_gpu_with_bf16():
    model = tiny("bert")  # only asked, not run
    chosen = choose(model, "auto", GPU, half=True)
    assert (chosen.name, chosen.packed) == ("varlen", True)
    assert "drops no attention weights" in chosen.reason


def test_cpu_attention_is_refused_on_a_gpu():
    with pytest.raises(ConfigError, match=r"engine\.attention=cpu, but its dropout is for CPUs"):
        choose(tiny("bert"), "cpu", GPU, half=True)


LOAD = """
import sys
import torch
from transformers import AutoModelForTokenClassification
model = AutoModelForTokenClassification.from_pretrained(sys.argv[1]).eval()
assert not any(name.split(".")[0] in ("training", "agent") for name in sys.modules)
print(model.config._attn_implementation, model(input_ids=torch.arange(3, 9)[None]).logits.sum().item())
"""


@pytest.mark.parametrize("name", [attention._CPU, attention._VARLEN])
def test_saved_models_know_nothing_of_our_kernels(name, tmp_path):
    model = tiny("bert")
    attention._set_implementation(model, name)
    model.save_pretrained(tmp_path)
    assert all(b"bert_agent" not in file.read_bytes() for file in tmp_path.iterdir())
    run = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path)], cwd="/", capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    own, total = run.stdout.split()
    assert own == "sdpa"
    choose(model, "sdpa")
    assert float(total) == pytest.approx(model(input_ids=torch.arange(3, 9)[None]).logits.sum().item(), abs=1e-5)
