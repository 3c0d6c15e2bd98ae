"""What megatron-core needs without Transformer Engine, and without CUDA: the only monkey patching of the project.

Everywhere:
1. `moe_utils.te_general_gemm` is undefined without Transformer Engine, and with it takes no CPU tensors: None selects
   the plain matrix product where either is so.
2. `jit_fuser` (torch.compile) is off: it compiles the router's token counter, a one-line addition, for 15 seconds.
3. Sequence parallelism forks the CUDA random state around dropout: megatron's own tracker for inference, which forks
   nothing, is chosen, since there is no dropout.
On a machine without CUDA:
4. `torch.cuda.current_device` yields the CPU device (megatron allocates router buffers and moves weights with it).
5. The pipeline schedules make a token counter with `torch.zeros([], device="cuda")`: they get a `torch` whose `zeros`
   puts it on the CPU.
6. Point-to-point calls between pipeline stages end with `torch.cuda.synchronize()`, also where their own switch for it
   (`batch_p2p_sync`) is off: it does nothing.
(Core attention, which does not run on CPU either, is replaced by the layer spec: see layers.py.)
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch

_installed = False


def install() -> None:
    """Applies the patches once."""
    global _installed
    if _installed:
        return
    without_cuda = not torch.cuda.is_available()
    if without_cuda:
        torch.cuda.current_device = lambda: torch.device("cpu")
        torch.cuda.synchronize = lambda device=None: None
    # Missing optional accelerators (apex, Transformer Engine) are announced by a dozen import-time warnings.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("megatron.core").setLevel(logging.ERROR)
        import megatron.core.jit

        megatron.core.jit.disable_jit_fuser()
        from megatron.core.pipeline_parallel import schedules
        from megatron.core.tensor_parallel.random import initialize_rng_tracker
        from megatron.core.transformer.moe import moe_utils, router

    if without_cuda or not hasattr(moe_utils, "te_general_gemm"):
        moe_utils.te_general_gemm = None
    compiled = router.TopKRouter._apply_expert_bias
    # The decorator ran before disable_jit_fuser when something imported the router first.
    router.TopKRouter._apply_expert_bias = getattr(compiled, "_torchdynamo_orig_callable", compiled)
    if without_cuda:
        schedules.torch = _TorchWithoutCuda()
    initialize_rng_tracker(inference_rng_tracker=True)
    _installed = True


class _TorchWithoutCuda:
    """The torch module, but `zeros(device="cuda")` makes CPU tensors."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def zeros(*size: Any, device: Any = None, **options: Any) -> torch.Tensor:
        return torch.zeros(*size, device="cpu" if device == "cuda" else device, **options)
