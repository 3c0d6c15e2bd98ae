"""What megatron-core needs on a machine without CUDA: the only monkey patching of the project.

1. `torch.cuda.current_device` yields the CPU device (megatron allocates router buffers and moves weights with it).
2. `moe_utils.te_general_gemm` is undefined without Transformer Engine: None selects the plain matrix product.
3. `jit_fuser` (torch.compile) is off: it compiles the router's token counter, a one-line addition, for 15 seconds.
(Core attention, the third thing that does not run on CPU, is replaced by the layer spec: see layers.py.)
"""

from __future__ import annotations

import logging
import warnings

import torch

_installed = False


def install() -> None:
    """Applies the patches once. With CUDA present it does nothing."""
    global _installed
    if _installed or torch.cuda.is_available():
        return
    torch.cuda.current_device = lambda: torch.device("cpu")
    # Missing optional accelerators (apex, Transformer Engine) are announced by a dozen import-time warnings.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("megatron.core").setLevel(logging.ERROR)
        import megatron.core.jit

        megatron.core.jit.disable_jit_fuser()
        from megatron.core.transformer.moe import moe_utils, router

    if not hasattr(moe_utils, "te_general_gemm"):
        moe_utils.te_general_gemm = None
    compiled = router.TopKRouter._apply_expert_bias
    # The decorator ran before disable_jit_fuser when something imported the router first.
    router.TopKRouter._apply_expert_bias = getattr(compiled, "_torchdynamo_orig_callable", compiled)
    _installed = True
