"""Small mixtures of experts, and the dense model beside them."""

from dataclasses import replace

from recipes.families.model_config import ModelConfig

MIXTURE = ModelConfig(
    num_layers=4,
    hidden_size=64,
    ffn_hidden_size=128,
    num_attention_heads=4,
    vocab_size=1000,
    max_position_embeddings=64,
    num_moe_experts=4,
)
PARAM_MOE = replace(
    MIXTURE,
    family="param_moe",
    normalization="LayerNorm",
    activation="gelu",
    add_bias_linear=True,
    position_embedding_type="learned_absolute",
    moe_load_loss_coeff=0.1,
)
DENSE = replace(MIXTURE, num_moe_experts=None)
