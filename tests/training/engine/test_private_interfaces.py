"""Private parts of libraries that training uses: each test names the version that the code was written for.

A test that fails after an upgrade means: read the file that its message names against the new version, then raise the version here
and the upper bound in pyproject.toml.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import os
import subprocess
import sys

import pytest
import torch

CODE = {
    "deepspeed": ("0.19", "training/engine/deepspeed_internals.py"),
    "ray": ("2.60", "training/engine/ray_train_internals.py and AshaConfig.scheduler in training/search/tuner.py"),
    "transformers": ("5", "training/model/attention.py (registering and setting attention implementations)"),
    "peft": ("0.21", "training/model/adapters.py (names of weights)"),
    "torch": (
        "2",
        "training/engine/engine_config.py and thread_parallel.py (torch.cpu._is_*, sparse _indices and _values)",
    ),
}


def changed(package: str, what: str) -> str:
    version, file = CODE[package]
    return (
        f"{file} was written for {package} {version}; in {package} {importlib.metadata.version(package)} {what}. "
        "Read it against the new version, then change it, this test and the bound in pyproject.toml"
    )


@pytest.mark.parametrize("package", CODE)
def test_the_installed_version_is_the_one_that_the_code_was_written_for(package: str) -> None:
    installed = importlib.metadata.version(package)
    if package == "transformers" and installed.startswith("4.57."):  # the environment of the optimum extra
        return
    assert f"{installed}.".startswith(f"{CODE[package][0]}."), changed(package, "private parts may have changed")


def test_deepspeed_links_optimizer_states_lazily_in_stages_1_and_2() -> None:
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    source = inspect.getsource(DeepSpeedZeroOptimizer)
    for name in (
        "_hp_optimizer_states_linked",
        "_lazy_init_hp_params_optimizer_state",
        "single_partition_of_fp32_groups",
    ):
        assert name in source, changed("deepspeed", f"DeepSpeedZeroOptimizer lacks {name}")


def test_deepspeed_keeps_flat_groups_in_stage_3_and_states_can_be_set_by_partition() -> None:
    from deepspeed import utils
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3

    name = "fp32_partitioned_groups_flat"
    assert name in inspect.getsource(DeepSpeedZeroOptimizer_Stage3), changed("deepspeed", f"stage 3 lacks {name}")
    for name in ("safe_get_full_optimizer_state", "safe_set_full_optimizer_state", "safe_get_local_optimizer_state", "safe_set_local_optimizer_state"):  # fmt: skip
        assert hasattr(utils, name), changed("deepspeed", f"deepspeed.utils lacks {name}")


def test_deepspeed_s_engine_can_leave_the_all_reduce_to_us_and_the_compiler_can_be_skipped() -> None:
    import deepspeed

    source = inspect.getsource(deepspeed.DeepSpeedEngine)
    for name in ("self.enable_backward_allreduce", "def zero_optimization_stage", "self.global_rank"):
        assert name in source, changed("deepspeed", f"DeepSpeedEngine lacks {name}")
    assert isinstance(deepspeed.ops.__compatible_ops__, dict), changed("deepspeed", "ops.__compatible_ops__ is no dict")


def test_deepspeed_does_without_mlflow_and_torch_s_compiler_which_can_be_imported_afterwards() -> None:
    code = (
        "import sys; from training.engine.deepspeed_internals import import_without_mlflow, skip_compilers; "
        "import_without_mlflow(); skip_compilers(); import deepspeed.autotuning, deepspeed.runtime.zero.muon.muon_optimizer; "
        "from deepspeed.runtime import compiler; import torch; assert compiler.compile() is torch.compile; "
        "print('torch._inductor.compile_fx' in sys.modules, 'mlflow' in sys.modules, deepspeed.autotuning.autotuner.has_mlflow); "
        "import mlflow"
    )
    environment = os.environ | {"DS_ACCELERATOR": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-3:] == ["False"] * 3, changed("deepspeed", "it needs torch's compiler or mlflow")


def test_ray_train_passes_chosen_variables_on_and_its_controller_can_be_aborted() -> None:
    from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE
    from ray.train.v2._internal.execution.controller.controller import TrainController
    from ray.train.v2.api.exceptions import WorkerGroupError

    assert isinstance(ENV_VARS_TO_PROPAGATE, set), changed("ray", "ENV_VARS_TO_PROPAGATE is no set")
    assert hasattr(TrainController, "abort"), changed("ray", "TrainController has no method abort")
    failure = ValueError("of a worker")
    failures = getattr(WorkerGroupError("failed", {0: failure}), "worker_failures", None)
    assert failures == {0: failure}, changed("ray", "errors lack worker_failures")


def test_ray_train_starts_a_process_for_datasets_and_does_without_it() -> None:
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks import DatasetsCallback

    from training.engine.ray_train_internals import trainer_without_datasets

    before, after = (
        [type(one) for one in kind(print)._create_default_callbacks()]
        for kind in (TorchTrainer, trainer_without_datasets())
    )
    assert DatasetsCallback in before, changed("ray", "no DatasetsCallback is among a trainer's callbacks")
    assert after == [kind for kind in before if kind is not DatasetsCallback]


def test_ray_tune_s_asha_learns_earlier_epochs_without_a_loop_of_its_own() -> None:
    from training.search.search_record import SearchRecord, Trial
    from training.search.tuner import AshaConfig

    trials = (Trial(number=1, settings={}, epochs={1: 0.9, 2: 0.95}), Trial(number=2, settings={}, epochs={1: 0.1}))
    scheduler = AshaConfig(grace_epochs=1, reduction_factor=2, epochs=4).scheduler(
        SearchRecord(config={}, data_digest="", trials=trials)
    )
    (bracket,) = scheduler._brackets
    recorded = {milestone: sorted(scores.values()) for milestone, scores in bracket._rungs}
    assert recorded[1] == [0.1, 0.9], changed("ray", "ASHA does not record what on_trial_result passes to it")


def test_transformers_takes_attention_implementations_by_name() -> None:
    from transformers import AttentionInterface, BertConfig, BertForTokenClassification
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    for registry in (AttentionInterface, AttentionMaskInterface):
        assert callable(registry.register), changed("transformers", f"{registry.__name__} has no method register")
    assert callable(sdpa_mask), changed("transformers", "masking_utils has no sdpa_mask")
    tiny = BertConfig(vocab_size=8, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4)
    model = BertForTokenClassification(tiny)
    model.set_attn_implementation("eager")
    assert model.config._attn_implementation == "eager", changed("transformers", "_attn_implementation does not say it")


def test_peft_names_weights_as_merging_expects() -> None:
    from transformers import BertConfig, BertForTokenClassification

    from training.model.adapters import LoraConfig, adapt

    tiny = BertConfig(vocab_size=8, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4)
    names = adapt(BertForTokenClassification(tiny), trainable="all", lora=LoraConfig(rank=1)).state_dict().keys()
    for part in ("base_model.model.", ".modules_to_save.default.", ".base_layer.", ".lora_A.default.weight", ".original_module."):  # fmt: skip
        assert any(part in name for name in names), changed("peft", f"no weight has {part!r} in its name")


def test_torch_tells_what_the_cpu_multiplies_and_gives_rows_of_sparse_gradients() -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        assert isinstance(getattr(torch.cpu, name)(), bool), changed("torch", f"torch.cpu.{name} is no function")
    table = torch.nn.Embedding(4, 2, sparse=True)
    table(torch.tensor([1, 3])).sum().backward()
    assert table.weight.grad._indices().tolist() == [[1, 3]], changed("torch", "sparse gradients have no _indices")
    assert table.weight.grad._values().shape == (2, 2), changed("torch", "sparse gradients have no _values")
