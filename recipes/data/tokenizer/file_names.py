"""What the files of tokenizers are called, and which libraries read them."""

SENTENCEPIECE, HUGGING_FACE = "sentencepiece", "huggingface"
LIBRARIES = (SENTENCEPIECE, HUGGING_FACE)
TOKENIZER_MODEL = "tokenizer.model"
TOKENIZER_JSON = "tokenizer.json"
# Of a Hugging Face tokenizer, tokenizer.json decides; the others name special tokens or are carried along.
HUGGING_FACE_FILES = (
    TOKENIZER_JSON,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template.jinja",
)
