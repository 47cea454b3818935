"""Initialises PyTorch's vector functions on one thread, before several threads use them."""


def compute_first_cosine() -> None:
    """Call this before any other computation of the process.

    If the first call in a process runs on several threads, one of them may get a less exact
    version. In 6 of 1,500 processes the second half of a rotary table was off by up to 1.5e-4,
    which changed the digest; with this call in none of 4,000 (torch 2.13.0, two threads, busy
    CPUs).
    """
    import torch

    torch.cos(torch.zeros(16))  # too few to be split among threads
