"""What the files of tokenizers are called, and which libraries read them."""

SENTENCEPIECE, HUGGING_FACE = "sentencepiece", "huggingface"
LIBRARIES = (SENTENCEPIECE, HUGGING_FACE)
TOKENIZER_MODEL = "tokenizer.model"
TOKENIZER_JSON = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
# What may name tokens that a Hugging Face tokenizer's vocabulary does not have.
NAMING_FILES = (TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json")
# Of a Hugging Face tokenizer, tokenizer.json decides; the others name tokens or are carried along.
CHAT_TEMPLATE = "chat_template.jinja"
HUGGING_FACE_FILES = (TOKENIZER_JSON, *NAMING_FILES, "generation_config.json", CHAT_TEMPLATE)
