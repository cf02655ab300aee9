"""Too large a batch: tell an allocator's refusal from other errors, and say what to do."""

import torch


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocator had not the memory: CUDA's, PyTorch's on the CPU, or Python's."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
