"""Small data sets written for this project, as package data: `pkg://finetune_examples/<file>` in a manifest."""
