"""Token ids of a prompt, as the model read prompts and the beginnings of records in training."""

from __future__ import annotations

from typing import Any

from userdp.clients.tokenization import chat_template
from userdp.clients.tokenization.tokenizer import TokenizerEncode
from userdp.sim.common.errors import ConfigurationError


def ids(tokenizer: Any, text: str, *, chat: bool = False) -> list[int]:
    """The ids of one prompt: plain text, or a user's message in the tokenizer's chat template.

    A special token that is spelled out in plain text is ordinary characters, as in records. The
    empty text is the beginning of a text: the token that the tokenizer puts there, or else the one
    that ends the text before.

    Raises:
        ConfigurationError: the tokenizer has no chat template, or it refuses the message; or it has
            no token that stands before a text.
    """
    if chat and text:
        try:
            return chat_template.prompt(tokenizer, [{"role": "user", "content": text}])
        except ConfigurationError:
            raise
        except ValueError as error:
            raise ConfigurationError(f"prompt: {error}; change the prompt.") from None
    found = list(TokenizerEncode(tokenizer).beginning(text))
    if found:
        return found
    first = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    begin = next((token for token in first if token is not None), None)
    if begin is None:
        raise ConfigurationError(
            "prompt: the model's tokenizer has no token for the beginning of a text; name a prompt."
        )
    return [begin]
