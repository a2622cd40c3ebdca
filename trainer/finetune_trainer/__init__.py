"""The program in the trainer image: prepares data, fine-tunes, evaluates, and survives interruptions."""
