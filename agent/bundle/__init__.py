"""The bundle: the directory with an agent that training and compression write and serving reads.

It is a plain Hugging Face model directory plus the manifest `bundle.json`. It is written under a temporary name and renamed,
so that it is complete or absent; loading verifies the SHA-256 of every file.
"""

from agent.bundle.bundle_files import Draft, check_output, write_bundle
from agent.bundle.lineage import Lineage, installed_versions, lineage_now
from agent.bundle.loaded_bundle import Bundle
from agent.bundle.manifest import FORMAT_VERSION, MANIFEST, Evaluation, FileEntry, Manifest
from agent.bundle.model_variants import HARDWARE, ConvertedVariant, FirstPass, Hardware, OnnxVariant, Precision

__all__ = [
    "FORMAT_VERSION", "HARDWARE", "MANIFEST", "Bundle", "ConvertedVariant", "Draft", "Evaluation", "FileEntry", "FirstPass", "Hardware", "Lineage", "Manifest",
    "OnnxVariant", "Precision", "check_output", "installed_versions", "lineage_now", "write_bundle",
]  # fmt: skip
