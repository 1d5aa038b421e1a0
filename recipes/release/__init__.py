"""A folder of a finished run to give to others: the model in every form, its card, what proves them."""
