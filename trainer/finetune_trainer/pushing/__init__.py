"""Pushing a finished model to object stores, the Hugging Face hub and OCI registries.

`check_places` before training, `deliver` after it; both belong to the supervisor of the first node. `places` says
where, `content` what, `object_store`, `hub` and `oci` how, and `delivery` keeps account. A push runs as a process of
its own, `python -m finetune_trainer.pushing`, so that SIGTERM ends it whatever library it is in.
"""

from finetune_trainer.pushing.delivery import check_places, missing
from finetune_trainer.pushing.process import deliver

__all__ = ["check_places", "deliver", "missing"]
