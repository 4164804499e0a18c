"""What every test shares."""

import os

# Two workers on two cores: threads of their own would only fight, in the processes that tests
# start too. Set before torch reads it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)
