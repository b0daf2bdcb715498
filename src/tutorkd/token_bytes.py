"""The bytes of text that each token of a causal model's tokenizer stands for."""

import json
from collections.abc import Iterable
from typing import NamedTuple

from tokenizers import Encoding, Tokenizer
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from tutorkd.data.chats import answer_end
from tutorkd.data.packing import Encoder, backend_of
from tutorkd.errors import UserError

SPACE = "▁"  # what tokenizers of SentencePiece write for it
_LETTERS = bytes_to_unicode()  # of bytes, in byte-level tokenizers


def _is_byte_level(tokenizer: PreTrainedTokenizerBase, backend: Tokenizer) -> bool:
    """Whether tokens are written in one letter for each byte, as in GPT-2, Llama 3 and Qwen; those of SentencePiece, as
    in Llama 2, Mistral and Gemma, are of characters, with a letter for the space.

    Raises:
        UserError: for tokenizers of neither kind.
    """
    state = json.loads(backend.to_str())
    rules = json.dumps([state["decoder"], state["pre_tokenizer"], state["normalizer"]], ensure_ascii=False)
    if "ByteLevel" not in rules and SPACE not in rules:
        name = tokenizer.name_or_path or type(tokenizer).__name__
        raise UserError(
            f"tokenizer {name}: its tokens don't say which bytes of a text they stand for, so they can't be compared "
            "with those of another tokenizer; byte-level BPE and SentencePiece can"
        )
    return "ByteLevel" in rules


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
    backend = backend_of(tokenizer)
    return _texts(backend, _is_byte_level(tokenizer, backend))


def _texts(backend: Tokenizer, byte_level: bool) -> list[bytes | None]:
    letters = {letter: byte for byte, letter in _LETTERS.items()}
    added = backend.get_added_tokens_decoder()
    vocabulary = backend.get_vocab()
    found: list[bytes | None] = [None] * (max(vocabulary.values()) + 1)
    for token, index in vocabulary.items():
        if index in added:
            found[index] = None if added[index].special else added[index].content.encode()
        elif not byte_level:
            found[index] = _of_characters(token)
        elif all(letter in letters for letter in token):
            found[index] = bytes(letters[letter] for letter in token)
    return found


def _of_characters(token: str) -> bytes:
    """What a token of SentencePiece stands for: a byte, ``<0x0A>``, or characters."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace(SPACE, " ").encode()


def whole_characters(text: bytes) -> tuple[bytes, int, int]:
    """A text without the parts of characters at its ends, and how many bytes these have."""
    before = 0
    while before < min(len(text), 3) and 0x80 <= text[before] < 0xC0:
        before += 1
    behind = 0
    for count in range(1, min(3, len(text) - before) + 1):
        if (lead := text[-count]) >= 0xC0:
            behind = count if count < (2 if lead < 0xE0 else 3 if lead < 0xF0 else 4) else 0
            break
    return text[before : len(text) - behind], before, behind


class Tokens(NamedTuple):
    """A causal model's tokenizer whose tokens are known in bytes.

    Attributes:
        texts: of each id, as ``bytes_of_tokens``.
        by_bytes: the ids.
        end_id: of what ends a text or, in conversations, an answer.
        prefixed: whether it puts a space before a text.
        byte_level: whether its merges are of bytes.
    """

    encoder: Encoder
    texts: list[bytes | None]
    by_bytes: dict[bytes, int]
    end_id: int
    prefixed: bool
    byte_level: bool

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, chats: bool = False) -> "Tokens":
        """Take them out of a tokenizer, for text or for conversations.

        Raises:
            UserError: as ``bytes_of_tokens``, or if it has no end-of-text token.
        """
        encoder = Encoder.from_tokenizer(tokenizer, framed=False)
        byte_level = _is_byte_level(tokenizer, encoder.backend)
        found = _texts(encoder.backend, byte_level)
        encoder.backend.encode_special_tokens = True  # a special token's name in a text is text
        begun = b"".join(found[token] or b"" for token in encoder.backend.encode("a", add_special_tokens=False).ids)
        by_bytes = {text: token for token, text in enumerate(found) if text}
        end_id = answer_end(tokenizer) if chats else encoder.sep_id
        end_id = encoder.sep_id if end_id is None else end_id
        return cls(encoder, found, by_bytes, end_id, begun == b" a", byte_level)

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""
        return self.encoding(text).ids

    def encoding(self, text: str) -> Encoding:
        """The ids of a text, and where they stand in it."""
        return self.encoder.backend.encode(text, add_special_tokens=False)

    def spelled(self, text: bytes) -> tuple[int, ...]:
        """The tokens of what stands amid a text, which may begin and end amid a character; none where these don't give
        it back.
        """
        try:
            tokens = self.encode(text.decode())
            amid = self.written(tokens) == b" " + text  # a space that it puts before texts alone
        except UnicodeDecodeError:
            tokens, amid = [], True
        if amid:
            tokens = self._amid(text)
        return tuple(tokens) if self.written(tokens) == text else ()

    def _amid(self, text: bytes) -> list[int]:
        """The tokens by the merges alone, without what happens to a text before."""
        if self.byte_level:
            return self._merged("".join(map(_LETTERS.__getitem__, text)))
        whole, before, behind = whole_characters(text)
        parts = text[:before], text[len(text) - behind :]
        first, last = (
            [self.by_bytes[bytes([byte])] for byte in part if bytes([byte]) in self.by_bytes] for part in parts
        )
        return [*first, *self._merged(whole.decode(errors="replace").replace(" ", SPACE)), *last]

    def _merged(self, characters: str) -> list[int]:
        return [token.id for token in self.encoder.backend.model.tokenize(characters)] if characters else []

    def written(self, tokens: Iterable[int]) -> bytes:
        """The text that tokens stand for."""
        return b"".join(self.texts[token] or b"" for token in tokens)
