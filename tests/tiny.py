"""Tiny models, tokenizers and text, built here: nothing is downloaded."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    ModernBertConfig,
    MPNetConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    RobertaConfig,
)

WORDS = [f"w{i}" for i in range(95)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SPECIAL_IDS = list(range(5))
VOCABULARY = len(SPECIAL) + len(WORDS)

SIZES = {"num_hidden_layers": 4, "num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 128}
IDS = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}

END_OF_TEXT = "<|endoftext|>"  # id 0; there is neither a beginning-of-text nor a padding token, as in GPT-2 and Qwen
CAUSAL_VOCABULARY = 320
CAUSAL_FAMILIES = {
    "llama": LlamaConfig,
    "qwen3": Qwen3Config,
    "gemma2": Gemma2Config,
    "gpt2": GPT2Config,
    "mistral": MistralConfig,
}


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
        "deberta-v2": (DebertaV2Config, NO_DROPOUT | {"pad_token_id": 0, "relative_attention": True}),
        "mpnet": (MPNetConfig, NO_DROPOUT | {"pad_token_id": 0}),
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


def causal_tokenizer() -> PreTrainedTokenizerFast:
    """Pairs of bytes merged, as GPT-2's are: END_OF_TEXT, 256 bytes and what `documents` often hold, 320 in all."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=CAUSAL_VOCABULARY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(documents(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END_OF_TEXT)


def causal_config(family: str, **changes) -> PretrainedConfig:
    """A configuration of four layers, hidden size 32, four heads, for the vocabulary of `causal_tokenizer`."""
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    heads = {"num_key_value_heads": 2, "head_dim": 8}
    extra = {
        "llama": {"num_key_value_heads": 2},
        "qwen3": heads,
        "gemma2": heads | {"query_pre_attn_scalar": 8, "sliding_window": 8},
        "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
        "mistral": {"num_key_value_heads": 2, "sliding_window": 8},
    }[family]
    sizes = {"vocab_size": CAUSAL_VOCABULARY, "max_position_embeddings": 64} | SIZES | ends | extra | changes
    if family == "gpt2":
        sizes["n_inner"] = sizes.pop("intermediate_size")
    return CAUSAL_FAMILIES[family](**sizes)


def tiny_causal(family: str = "llama", seed: int = 0, **changes) -> PreTrainedModel:
    """A causal language model at random, spread widely enough for its answers to differ."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(causal_config(family, initializer_range=0.2, **changes))
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


def sentence_encoder(folder: Path, pooling: str = "mean", max_length: int = 24, **changes) -> Path:
    """A folder of sentence-transformers: a BERT at random, its pooling, and vectors of length 1.

    Args:
        max_length: tokens that the model reads of a text.
        changes: of the BERT's configuration.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    masked_lm(**changes).base_model.save_pretrained(folder / "body")
    tokenizer().save_pretrained(folder / "body")
    body = Transformer(str(folder / "body"), max_seq_length=max_length)
    model = SentenceTransformer(modules=[body, Pooling(body.get_embedding_dimension(), pooling), Normalize()])
    model.save_pretrained(str(folder / "encoder"), create_model_card=False)
    return folder / "encoder"
