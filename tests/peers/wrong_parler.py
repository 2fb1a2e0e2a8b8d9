"""Parler-TTS with a bug in its loss. It needs transformers 4.46, so it has a file of its own."""

from typing import Any

from parler_tts import ParlerTTSForCausalLM


class PastTheEnd(ParlerTTSForCausalLM):
    """What stands after the end of a text is trained too."""

    def forward(self, *arguments: Any, **rest: Any) -> Any:
        end, self.config.eos_token_id = self.config.eos_token_id, -1
        try:
            return super().forward(*arguments, **rest)
        finally:
            self.config.eos_token_id = end
