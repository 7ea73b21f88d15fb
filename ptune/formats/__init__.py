"""Prompts of other libraries: read as a `SoftPrompt`, and written where the other side can say it.

    peft_folder.py   adapter_config.json and its weights, read and written       start here
    peft_import.py   a PEFT folder -> a prompt with PEFT's own logits
    peft_export.py   a prompt -> a PEFT folder with ptune's logits, or the reason why not
    thudm.py         checkpoints of the P-tuning and P-tuning v2 code -> a prompt
    placing.py       flat keys and values -> attention sites, and back; templates; bases
    two_sided.py     PEFT's prefixes for encoder-decoders
    heads.py         transformers' classification heads -> ptune's, and back
    rotation.py      keys of rotary models, moved to other positions

Imports neither of those libraries. Nothing is unpickled.
"""

from ptune.formats.peft_export import export_peft
from ptune.formats.peft_import import import_peft
from ptune.formats.thudm import import_thudm

__all__ = ["export_peft", "import_peft", "import_thudm"]
