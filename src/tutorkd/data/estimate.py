"""How many rows a text will give, told before it is tokenised, from parts of it."""

from collections.abc import Sequence

from tutorkd.data.encoders import RowEncoder
from tutorkd.data.packing import Encoder
from tutorkd.data.shards import Shard
from tutorkd.data.taught import TaughtEncoder

_SHARDS = 4  # spread over the text, which may be another at its end than at its beginning
_CHARACTERS = 100_000  # tokenised of each
_LARGEST = 1 << 26  # bytes; reading more takes longer than people wait for an estimate


def estimated_rows(shards: Sequence[Shard], encoder: RowEncoder, max_length: int) -> float | None:
    """Rows that a corpus of these shards gives, about; None where a part is so large that reading it would take long.

    Some shards are read whole, and of each some documents are tokenised, evenly spread. A text of one shard that is
    tokenised whole is counted, not estimated.
    """
    number = min(_SHARDS, len(shards))
    chosen = [shards[len(shards) * each // number] for each in range(number)]
    if any(shard.size > _LARGEST for shard in chosen):
        return None
    read = sum(shard.size for shard in chosen)
    rows = sum(_rows_of(shard, encoder, max_length) for shard in chosen)
    return rows * sum(shard.size for shard in shards) / max(read, 1)


def _rows_of(shard: Shard, encoder: RowEncoder, max_length: int) -> float:
    if not isinstance(encoder, Encoder):
        each = encoder.rows if isinstance(encoder, TaughtEncoder) else 1
        return each * sum(1 for _ in encoder.split(shard.read()))
    texts = list(encoder.split(shard.read()))
    characters = sum(map(len, texts))
    some = texts[:: max(1, characters // _CHARACTERS)]
    tokens = sum(len(ids) for text in some for ids in encoder(text[:_CHARACTERS]))
    seen = sum(min(len(text), _CHARACTERS) for text in some)
    return tokens * characters / max(seen, 1) / (max_length - 2 * encoder.framed)
