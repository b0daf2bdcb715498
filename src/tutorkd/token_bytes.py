"""The bytes of text that each token of a causal model's tokenizer stands for."""

import json

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from tutorkd.data.packing import backend_of
from tutorkd.errors import UserError

SPACE = "▁"  # what tokenizers of SentencePiece write for it


def _rules(backend: Tokenizer) -> str:
    """How tokens become text, and text tokens, as a tokenizer.json has it."""
    state = json.loads(backend.to_str())
    return json.dumps([state["decoder"], state["pre_tokenizer"], state["normalizer"]], ensure_ascii=False)


def bytes_of_tokens(tokenizer: PreTrainedTokenizerBase) -> list[bytes | None]:
    """The bytes of each token by id; None of a special token, which stands for no text, and of an id without a token.

    Raises:
        UserError: the tokenizer isn't a fast one, or its tokens don't say it.

    Example:
        A causal tokenizer of pairs of bytes lies in the folder "decoder".

        >>> from transformers import AutoTokenizer
        >>> from tutorkd.token_bytes import bytes_of_tokens
        >>> tokenizer = AutoTokenizer.from_pretrained("decoder")
        >>> b"".join(bytes_of_tokens(tokenizer)[token] for token in tokenizer("Äpfel, Käse")["input_ids"]).decode()
        'Äpfel, Käse'
    """
    backend, letters = backend_of(tokenizer), None
    if "ByteLevel" in (rules := _rules(backend)):  # one letter for each byte, as in GPT-2, Llama 3 and Qwen
        letters = {letter: byte for byte, letter in bytes_to_unicode().items()}
    elif SPACE not in rules:  # characters and a letter for the space, as in Llama 2, Mistral and Gemma
        name = tokenizer.name_or_path or type(tokenizer).__name__
        raise UserError(
            f"tokenizer {name}: its tokens don't say which bytes of a text they stand for, so they can't be compared "
            "with those of another tokenizer; byte-level BPE and SentencePiece can"
        )
    added = backend.get_added_tokens_decoder()
    vocabulary = backend.get_vocab()
    found: list[bytes | None] = [None] * (max(vocabulary.values()) + 1)
    for token, index in vocabulary.items():
        if index in added:
            found[index] = None if added[index].special else added[index].content.encode()
        elif letters is None:
            found[index] = _of_characters(token)
        elif all(letter in letters for letter in token):
            found[index] = bytes(letters[letter] for letter in token)
    return found


def _of_characters(token: str) -> bytes:
    """What a token of SentencePiece stands for: a byte, ``<0x0A>``, or characters."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace(SPACE, " ").encode()
