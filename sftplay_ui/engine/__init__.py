"""The engine: everything SFT-Play can do, without a window.

The modules of this folder never import torch, so the window and the command line may use them.
`worker/` is the torch world: it lives in processes of its own and is reached only through runs.
"""
