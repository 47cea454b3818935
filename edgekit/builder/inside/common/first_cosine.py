"""Makes PyTorch's vector functions ready on one thread, before several need them at once."""


def compute_first_cosine() -> None:
    """To be called before anything is computed.

    Where the first call in a process runs on several threads, one of them may get a less exact
    version. 6 of 1,500 processes had a rotary table whose second half was off by up to 1.5e-4, and
    so another digest; after this call none of 4,000 (torch 2.13.0, two threads, busy CPUs).
    """
    import torch

    torch.cos(torch.zeros(16))  # so few that they are not shared out
