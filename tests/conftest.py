"""What every test shares: one thread each, since the tests run side by side on the machine's cores."""

import torch

torch.set_num_threads(1)
