"""4-bit weights unpacked once: what QLoRA learns on, at the speed of LoRA.

Where there is room for 16-bit weights, as mostly in RAM, unpacking them anew in every step is work
for nothing: the values are the same every time.
"""

import torch
from torch import nn
from transformers import PreTrainedModel

BLOCK = 64


@torch.no_grad()
def round_to_nf4(model: PreTrainedModel, *, double_quant: bool) -> None:
    """Give the linear layers the very weights that 4 bits (NF4) would be unpacked to, in place.

    All but the output head, as in 4-bit loading (Dettmers et al. 2023).
    """
    # only here: importing it takes longer than loading a small model
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    head = model.get_output_embeddings()
    for layer in model.modules():
        if type(layer) is nn.Linear and layer is not head:
            packed, state = quantize_4bit(
                layer.weight.data,
                blocksize=BLOCK,
                quant_type="nf4",
                compress_statistics=double_quant,
            )
            layer.weight.copy_(dequantize_4bit(packed, state))
