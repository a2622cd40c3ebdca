"""Cleaning: row by row, as rows are read, and every step counts what it changed and what it dropped."""

from finetune_trainer.data.clean.cleaner import Cleaner, cleaner_of, input_cleaner

__all__ = ["Cleaner", "cleaner_of", "input_cleaner"]
