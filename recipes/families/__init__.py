"""One torch-free file per model family: its settings, the table of its tensors, its Hugging Face config.

The layers of a family are in recipes/model/families; docs/add-a-model-family.md shows how to add one.
"""
