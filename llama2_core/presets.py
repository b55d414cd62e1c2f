"""Shapes by name. Llama 2 Table 1; 34B as in Code Llama; 15M, 110M llama2.c's; 1.1B TinyLlama's; 0.9M, 5M ours."""

from llama2_core.config import ModelConfig

LLAMA_7B = ModelConfig(vocab_size=32000, dim=4096, n_layers=32, n_heads=32, n_kv_heads=32)
LLAMA_13B = ModelConfig(vocab_size=32000, dim=5120, n_layers=40, n_heads=40, n_kv_heads=40)
LLAMA_34B = ModelConfig(vocab_size=32000, dim=8192, n_layers=48, n_heads=64, n_kv_heads=8)
LLAMA_70B = ModelConfig(
    vocab_size=32000,
    dim=8192,
    n_layers=80,
    n_heads=64,
    n_kv_heads=8,
    multiple_of=4096,
    ffn_dim_multiplier=1.3,
)
TINY_0_9M = ModelConfig(
    vocab_size=1024,
    dim=128,
    n_layers=4,
    n_heads=4,
    n_kv_heads=2,
    multiple_of=128,
    max_seq_len=128,
    tied_embeddings=True,
)
TINY_5M = ModelConfig(
    vocab_size=8192, dim=192, n_layers=8, n_heads=6, n_kv_heads=6, max_seq_len=512, tied_embeddings=True
)
STORIES_15M = ModelConfig(
    vocab_size=32000, dim=288, n_layers=6, n_heads=6, n_kv_heads=6, max_seq_len=256, tied_embeddings=True
)
STORIES_110M = ModelConfig(
    vocab_size=32000, dim=768, n_layers=12, n_heads=12, n_kv_heads=12, max_seq_len=1024, tied_embeddings=True
)
TINY_LLAMA_1_1B = ModelConfig(
    vocab_size=32000, dim=2048, n_layers=22, n_heads=32, n_kv_heads=4, max_seq_len=2048
)

PRESETS = {
    "0.9M": TINY_0_9M,
    "5M": TINY_5M,
    "15M": STORIES_15M,
    "110M": STORIES_110M,
    "1.1B": TINY_LLAMA_1_1B,
    "7B": LLAMA_7B,
    "13B": LLAMA_13B,
    "34B": LLAMA_34B,
    "70B": LLAMA_70B,
}
