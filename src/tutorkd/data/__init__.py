"""From text to batches: corpora, packing, masking."""

from tutorkd.data.corpus import CorpusCounts, PackedCorpus, prepare_corpus

__all__ = ["CorpusCounts", "PackedCorpus", "prepare_corpus"]
