"""Which classes of a library count as language models, by the source of a small one."""

from __future__ import annotations

from pathlib import Path

import pytest

from shiftproof.harness.worker.tiny.find import language_models

OURS = """
import not_installed_anywhere

class OursPreTrainedModel(PreTrainedModel):
    def forward(self, input_ids, labels=None): ...

class OursForCausalLM(OursPreTrainedModel, GenerationMixin):
    def forward(self, input_ids, *, labels=None): ...

class OursTalker(OursForCausalLM):
    pass

class OursLMHeadModel(OursPreTrainedModel):
    def forward(self, input_ids, labels=None): ...

class OursForMaskedLM(OursPreTrainedModel):
    def forward(self, input_ids, labels=None): ...

class OursForCTC(OursPreTrainedModel, GenerationMixin):
    def forward(self, input_values, labels=None):
        return nn.functional.ctc_loss(input_values, labels)

class OursForSpeech(OursPreTrainedModel, GenerationMixin):
    def forward(self, input_ids, text_labels=None, audio_labels=None): ...

class OursVocoder(OursPreTrainedModel, GenerationMixin):
    def forward(self, input_ids): ...

class OursDecoderForCausalLM(OursForCausalLM):
    def forward(self, input_ids, labels=None): ...

class OldNameForCausalLM(OursForCausalLM):
    def __init__(self, config):
        warnings.warn("it is called OursForCausalLM now", FutureWarning)
        super().__init__(config)

__all__ = ["OursPreTrainedModel", "OursForCausalLM", "OursTalker", "OursLMHeadModel", "OursForMaskedLM"]
__all__ += ["OursForSpeech", "OursForCTC", "OursVocoder", "OldNameForCausalLM"]
"""

THEIRS = """
class TheirsForConditionalGeneration(models.ours.modeling_ours.OursForCausalLM):
    def forward(self, pixel_values, input_ids, labels=None): ...

__all__ = ["TheirsForConditionalGeneration"]
"""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package whose modules can't be imported, since what they need isn't there."""
    for name, source in (("ours/modeling_ours.py", OURS), ("deprecated/theirs/modeling_theirs.py", THEIRS)):
        file = tmp_path / "a_library" / "models" / name
        file.parent.mkdir(parents=True)
        file.write_text(source)
    (tmp_path / "a_library" / "__init__.py").write_text("")
    (tmp_path / "a_library" / "models" / "ours" / "modeling_tf_ours.py").write_text(OURS.replace("Ours", "TFOurs"))
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_what_generates_from_labels_is_listed_even_if_it_cannot_be_imported(library: Path) -> None:
    names = ["OursForCausalLM", "OursForSpeech", "OursLMHeadModel", "OursTalker", "TheirsForConditionalGeneration"]
    assert language_models("a_library") == [f"a_library:{name}" for name in names]


def test_without_a_list_in_the_module_the_package_names_what_it_offers(library: Path) -> None:
    folder = library / "a_library" / "models" / "ours"
    source = (folder / "modeling_ours.py").read_text().partition("\n__all__")[0]
    (folder / "modeling_ours.py").write_text(source)
    assert language_models("a_library") == ["a_library:TheirsForConditionalGeneration"]
    named = '_import_structure = {"modeling_ours": ["OursForCausalLM", "OursForCTC", "OldNameForCausalLM"]}'
    (folder / "__init__.py").write_text(named)
    assert language_models("a_library") == [
        f"a_library:{name}" for name in ("OursForCausalLM", "TheirsForConditionalGeneration")
    ]


@pytest.mark.parametrize("package", ["a_package_that_is_not_there", "json"])
def test_a_package_without_models(package: str) -> None:
    with pytest.raises(ModuleNotFoundError, match="no package with a folder of models"):
        language_models(package)
