"""Networks: the hookable transformer, its configuration, its training module, and transformers made by hand."""
