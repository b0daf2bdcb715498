"""Tiny models, tokenizers and text, built here: nothing is downloaded."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModelForMaskedLM,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

WORDS = [f"w{i}" for i in range(95)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SPECIAL_IDS = list(range(5))
VOCABULARY = len(SPECIAL) + len(WORDS)

SIZES = {"num_hidden_layers": 4, "num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 64}
IDS = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def tokenizer() -> PreTrainedTokenizerFast:
    """Words w0 ... w94 behind five special tokens."""
    vocabulary = {word: i for i, word in enumerate(SPECIAL + WORDS)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.WordPiece()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def config(family: str, **changes) -> PretrainedConfig:
    """A configuration of four layers, hidden size 32, four heads."""
    if family == "distilbert":
        sizes = {"n_layers": 4, "n_heads": 4, "dim": 32, "hidden_dim": 64, "dropout": 0.0, "attention_dropout": 0.0}
        classes = {"num_hidden_layers": "n_layers", "hidden_size": "dim", "num_attention_heads": "n_heads"}
        sizes |= {classes.get(key, key): value for key, value in changes.items()}
        return DistilBertConfig(vocab_size=VOCABULARY, max_position_embeddings=64, pad_token_id=0, **sizes)
    kinds = {
        "bert": (BertConfig, NO_DROPOUT | {"pad_token_id": 0}),
        "roberta": (RobertaConfig, NO_DROPOUT | {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}),
        "electra": (ElectraConfig, NO_DROPOUT | {"pad_token_id": 0, "embedding_size": 16}),
        "modernbert": (ModernBertConfig, IDS | {"global_attn_every_n_layers": 2, "local_attention": 8}),
    }
    kind, extra = kinds[family]
    sizes = {"max_position_embeddings": 64} | SIZES | extra | changes
    return kind(vocab_size=VOCABULARY, **sizes)


def masked_lm(family: str = "bert", seed: int = 0, **changes) -> PreTrainedModel:
    """A masked language model at random, spread widely enough for its answers to differ."""
    torch.manual_seed(seed)
    model = AutoModelForMaskedLM.from_config(config(family, initializer_range=0.2, **changes))
    return model.eval()


def documents(count: int = 60, seed: int = 0) -> list[str]:
    """Texts of 20 to 59 words, in which a word is often followed by the next one."""
    generator = torch.Generator().manual_seed(seed)
    texts = []
    for _ in range(count):
        length = int(torch.randint(20, 60, (), generator=generator))
        first = int(torch.randint(0, 95, (), generator=generator))
        jumps = torch.randint(0, 3, (length,), generator=generator).cumsum(0)
        texts.append(" ".join(WORDS[(first + int(jump)) % 95] for jump in jumps))
    return texts


def rows(count: int = 32, length: int = 16, seed: int = 0) -> list[dict[str, list[int]]]:
    """Packed rows of random words."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(5, VOCABULARY, (count, length - 2), generator=generator).tolist()
    return [{"input_ids": [2, *ids, 3]} for ids in words]
